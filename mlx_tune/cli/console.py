"""How the command line prints: rich on a terminal, plain lines elsewhere."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from mlx_tune import blas
from mlx_tune.cli.options import STORE

_UNWRAPPED = 500  # columns; what a file or a pipe gets is cut by nobody


def console() -> Console:
    """Return a console for standard output; without a terminal it neither colours nor wraps."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _UNWRAPPED)


def say(line: str) -> None:
    """Print one line of what is going on; on stderr, so that stdout stays the answer."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def warn_of_slow_blas() -> None:
    """Say once a command that MLX would run on its reference BLAS, with the fix."""
    if advice := blas.advice():
        say(f"note: {advice}")


def store_flag(store: Path) -> str:
    """Return what a command to type must say of the store: nothing for the usual one."""
    return "" if store == STORE else f"--store {shlex.quote(str(store))}"


def size(count: float) -> str:
    """Return bytes for a person: 1.4 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def counted(count: int, thing: str) -> str:
    """Return how many of something there are: 1 file, 2 files."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Return seconds for a person: 45 s, 12 min 5 s, 2 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(right: int, asked: int) -> str:
    """Return a score with what it was counted over: 98 % (104 of 106)."""
    return f"{round(100 * right / asked)} % ({right} of {asked})"
