"""The progress of a run: a live line on a terminal, one plain line an epoch elsewhere."""

import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_RECENT_STEPS = 20
_PLAIN_SECONDS = 30.0


class RunProgress:
    """Follows the steps of a run.

    Args:
        console: Where to print.
        planned_steps: How many steps the run has.
        steps_done: How many were done before, when it is resumed.
        epochs: How many epochs it has.
    """

    def __init__(
        self, console: Console, *, planned_steps: int, steps_done: int, epochs: int
    ) -> None:
        self._console, self._planned, self._epochs = console, planned_steps, epochs
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT_STEPS)
        self._epoch_losses: list[float] = []
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=16), TextColumn("{task.description}"), console=console
            )
            self._task = self._bar.add_task("", total=planned_steps, completed=steps_done)
            self._bar.start()

    def step(
        self,
        *,
        number: int,
        epoch: int,
        loss: float,
        learning_rate: float,
        tokens: int,
        seconds: float,
        peak_memory_bytes: int,
        ends_epoch: bool,
    ) -> None:
        """Show one step.

        Args:
            number: Counted from 1.
            epoch: Counted from 1.
            loss: Nats per supervised token.
            learning_rate: Of the step.
            tokens: Real tokens of its rows.
            seconds: Wall time.
            peak_memory_bytes: So far.
            ends_epoch: True for the last step of an epoch.
        """
        self._recent.append((tokens, seconds))
        self._epoch_losses.append(loss)
        took = sum(s for _, s in self._recent)
        rate = sum(t for t, _ in self._recent) / took
        left = (self._planned - number) * took / len(self._recent)
        line = (
            f"step {number}/{self._planned}  epoch {epoch}/{self._epochs}  loss {loss:.3f}  "
            f"lr {learning_rate:.1e}\n"
            f"{rate:.0f} tok/s  peak {peak_memory_bytes / 1e9:.1f} GB  {_clock(left)} left"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=number, description=line)
        elif not ends_epoch and time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._plain(line.replace("\n", "  "))
        if ends_epoch:
            self._epoch(epoch, left)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _epoch(self, epoch: int, left: float) -> None:
        mean = sum(self._epoch_losses) / len(self._epoch_losses)
        self._epoch_losses.clear()
        self._plain(
            f"epoch {epoch:>2}/{self._epochs}  mean loss {mean:.4f}  checkpoint saved  "
            f"{_clock(left)} left"
        )

    def _plain(self, line: str) -> None:
        self._printed = time.monotonic()
        self._console.print(line, soft_wrap=True, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
