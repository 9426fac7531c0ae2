"""Follows a training for trackers: what it passes on to them, and what it does when one fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlx_tune.continual.gate import Decision
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.text import one_line
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows.observer import GateAnswer, TrainingObserver
from mlx_tune.workflows.run import TrainingOutcome
from mlx_tune.workflows.trackers import Tracker, find_tracker
from mlx_tune.workflows.training_plan import TrainingPlan

Work = Callable[[TrainingObserver], TrainingOutcome]


def tracked(work: Work, observer: TrainingObserver, names: Sequence[str]) -> TrainingOutcome:
    """Do a training that trackers record besides.

    A tracker that fails is told to the observer and left out from then on: no training ends because
    a record of it cannot be kept.

    Args:
        work: The training, of an observer.
        observer: Who follows it otherwise.
        names: Of trackers.

    Raises:
        UsageError: There is no such tracker, or its package is missing.
    """
    if not names:
        return work(observer)
    recorder = _Recorder(observer, names)
    outcome = None
    try:
        outcome = work(recorder)
    finally:
        recorder.end({} if outcome is None else _summary(outcome))
    return outcome


class _Recorder(TrainingObserver):
    """Passes everything on to another observer, and steps to trackers."""

    def __init__(self, observer: TrainingObserver, names: Sequence[str]) -> None:
        self._observer = observer
        self._named = {name: find_tracker(name) for name in dict.fromkeys(names)}
        self._trackers: dict[str, Tracker] = {}

    def say(self, line: str) -> None:
        self._observer.say(line)

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        return self._observer.offered(run, other_settings)

    def planned(self, plan: TrainingPlan) -> None:
        self._observer.planned(plan)

    def opened(self, run: Run) -> None:
        self._observer.opened(run)
        chosen = {name: entry["value"] for name, entry in run.record["sizing"].items()}
        settings = {"base": run.record["base"]["name"], **chosen}
        for name, begin in self._named.items():
            with self._told(name):
                self._trackers[name] = begin(run.path.name, settings)

    def merged(self, chain: Sequence[Session]) -> None:
        self._observer.merged(chain)

    def began(self, trainer: Trainer) -> None:
        self._observer.began(trainer)

    def stepped(self, step: Step) -> None:
        values = {
            "loss": step.loss,
            "learning_rate": step.learning_rate,
            "grad_norm": step.grad_norm,
            "epoch": step.epoch,
            "tokens_per_second": step.tokens / step.seconds if step.seconds else 0.0,
            "peak_memory_gb": step.peak_memory_bytes / 1e9,
        }
        for name, tracker in [*self._trackers.items()]:
            with self._told(name):
                tracker.log(step.number, values)
        self._observer.stepped(step)

    def stop(self) -> int:
        return self._observer.stop()

    def ended(self) -> None:
        self._observer.ended()

    def asked(self, decision: Decision, questions: Mapping[int, Sequence[str]]) -> GateAnswer:
        return self._observer.asked(decision, questions)

    def end(self, summary: Mapping[str, float | str]) -> None:
        """Close the records."""
        for name, tracker in [*self._trackers.items()]:
            with self._told(name):
                tracker.end(summary)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Leave a tracker out that fails."""
        try:
            yield
        except Exception as error:  # each package has errors of its own, and of its network
            self._trackers.pop(name, None)
            reason = one_line(str(error) or type(error).__name__, 120)
            self._observer.say(f"note: {name} records no more of this training ({reason})")


def _summary(outcome: TrainingOutcome) -> dict[str, float | str]:
    """Return what a person compares trainings by."""
    found: dict[str, float | str] = {"verdict": str(outcome.session.record["verdict"])}
    for each in outcome.recall:
        scores = {"as_taught": each.as_taught, "other_words": each.other_words}
        for name, answers in scores.items():
            if answers is not None and answers.asked:
                found[f"{name}/{each.name}"] = answers.right / answers.asked
    if outcome.gate is not None and outcome.gate.general.asked:
        found["general_nats_per_token"] = outcome.gate.general.nats_per_token
    return found
