"""A job's model in MLX, and what MLX says of memory and the device; imports no mlx_tune."""

import gc
import platform
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import load_model

from benchmarks.shapes import SHAPES, Shape
from benchmarks.sides.job import Job, Memory
from benchmarks.sides.resident import Resident


def load(job: Job) -> nn.Module:
    """Load the job's folder as mlx-lm does, or build its shape."""
    if job.model is None:
        return build(SHAPES[job.shape], dtype=job.dtype, seed=job.seed)
    model, _ = load_model(Path(job.model))
    return model


def build(shape: Shape, *, dtype: str, seed: int) -> llama.Model:
    """Build mlx-lm's Llama with random weights."""
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(shape.config()))
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    return model


class Watch:
    """Watches memory from the moment a base model lies ready and nothing is attached to it."""

    def __init__(self, model: nn.Module) -> None:
        gc.collect()
        mx.clear_cache()  # what loading left behind is neither weights nor training
        self._weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        self._resident = Resident()
        mx.reset_peak_memory()

    def memory(self) -> Memory:
        """Return what was held since."""
        return Memory(
            weights_bytes=self._weights,
            peak_memory_bytes=mx.get_peak_memory(),
            resident_before_bytes=self._resident.before,
            resident_peak_bytes=self._resident.peak,
        )


def device() -> str:
    """Return the device MLX computes on, in words."""
    try:
        return str(mx.device_info()["device_name"])
    except (KeyError, RuntimeError, ValueError):  # a backend need not say
        return f"{mx.default_device()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Return those of MLX and mlx-lm."""
    return {name: version(name) for name in ("mlx", "mlx-lm")}
