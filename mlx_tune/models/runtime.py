"""The machine: its device, the type it computes in, its memory, and versions of libraries."""

import os
import platform
import shutil
from functools import cache
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import mlx_tune
from mlx_tune import blas
from mlx_tune.models import catalogue

_HOME_BYTES = 15 * 1024**3  # "16 GB" as machines report it


def on_gpu() -> bool:
    """Return whether MLX computes on Metal or CUDA."""
    return mx.default_device().type == mx.DeviceType.gpu


def compute_dtype() -> mx.Dtype | None:
    """Return the type to cast a model to: float32 on a CPU, None (as stored) on a GPU.

    A CPU multiplies bf16 about 40 times slower than float32 (measured: 4 against 150 GFLOP/s).
    """
    return None if on_gpu() else mx.float32


def dtype_of(model: nn.Module) -> mx.Dtype:
    """Return the type a model computes in on this machine: of what its weights leave unquantised.

    Args:
        model: As stored, or widened already.
    """
    arrays = (array for _, array in tree_flatten(model.parameters()))
    floats = (array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating))
    return compute_dtype() or max(floats, key=lambda dtype: dtype.size)


def can_compile() -> bool:
    """Return whether MLX can compile; on a CPU it calls g++."""
    return on_gpu() or shutil.which("g++") is not None


def memory_bytes() -> int:
    """Return the memory that a model may use: the GPU's, or the machine's; bytes."""
    if on_gpu():
        info = mx.device_info()
        if "free_memory" in info:  # CUDA: other programs' is not ours
            return int(info["free_memory"]) + mx.get_active_memory() + mx.get_cache_memory()
        if size := info.get("max_recommended_working_set_size", info.get("memory_size")):
            return int(size)
    return _physical_bytes()


def default_base() -> str:
    """Return the base model that fits this machine."""
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    large = _physical_bytes() >= _HOME_BYTES
    return catalogue.HOME if apple and large else catalogue.SMALL


def versions() -> dict[str, str]:
    """Return the versions of everything that a bit of a result can depend on, by name."""
    machine = platform.machine()
    return {
        "mlx-tune": mlx_tune.__version__,
        **{name: _version(name) for name in ("mlx", "mlx-lm", "numpy")},
        "python": platform.python_version(),
        "device": str(mx.device_info().get("device_name", "GPU")) if on_gpu() else machine,
        "blas": blas.loaded or "built in",
    }


_version = cache(version)  # each reads and parses a file


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
