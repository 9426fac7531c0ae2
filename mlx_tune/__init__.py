"""Teach a language model on your own Mac, again and again, without it forgetting.

``Store`` is the program as a library (docs/python.md). Importing it loads neither MLX nor
transformers; a method that needs them does.
"""

from typing import TYPE_CHECKING, Any

from mlx_tune import blas

if TYPE_CHECKING:
    from mlx_tune.library import Store as Store
    from mlx_tune.workflows.observer import TrainingObserver as TrainingObserver

__all__ = ["Store", "TrainingObserver", "__version__"]
__version__ = "0.1.0"

# Before anything can import MLX: its Linux backend binds to whatever BLAS is global by then.
blas.load()


def __getattr__(name: str) -> Any:
    """Import what is public on first use."""
    if name == "Store":
        from mlx_tune.library import Store

        return Store
    if name == "TrainingObserver":
        from mlx_tune.workflows.observer import TrainingObserver

        return TrainingObserver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
