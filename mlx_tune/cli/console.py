"""What every command prints with, and how a training waits for Ctrl-C and SIGTERM.

A terminal gets rich's colours and wrapping, a file or a pipe plain lines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlx_tune import blas

_UNWRAPPED = 500  # columns: lines in a file or a pipe are not wrapped
_TICK_SECONDS = 1.0
TABLE_COLUMNS = 60
"""A terminal narrower than this has no room for a table of several columns."""


def console() -> Console:
    """Return a console for standard output; without a terminal it neither colours nor wraps."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _UNWRAPPED)


def print_wrapped(printer: Console, line: str) -> None:
    """Print a line; a terminal breaks it between words, and indents the rest as the line is."""
    words = line.lstrip(" ")
    if printer.is_terminal:
        printer.print(Padding(Text(words), (0, 0, 0, len(line) - len(words)), expand=False))
    else:
        printer.print(line, soft_wrap=True, markup=False)


def print_labelled(printer: Console, lines: Iterable[tuple[str, str]], *, width: int) -> None:
    """Print labels in a column of a width, with their texts beside; a terminal breaks these."""
    if not printer.is_terminal:
        for label, text in lines:
            printer.print(f"{label:<{width}}{text}", soft_wrap=True, markup=False)
        return
    table = Table.grid()
    table.add_column(style="bold", min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(Text(label), Text(text))
    printer.print(table)


def say(*lines: str) -> None:
    """Print lines of progress on stderr, so that stdout holds the answer alone."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


class Waiting:
    """Prints lines of progress, and on a terminal counts the time of what takes long.

    A line that ends in "…" announces something that takes long. Below it the seconds are counted
    until the next line, or until ``stop``, which whoever prints something else calls first.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._clock: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, line: str) -> None:
        """Print a line, and begin to count if it announces something."""
        self.stop()
        say(line)
        if line.endswith("…") and sys.stderr.isatty():
            self._ended.clear()
            self._clock = threading.Thread(target=self._count, daemon=True)
            self._clock.start()

    def stop(self) -> None:
        """Stop counting, and take away what was shown."""
        if self._clock is not None:
            self._ended.set()
            self._clock.join()
            self._clock = None
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _count(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(_TICK_SECONDS):
            print(f"\r  {clock(time.monotonic() - began)}", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return seconds as a clock shows them: 2:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def warn_of_slow_blas() -> None:
    """Print a note where MLX would run on its reference BLAS, with the fix."""
    if advice := blas.advice():
        say(f"note: {advice}")


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
    return f"{whole_percent(right, asked)} % ({right} of {asked})"


def whole_percent(right: int, asked: int) -> int:
    """Return a share in whole percent: 100 only for all of them, 0 only for none."""
    return right and (100 if right == asked else min(max(round(100 * right / asked), 1), 99))


def told_apart(sessions: Sequence[tuple[int, str]]) -> list[str]:
    """Return the names of sessions, each with its number where two have the same name."""
    counts = Counter(name for _, name in sessions)
    return [f"{number} {name}" if counts[name] > 1 else name for number, name in sessions]


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
