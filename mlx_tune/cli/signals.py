"""Ctrl-C and SIGTERM while a training writes: the run or the step is saved first."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any


class Signals:
    """Notes the first signal where the training can wait for it; a second one ends it at once.

    Attributes:
        received: The signal's number, 0 for none.
        wait: Whether somebody looks at ``received`` soon, as between steps; elsewhere a signal
            ends the process as always.
    """

    def __init__(self) -> None:
        self.received = 0
        self.wait = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the two signals from whoever handles them.

        One that is ignored stays so: under nohup, or in the background of a script.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                self._before[number] = signal.signal(number, self._note)

    def give_back(self) -> None:
        """Let them be handled as before."""
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
