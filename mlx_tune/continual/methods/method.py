"""A way to learn something new without losing the old: what the training asks of every one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx

from mlx_tune.training.adapter import Adapter, Factors

_Session = TypeVar("_Session")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What sets a method apart; a field left alone is what rehearsal does.

    Attributes:
        name: As a person gives it, and its file's name.
        replay: What ``--replay`` is when nobody says.
        distils: Rehearsed rows are trained on what the folded model says of them, not on the taught
            tokens.
        penalty_weight: Multiplier of what :meth:`penalty` measures, dimensionless; 0 for none.
        searches_scale: The gate looks for a multiplier of the newest change.
        synthesises: Old rows come from the model itself.
    """

    name: str
    replay: str = "auto"
    distils: bool = False
    penalty_weight: float = 0.0
    searches_scale: bool = False
    synthesises: bool = False

    def stands_on(self, chain: Sequence[_Session]) -> Sequence[_Session]:
        """Return the sessions that are folded underneath the new one, root first.

        Args:
            chain: The sessions from the root to HEAD, or one thing for each of them.
        """
        return chain

    def penalty(self, factors: Factors, past: Sequence[Adapter]) -> mx.array:
        """Return what is added to a step's loss, its weight inside, float32 ().

        It depends on no row, so its gradient is taken once a step, not once a micro-batch.

        Args:
            factors: Of the adapter that is trained.
            past: The adapters it stands on.
        """
        return mx.array(0.0)
