"""The fast BLAS that MLX's Linux backend needs, loaded into the global symbol scope.

The ``mlx-cpu`` wheel links a reference BLAS (2.5 GFLOP/s on two cores). Symbols that are global
before ``mlx.core`` is first imported win, which makes the same wheel about 40 times faster.
"""

import ctypes
import sys
from pathlib import Path

loaded: str | None = None
"""The library in use, or None: on macOS (Accelerate is built in) or where none was found."""


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
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        loaded = name
        return


def advice() -> str | None:
    """Return how to get a fast BLAS, or None when there is nothing to do."""
    if loaded or not sys.platform.startswith("linux"):
        return None
    return (
        "no fast BLAS found, so MLX runs about 40 times slower on this CPU; "
        "`sudo apt-get install libopenblas0-pthread`, or `pip install mkl` on x86-64"
    )
