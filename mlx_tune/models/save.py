"""Writes a model folder in MLX's format."""

from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlx_tune.models.load import Base


def save(folder: Path, base: Base, config: dict[str, Any]) -> None:
    """Write a model's weights as they stand, its config and its tokenizer.

    Args:
        folder: Exists and is empty, so that no stale shard can be read with the new ones.
        base: The model; its tokenizer carries the chat template with the date pinned.
        config: The config to write.
    """
    from mlx_lm.utils import save_config, save_model

    save_model(folder, base.model)
    save_config(dict(config), config_path=folder / "config.json")
    base.tokenizer.wrapper.save_pretrained(folder)
    generation = base.info.folder / "generation_config.json"
    if generation.exists():
        (folder / generation.name).write_bytes(generation.read_bytes())


def dequantise(model: nn.Module, config: dict[str, Any]) -> None:
    """Replace a model's quantised layers by 16-bit ones, in place; the config follows."""
    from mlx_lm.utils import dequantize_model

    dequantize_model(model)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
