"""The machine: its device, the type it computes in, and how much memory there is."""

import os
import platform
import shutil
from functools import cache
from importlib.metadata import version

import mlx.core as mx

import mlx_tune
from mlx_tune import blas
from mlx_tune.models import catalogue

_HOME_BYTES = 15 * 1024**3  # "16 GB" as machines report it


def on_gpu() -> bool:
    """Tell whether MLX computes on Metal or CUDA."""
    return mx.default_device().type == mx.DeviceType.gpu


def compute_dtype() -> mx.Dtype | None:
    """Return the type to cast a model to: float32 on a CPU, None (as stored) on a GPU.

    A CPU multiplies bf16 about 40 times slower than float32 (measured: 4 against 150 GFLOP/s).
    """
    return None if on_gpu() else mx.float32


def can_compile() -> bool:
    """Tell whether MLX can compile: on a CPU it calls g++."""
    return on_gpu() or shutil.which("g++") is not None


def memory_bytes() -> int:
    """Return the memory a model may use: the device's own, or the machine's."""
    if on_gpu():
        info = mx.device_info()
        size = info.get("max_recommended_working_set_size", info.get("memory_size"))
        if size:
            return int(size)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions() -> dict[str, str]:
    """Return what a result can depend on to the last bit: the libraries and the device."""
    return {
        "mlx-tune": mlx_tune.__version__,
        **{name: _version(name) for name in ("mlx", "mlx-lm", "numpy")},
        "python": platform.python_version(),
        "device": _device_name(),
        "blas": blas.loaded or "built in",
    }


_version = cache(version)  # each reads and parses a file


def _device_name() -> str:
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else platform.machine()


def default_base() -> str:
    """Return the base model that fits this machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return catalogue.HOME if apple and machine >= _HOME_BYTES else catalogue.SMALL
