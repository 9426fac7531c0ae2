"""What is left of a plan once training starts, and who follows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.lineage.runs import Run
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo
from mlx_tune.sizing import Sizing
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows.prepare import Plan

NEW_ROWS, OLD_ROWS, HELD_OUT_ROWS = "new.jsonl", "old.jsonl", "held-out.jsonl"
"""A run keeps its rows, so that a data file may change or go before a resume."""


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
        """See what is about to be done."""

    def merged(self, chain: Sequence[Session]) -> None:
        """Hear that the chain was folded in; empty for a first session."""

    def began(self, run: Run, trainer: Trainer) -> None:
        """Hear that steps follow."""

    def stepped(self, step: Step) -> None:
        """See one step."""

    def stop(self) -> int:
        """Return the signal that asks to stop after this step, 0 to go on."""

    def ended(self) -> None:
        """Hear that no more steps follow."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run and all it needs; a resumed one is read from its folder.

    Attributes:
        name: Of the session to be.
        info: The base model.
        store: Where it goes.
        chain: The sessions it stands on, root first.
        sizing: Every setting with its reason.
        new: The rows it is taught.
        held_out: Rows that choose the best checkpoint.
        examples: What is trained on, new rows first.
        validation: The held-out rows, tokenised.
        run: Its folder.
    """

    name: str
    info: BaseInfo
    store: Store
    chain: tuple[Session, ...]
    sizing: Sizing
    new: tuple[Row, ...]
    held_out: tuple[Row, ...]
    examples: tuple[Example, ...]
    validation: tuple[Example, ...]
    run: Run

    @property
    def parent(self) -> Session | None:
        """The session it stands on, None for the bare base."""
        return self.chain[-1] if self.chain else None
