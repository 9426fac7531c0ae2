"""Ctrl-C and SIGTERM while a training takes its steps: the step ends and is saved first."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class Signals:
    """Notes the first signal where the training can wait for it; a second one ends it at once.

    Attributes:
        received: The signal's number, 0 for none.
        wait: Whether somebody looks at ``received`` between steps; elsewhere a signal ends the
            process as always.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received = 0
        self.wait = False
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.wait or self.received:
            self._before[number](number, frame)  # raises
            return
        self.received = number
        self._say("stopping after this step; once more stops at once")
