"""The machine and the program a measurement was made with."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from mlx_tune import blas


def describe() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "blas": blas.loaded,
        "commit": _commit(),
    }


def _processor() -> str:
    """Return its name; only Linux keeps a better one in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """Return the commit that ran, with "-dirty" when files differ from it."""
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(
        words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
