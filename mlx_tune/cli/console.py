"""What every command prints with, and how a training waits for Ctrl-C and SIGTERM.

A terminal gets rich's colours and wrapping, a file or a pipe plain lines.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from mlx_tune import blas
from mlx_tune.cli.options import STORE

_UNWRAPPED = 500  # columns: lines in a file or a pipe are not wrapped


def console() -> Console:
    """Return a console for standard output; without a terminal it neither colours nor wraps."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _UNWRAPPED)


def say(*lines: str) -> None:
    """Print lines of progress on stderr, so that stdout holds the answer alone."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def warn_of_slow_blas() -> None:
    """Print a note where MLX would run on its reference BLAS, with the fix."""
    if advice := blas.advice():
        say(f"note: {advice}")


def typed(words: str, store: Path) -> str:
    """Return a command as a person types it; the default store needs no option."""
    return f"mlx-tune {words}" + ("" if store == STORE else f" --store {shlex.quote(str(store))}")


def can_ask() -> bool:
    """Tell whether a person sits at a terminal and can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def size(count: float) -> str:
    """Return a number of bytes for a person: 1.4 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def counted(count: int, thing: str) -> str:
    """Return a count with its noun: 1 file, 2 files."""
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
    """Return a score with its counts: 98 % (104 of 106)."""
    return f"{round(100 * right / asked)} % ({right} of {asked})"


def setting_value(value: Any) -> str:
    """Return a setting's value for a person."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Signals:
    """Notes the first signal where the training can wait for it; a second one ends it at once.

    Attributes:
        received: The signal's number, 0 for none.
        wait: Whether the training reads ``received`` soon, as between steps; otherwise a signal
            ends the process as always.
    """

    def __init__(self) -> None:
        self.received = 0
        self.wait = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Replace the handlers of the two signals.

        A signal that is ignored stays so: under nohup, or in the background of a script.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Put back the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.wait or self.received:
            self._before[number](number, frame)  # raises
            return
        self.received = number
        # Not through a stream: the signal may have come while one was being written to.
        with suppress(OSError):
            os.write(2, b"stopping as soon as it is saved; once more stops at once\n")
