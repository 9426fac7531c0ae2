"""A training, fully decided before it starts, and who follows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlx_tune import sizing
from mlx_tune.continual.gate import Decision
from mlx_tune.continual.methods import Method
from mlx_tune.continual.rehearse import Rehearsal
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.models.bases import BaseInfo
from mlx_tune.sizing import Sizing
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.training import optimizer
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.training.memory import MemoryPlan
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows.fitting import DiskPlan
from mlx_tune.workflows.workspace import folding


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What `plan` shows and `train` carries out.

    Attributes:
        name: Of the session to be.
        info: Its base model.
        store: Where it will go.
        chain: The sessions it stands on, root first.
        replaced: The sessions whose rows it is taught anew, root first; none but to consolidate.
        without: Those of them whose rows are left out.
        unkept: Those of the sessions before it that keep no rows.
        method: How they are remembered.
        rehearsal: New rows and old ones.
        sizing: Every setting with its reason.
        too_long: Rows left out because they exceed the length limit.
        long_share: Share of all tokens that are in those rows.
        examples: What is trained on: new rows, old ones, general questions.
        mixture: Which of them come in which epoch.
        held_out: New rows that are not trained on, but choose the best checkpoint.
        validation: The same, tokenised.
        disk: What the run will write, and what is free.
        memory: Where the bytes will go.
        shapes: How many distinct shapes micro-batches are padded to.
        padding: Share of the tokens computed that are padding, 0 to 1.
        sources: The data files as they were named.
    """

    name: str
    info: BaseInfo
    store: SessionStore
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    unkept: tuple[Session, ...]
    method: Method
    rehearsal: Rehearsal
    sizing: sizing.Sizing
    too_long: tuple[Row, ...]
    long_share: float
    examples: tuple[Example, ...]
    mixture: Mixture
    held_out: tuple[Row, ...]
    validation: tuple[Example, ...]
    disk: DiskPlan
    memory: MemoryPlan
    shapes: int
    padding: float
    sources: tuple[str, ...]

    @property
    def parent(self) -> Session | None:
        """The session it will stand on, None for the bare base."""
        return self.chain[-1] if self.chain else None

    @property
    def head(self) -> Session | None:
        """Where HEAD is while it is trained, None for the bare base."""
        return self.replaced[-1] if self.replaced else self.parent

    @property
    def taught(self) -> tuple[Row, ...]:
        """The new rows without those that are too long."""
        left_out = {id(row) for row in self.too_long}
        return tuple(row for row in self.rehearsal.new if id(row) not in left_out)

    @property
    def training(self) -> TrainingConfig:
        """What the loop is told."""
        return training_config(self.sizing, self.mixture)

    @property
    def planned_steps(self) -> int:
        """Optimizer updates; the most where training stops once all is learned."""
        return self.training.planned_steps(len(self.examples))

    @property
    def warmup_steps(self) -> int:
        """How many of them warm up."""
        return optimizer.warmup_steps(len(self.taught), self.planned_steps)

    @property
    def tokens_by_kind(self) -> tuple[float, ...]:
        """Tokens of an epoch: of new rows, old ones and general questions, padding not counted."""
        found, first = [], 0
        for kind in self.mixture.kinds:
            own = self.examples[first : first + kind.rows]
            mean = sum(len(example.tokens) for example in own) / max(1, len(own))
            found.append(mean * kind.places)
            first += kind.rows
        return tuple(found)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of an epoch, padding not counted; a mean where rows take turns."""
        return round(sum(self.tokens_by_kind))


def training_config(decided: sizing.Sizing, mixture: Mixture) -> TrainingConfig:
    """Return what the loop is told, from a sizing.

    Args:
        decided: The settings.
        mixture: Which rows come in which epoch; new ones are its first kind.
    """
    return TrainingConfig(
        rank=int(decided.rank.value),
        scale=decided.scale,
        epochs=int(decided.epochs.value),
        batch_size=int(decided.batch_size.value),
        grad_accumulation=int(decided.grad_accumulation.value),
        learning_rate=float(decided.learning_rate.value),
        new_rows=mixture.kinds[0].rows,
        mixture=mixture,
        seed=int(decided.seed.value),
        dropout=float(decided.dropout.value),
        lora_plus_ratio=float(decided.lora_plus_ratio.value),
        checkpoint_layers=int(decided.checkpoint_layers.value),
        loss_chunk=int(decided.loss_chunk.value),
        wire_memory=bool(decided.wire_memory.value),
    )


NEW_ROWS, OLD_ROWS, HELD_OUT_ROWS = "new.jsonl", "old.jsonl", "held-out.jsonl"
GENERAL_ROWS = "guards.jsonl"
"""A run keeps its rows, so that a data file may change or go before a resume."""


GateAnswer = Literal["promote", "scale", "hold"]
"""To a gate that asks: promote it all the same, look for a smaller part of the change that passes,
or hold it back."""


class TrainingObserver(Protocol):
    """Who follows a training; the command line prints."""

    def say(self, line: str) -> None:
        """Hear of something in one line."""

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        """Say whether to go on with an unfinished run of the same data instead.

        Args:
            run: The run.
            other_settings: Its values of the settings that were now asked for otherwise.
        """

    def planned(self, plan: TrainingPlan) -> None:
        """See what is about to be done; a new run's folder follows."""

    def opened(self, run: Run) -> None:
        """Hear that there is a run, new or gone on with: whatever ends it now, it can be resumed.

        Raises:
            Interrupted: Somebody asked to stop while its folder was written.
        """

    def merged(self, chain: Sequence[Session]) -> None:
        """Hear that the chain was folded in; empty for a first session."""

    def began(self, trainer: Trainer) -> None:
        """Hear that steps follow."""

    def stepped(self, step: Step) -> None:
        """See one step."""

    def stop(self) -> int:
        """Return the signal that asks to stop after this step, 0 to go on."""

    def ended(self) -> None:
        """Hear that no more steps follow."""

    def asked(self, decision: Decision, questions: Mapping[int, Sequence[str]]) -> GateAnswer:
        """Say what to do with a session that the gate would rather not promote by itself.

        Args:
            decision: What was lost, and by how much.
            questions: Of each earlier session by its number: what the decision's indices are of.
        """


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run and all it needs; a resumed one is read from its folder.

    Attributes:
        name: Of the session to be.
        info: The base model.
        store: Where it goes.
        chain: The sessions it stands on, root first.
        replaced: The sessions it takes the place of, root first; none but to consolidate.
        without: Those of them whose rows are left out.
        method: How earlier sessions are remembered.
        sizing: Every setting with its reason.
        mixture: Which examples come in which epoch.
        new: The rows it is taught.
        old: Those of earlier sessions that come along.
        held_out: Rows that choose the best checkpoint.
        examples: What is trained on: new rows, old ones, general questions.
        validation: The held-out rows, tokenised.
        run: Its folder.
    """

    name: str
    info: BaseInfo
    store: SessionStore
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    method: Method
    sizing: Sizing
    mixture: Mixture
    new: tuple[Row, ...]
    old: tuple[Row, ...]
    held_out: tuple[Row, ...]
    examples: tuple[Example, ...]
    validation: tuple[Example, ...]
    run: Run

    @property
    def parent(self) -> Session | None:
        """The session it stands on, None for the bare base."""
        return self.chain[-1] if self.chain else None

    @property
    def keeps_data(self) -> bool:
        """Whether the session keeps its rows."""
        return bool(self.sizing.keep_data.value)

    @property
    def stands_on(self) -> tuple[Session, ...]:
        """The sessions that are folded underneath it, root first."""
        return tuple(self.method.stands_on(folding(self.chain)))

    @property
    def before(self) -> tuple[Session, ...]:
        """The sessions that must not be forgotten, root first."""
        return self.replaced or self.chain

    @property
    def head(self) -> Session | None:
        """Where HEAD is expected, None for the bare base."""
        return self.before[-1] if self.before else None

    @property
    def training(self) -> TrainingConfig:
        """What the loop is told."""
        return training_config(self.sizing, self.mixture)
