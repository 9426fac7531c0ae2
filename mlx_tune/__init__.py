"""Teach a language model on your own Mac, again and again, without it forgetting."""

from mlx_tune import blas

__version__ = "0.1.0"

# Before anything can import MLX: its Linux backend binds to whatever BLAS is global by then.
blas.load()
