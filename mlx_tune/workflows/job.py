"""What is left of a plan once training starts, and who follows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlx_tune.continual.gate import Decision
from mlx_tune.continual.methods import Method
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.lineage.runs import Run
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo
from mlx_tune.sizing import Sizing
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows.folded import folding
from mlx_tune.workflows.plan import Plan, training_config

NEW_ROWS, OLD_ROWS, HELD_OUT_ROWS = "new.jsonl", "old.jsonl", "held-out.jsonl"
GUARDS = "guards.jsonl"
"""A run keeps its rows, so that a data file may change or go before a resume."""


Answer = Literal["promote", "scale", "hold"]
"""To a gate that asks: promote it all the same, look for a smaller part of the change that passes,
or hold it back."""


class Watch(Protocol):
    """Who follows a training; the command line prints."""

    def say(self, line: str) -> None:
        """Hear of something in one line."""

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        """Say whether to go on with an unfinished run of the same data instead.

        Args:
            run: The run.
            other_settings: Its values of the settings that were now asked for otherwise.
        """

    def planned(self, plan: Plan) -> None:
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

    def asked(self, decision: Decision, questions: Mapping[int, Sequence[str]]) -> Answer:
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
    store: Store
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
