"""Is everything learned? The exam that ends a training before its last planned step.

An answer is generated word for word when each of its tokens has a probability over one half, for
then no other can be the first choice. That is stricter than being right by a hair, and holds when
the weights are rounded.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

PASS_NATS = math.log(2)
"""The loss of a token whose probability is one half."""

_LIKELY_SHARE = 0.05  # of rows that may still fail before it is worth asking them all


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """The rows that have to be known, and how the last asking ended.

    Attributes:
        rows: As indices into what is trained on.
        least_epochs: Before so many, no training ends.
        step: After which they were last asked; 0 for never.
        unknown: How many were not known then.
    """

    rows: tuple[int, ...]
    least_epochs: int
    step: int = 0
    unknown: int = 0

    def is_due(self, epoch: int, hardest: Sequence[float]) -> bool:
        """Tell whether all rows should be asked after an epoch, counted from 1.

        Training has seen how hard each row was when it last came. Asking them all costs a third of
        an epoch, so it waits until nearly all seem known.

        Args:
            epoch: That just ended.
            hardest: The loss of every row's hardest token when it last came, nats.
        """
        if not self.rows or epoch < self.least_epochs:
            return False
        unknown = sum(not hardest[row] < PASS_NATS for row in self.rows)
        return unknown <= _LIKELY_SHARE * len(self.rows)

    def sat(self, step: int, hardest: Sequence[float]) -> "EarlyStopping":
        """Return the exam after it was sat.

        Args:
            step: After which.
            hardest: The loss of each of ``rows``' hardest token, nats.
        """
        return replace(self, step=step, unknown=sum(not nats < PASS_NATS for nats in hardest))

    def is_passed(self, step: int) -> bool:
        """Tell whether all rows were known after a step."""
        return self.step == step > 0 and self.unknown == 0

    def to_json(self) -> bytes:
        """Return its result, for a checkpoint."""
        return (json.dumps({"step": self.step, "unknown": self.unknown}) + "\n").encode()

    def resumed(self, data: bytes) -> "EarlyStopping":
        """Return the exam with the result that :meth:`to_json` wrote."""
        return replace(self, **json.loads(data))


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """What a model after some step says to held-out rows.

    Attributes:
        step: Optimizer updates done.
        right: Rows known verbatim.
        asked: Rows scored.
        loss: Nats per token; None where it was not finite.
    """

    step: int
    right: int
    asked: int
    loss: float | None


def best_score(scores: Sequence[ValidationScore]) -> ValidationScore | None:
    """Return the score with the highest recall, then the lowest loss, then the fewest steps.

    One whose loss is no finite number is never the best; None where no other is left.
    """
    finite = [score for score in scores if score.loss is not None and math.isfinite(score.loss)]
    return max(
        finite, key=lambda score: (score.right, -(score.loss or 0), -score.step), default=None
    )


def scores_to_json(scores: Sequence[ValidationScore]) -> bytes:
    """Return scores as JSON, for a checkpoint."""
    return (json.dumps([asdict(score) for score in scores]) + "\n").encode()


def scores_from_json(data: bytes) -> list[ValidationScore]:
    """Return the scores that :func:`to_json` wrote."""
    return [ValidationScore(**score) for score in json.loads(data)]
