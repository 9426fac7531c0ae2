"""Generation; the only caller of mlx-lm's generators."""
