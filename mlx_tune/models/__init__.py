"""Base models: the catalogue, their files on this machine, tokenizers and chat templates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_tune.models.bases import BaseInfo as BaseInfo
    from mlx_tune.models.bases import Say as Say
    from mlx_tune.models.bases import convert as convert
    from mlx_tune.models.bases import is_here as is_here
    from mlx_tune.models.bases import locate as locate
    from mlx_tune.models.bases import pull as pull
    from mlx_tune.models.bases import verify as verify
    from mlx_tune.models.catalogue import KNOWN as KNOWN
    from mlx_tune.models.catalogue import KnownBase as KnownBase
    from mlx_tune.models.load import Base as Base
    from mlx_tune.models.load import Quantisation as Quantisation
    from mlx_tune.models.load import load_tokenizer as load_tokenizer
    from mlx_tune.models.template import Renderer as Renderer
    from mlx_tune.models.tokenizer import Tokenizer as Tokenizer

_MODULES = {
    "bases": ("BaseInfo", "Say", "convert", "is_here", "locate", "pull", "verify"),
    "catalogue": ("KNOWN", "KnownBase"),
    "load": ("Base", "Quantisation", "load_tokenizer"),
    "template": ("Renderer",),
    "tokenizer": ("Tokenizer",),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: some of the modules load MLX."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
