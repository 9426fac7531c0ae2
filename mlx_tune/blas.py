"""The fast BLAS that MLX's Linux backend needs, loaded into the global symbol scope.

The ``mlx-cpu`` wheel links a reference BLAS (2.5 GFLOP/s on two cores). Symbols that are global
before ``mlx.core`` is first imported win, which makes the same wheel about 40 times faster.

An OpenBLAS older than the processor takes it for a Pentium 4 (its "Prescott"), and multiplies at a
fifth of the speed. It is then loaded again, with kernels that the processor can run.
"""

import _ctypes
import ctypes
import os
import sys
from pathlib import Path

loaded: str | None = None
"""The library in use, or None: on macOS (Accelerate is built in) or where none was found."""

_CORE_TYPE = "OPENBLAS_CORETYPE"
_CORES = {
    "SkylakeX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "Haswell": {"avx2", "fma"},
}
"""OpenBLAS's core types, fastest first, and the instruction sets that their kernels use."""


def _candidates() -> list[str]:
    """Debian's OpenBLAS first, then the ``mkl`` wheel, which keeps its libraries in the prefix."""
    mkl = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    return ["libopenblas.so.0", *map(str, mkl)]


def load() -> None:
    """Load the first fast BLAS there is; do nothing off Linux or when one is loaded."""
    global loaded
    if not sys.platform.startswith("linux") or loaded:
        return
    for name in _candidates():
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if core := _faster_core(library):
            os.environ[_CORE_TYPE] = core  # which the library reads only when it is loaded
            _ctypes.dlclose(library._handle)
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        loaded = name
        return


def _faster_core(library: ctypes.CDLL) -> str | None:
    """Return the OpenBLAS core type to load instead of its fallback; None to keep what it chose."""
    core_name = getattr(library, "openblas_get_corename", None)  # only OpenBLAS has it
    if core_name is None or _CORE_TYPE in os.environ:
        return None
    core_name.restype = ctypes.c_char_p
    if core_name() != b"Prescott":
        return None
    flags = _cpu_flags()
    return next((core for core, needed in _CORES.items() if needed <= flags), None)


def _cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the instruction sets that Linux lists for the first processor."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def advice() -> str | None:
    """Return how to get a fast BLAS, or None when there is nothing to do."""
    if loaded or not sys.platform.startswith("linux"):
        return None
    return (
        "no fast BLAS found, so MLX runs about 40 times slower on this CPU; "
        "`sudo apt-get install libopenblas0-pthread`, or `pip install mkl` on x86-64"
    )
