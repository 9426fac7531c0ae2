"""A store and a tiny base model to train in, and observers that record a training."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.continual.gate import Thresholds
from mlx_tune.models import runtime
from mlx_tune.training.generic import attach
from mlx_tune.workflows import general
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train

FAST_SETTINGS = {
    "epochs": 2,
    "rank": 4,
    "batch_size": 4,
    "grad_accumulation": 1,
    "general_replay": 0.0,
    "question_noise": 0,
}
"""Settings of a short training without general questions and noise.

A tiny base's answers to the former are gibberish, which a few rows do not outweigh; and it learns a
question word by word.
"""


@dataclass
class RecordingObserver(TrainingObserver):
    """An observer that records every call, and interrupts the training where a test asks for it."""

    lines: list[str] = field(default_factory=list)
    plans: list = field(default_factory=list)
    chains: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    run: object = None
    stop_after: int | None = None  # as a crash does, just after a step
    signal_after: tuple[int, int] | None = None  # (step, signal), as Ctrl-C does
    answer: str = "hold"  # to a gate that asks
    decisions: list = field(default_factory=list)
    accept: bool = False  # go on with an unfinished run that is offered
    offers: list = field(default_factory=list)

    def say(self, line):
        self.lines.append(line)

    def offered(self, run, other_settings):
        self.offers.append((run.path.name, other_settings))
        return self.accept

    def stop(self):
        step, number = self.signal_after or (0, 0)
        return number if len(self.steps) + 1 == step else 0

    def asked(self, decision, questions):
        self.decisions.append((decision, questions))
        return self.answer

    def planned(self, plan):
        self.plans.append(plan)

    def merged(self, chain):
        self.chains.append([session.name for session in chain])

    def opened(self, run):
        self.run = run

    def stepped(self, step):
        self.steps.append(step)
        if step.number == self.stop_after:
            raise KeyboardInterrupt


class LogitsRecorder(RecordingObserver):
    """An observer that keeps the logits of the trained model for some tokens: `logits`."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def began(self, trainer):
        self.trainer = trainer

    def ended(self):
        adapter = self.trainer.adapter()
        attach(self.trainer.model, adapter.factors, adapter.scale)
        self.logits = np.array(self.trainer.model(self.tokens).astype(mx.float32))
        del self.trainer


def use_few_probes(patch: pytest.MonkeyPatch, *, lenient: bool = True) -> None:
    """Use five general questions instead of 200; a lenient gate lets every session through."""
    patch.setattr(general, "PROBES", 3)
    patch.setattr(general, "REPLAYED", 2)
    if lenient:
        worst = Thresholds(
            kept=0, ask_kept=0, backward=1, ask_backward=1, general=1e9, ask_general=1e9
        )
        patch.setattr(Thresholds, "of", staticmethod(lambda settings: worst))


@contextmanager
def isolated_environment(folder: Path, *, lenient: bool = True) -> Iterator[pytest.MonkeyPatch]:
    """Set up what conftest.py sets for every test: for module fixtures, which run before that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_TUNE_CACHE", str(folder / "cache"))
        patch.setattr(runtime, "can_compile", lambda: False)
        use_few_probes(patch, lenient=lenient)
        yield patch


@dataclass
class TrainingLab:
    """A store, a tiny base model, and data files written on demand."""

    root: Path
    base: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    def data(self, name: str, pairs: dict[str, str], *, wordings: int = 0, **extra) -> Path:
        """Write a data file of questions and answers, each question in so many more wordings."""
        rows = [{"instruction": q, "response": a, **extra} for q, a in pairs.items()]
        for row in rows if wordings else ():
            row["wordings"] = [f"{row['instruction']} ({n})" for n in range(wordings)]
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(rows, indent=1))
        return path

    def request(self, *data: Path, **flags) -> TrainingRequest:
        return TrainingRequest(
            data=list(data),
            store=self.store,
            flags={"base": str(self.base), **FAST_SETTINGS, **flags},
        )

    def copy(self, root: Path) -> "TrainingLab":
        """Copy the store into another folder, for a test that changes it."""
        shutil.copytree(self.store, root / "store", symlinks=True)
        return TrainingLab(root=root, base=self.base)

    def train(self, *data: Path, observer: RecordingObserver | None = None, **flags):
        return train(self.request(*data, **flags), observer or RecordingObserver())


def facts(subject: str, count: int = 6) -> dict[str, str]:
    return {f"Where is {subject} {i}?": f"{subject} {i} is in room {i * 7}." for i in range(count)}
