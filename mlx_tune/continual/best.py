"""Which checkpoint of a run is the best one, by rows that were held out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
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


def best(scores: Sequence[Score]) -> Score | None:
    """Return the score with the highest recall, then the lowest loss, then the fewest steps.

    One whose loss is no finite number is never the best; None where no other is left.
    """
    finite = [score for score in scores if score.loss is not None and math.isfinite(score.loss)]
    return max(
        finite, key=lambda score: (score.right, -(score.loss or 0), -score.step), default=None
    )


def to_json(scores: Sequence[Score]) -> bytes:
    """Return scores as JSON, for a checkpoint."""
    return (json.dumps([asdict(score) for score in scores]) + "\n").encode()


def from_json(data: bytes) -> list[Score]:
    """Return the scores that :func:`to_json` wrote."""
    return [Score(**score) for score in json.loads(data)]
