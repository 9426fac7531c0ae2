"""Who follows a training: the command line prints it, a program may count it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlx_tune.continual.gate import Decision
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows.training_plan import TrainingPlan

GateAnswer = Literal["promote", "scale", "hold"]
"""To a gate that asks: promote it all the same, look for a smaller part of the change that passes,
or hold it back."""


class TrainingObserver:
    """Follows a training in silence; override what is of interest."""

    def say(self, line: str) -> None:
        """Take one line about what is going on."""

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        """Return whether to resume an unfinished run of the same data instead.

        Args:
            run: The run.
            other_settings: Its values of the settings that were now asked for otherwise.
        """
        return False

    def planned(self, plan: TrainingPlan) -> None:
        """Take what is about to be done; a new run's folder follows."""

    def opened(self, run: Run) -> None:
        """Take the run, new or resumed: whatever ends it from now on, it can be resumed.

        Raises:
            Interrupted: Somebody asked to stop while its folder was written.
        """

    def merged(self, chain: Sequence[Session]) -> None:
        """Take the sessions that were folded in; none for a first session."""

    def began(self, trainer: Trainer) -> None:
        """Take the trainer; its steps follow."""

    def stepped(self, step: Step) -> None:
        """Take one step that happened."""

    def stop(self) -> int:
        """Return the signal that asks to stop after this step, 0 to go on."""
        return 0

    def ended(self) -> None:
        """Take that no more steps follow."""

    def asked(self, decision: Decision, questions: Mapping[int, Sequence[str]]) -> GateAnswer:
        """Return what to do with a session that the gate does not promote by itself.

        Args:
            decision: What was lost, and by how much.
            questions: Of each earlier session by its number: what the decision's indices are of.
        """
        return "hold"
