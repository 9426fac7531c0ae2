"""The configs that ship with the program, one a base model it knows."""

from pathlib import Path
from typing import Any

from mlx_tune.models.catalogue import KNOWN
from mlx_tune.settings import read_config

_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """Return ``configs/``: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def shipped_config(base: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the keys of the config for a base model; empty for one of your own.

    Args:
        base: A short name of the catalogue, a source it stands for, or anything else.
    """
    name = next((k.name for k in KNOWN.values() if base in (k.name, k.source)), None)
    if name is None:
        return "no config", {}
    return f"configs/{name}.yaml", read_config(config_folder() / f"{name}.yaml")
