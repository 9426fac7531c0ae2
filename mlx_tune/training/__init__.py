"""The training engine: adapter, batches, losses, optimizer and loop; no paths, no printing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_tune.training.adapter import Adapter as Adapter
    from mlx_tune.training.adapter import Factors as Factors
    from mlx_tune.training.batches import Batches as Batches
    from mlx_tune.training.batches import MicroBatch as MicroBatch
    from mlx_tune.training.batches import collate as collate
    from mlx_tune.training.config import TrainingConfig as TrainingConfig
    from mlx_tune.training.generic import Network as Network
    from mlx_tune.training.generic import attach as attach
    from mlx_tune.training.generic import network as network
    from mlx_tune.training.loop import Objective as Objective
    from mlx_tune.training.loop import Step as Step
    from mlx_tune.training.loop import Trainer as Trainer
    from mlx_tune.training.memory import Dimensions as Dimensions
    from mlx_tune.training.memory import MemoryPlan as MemoryPlan
    from mlx_tune.training.mixture import DataSource as DataSource
    from mlx_tune.training.mixture import Mixture as Mixture
    from mlx_tune.training.optimizer import AdamW as AdamW

_MODULES = {
    "adapter": ("Adapter", "Factors"),
    "batches": ("Batches", "MicroBatch", "collate"),
    "config": ("TrainingConfig",),
    "generic": ("Network", "attach", "network"),
    "loop": ("Objective", "Step", "Trainer"),
    "memory": ("Dimensions", "MemoryPlan"),
    "mixture": ("DataSource", "Mixture"),
    "optimizer": ("AdamW",),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: most of the modules load MLX."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
