"""When a training ends before its last planned step, and which of its checkpoints is the best.

Greedy generation gives an answer word for word when each of its tokens has a probability over one
half, because no other token can then be the argmax. That is stricter than a bare argmax, and still
holds after the weights are rounded.
"""

import json
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from mlx_tune.training.mixture import UNKNOWN_LOSS

PASS_NATS = math.log(2)
"""The loss of a token whose probability is one half; below it a token counts as learned."""

_DUE_SHARE = 0.05  # of rows that may still fail before a check of all rows is worth its time

# Of the other wordings that may still fail once every question is known as taught. Until the last
# of them was recited 24 rows would have taken over 37 epochs instead of 24 (docs/LOG.md).
_WORDINGS_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Which rows have to be learned before training stops, and the result of the last check.

    Attributes:
        rows: The examples of each, as taught and then in its other wordings, as indices into what
            is trained on. None where all planned steps are taken.
        min_epochs: Training does not stop before so many.
        step: After which they were last checked; 0 for never.
        failing: How many of the examples checked last were not learned then, beyond those that may
            fail.
    """

    rows: tuple[Sequence[int], ...]
    min_epochs: int
    step: int = 0
    failing: int = 0

    def is_due(self, epoch: int, max_token_losses: Sequence[float], came: Container[int]) -> bool:
        """Tell whether all rows should be checked after an epoch, counted from 1.

        A check costs a third of an epoch, so it waits until nearly all rows seem learned, by the
        losses that training saw. Of a row with several wordings those that did not come in this
        epoch were seen long ago, or never, and by now may well be learned. So only the one that
        came counts: each row's is another, so together they are a fair sample.

        Args:
            epoch: That just ended.
            max_token_losses: The largest token loss of every example trained on, nats.
            came: The examples of this epoch.
        """
        if not self.rows or epoch < self.min_epochs:
            return False
        newest = [_newest_loss(row, max_token_losses, came) for row in self.rows]
        return _failing(newest) <= _DUE_SHARE * len(self.rows)

    def parts(self) -> Iterator[tuple[list[int], int]]:
        """Yield the examples to check and how many of them may fail, part after part.

        First every row as taught, of which none may, then all other wordings. A check ends with the
        first part that fails.
        """
        yield [row[0] for row in self.rows], 0
        if others := [i for row in self.rows for i in row[1:]]:
            yield others, int(_WORDINGS_SHARE * len(others))

    def update(
        self, step: int, max_token_losses: Sequence[float], *, may_fail: int = 0
    ) -> "EarlyStopping":
        """Return the criterion with the result of a check.

        Args:
            step: After which it was made.
            max_token_losses: The largest token loss of each example of its last part, nats.
            may_fail: How many of them need not be learned.
        """
        failing = max(0, _failing(max_token_losses) - may_fail)
        return replace(self, step=step, failing=failing)

    def is_met(self, step: int) -> bool:
        """Tell whether enough was found to be learned after a step."""
        return self.step == step > 0 and self.failing == 0

    def to_json(self) -> bytes:
        """Return the result of the last check, for a checkpoint."""
        return (json.dumps({"step": self.step, "unknown": self.failing}) + "\n").encode()

    def resumed(self, data: bytes) -> "EarlyStopping":
        """Return the criterion with the result that :meth:`to_json` wrote."""
        result = json.loads(data)
        return replace(self, step=result["step"], failing=result["unknown"])


def _newest_loss(
    row: Sequence[int], max_token_losses: Sequence[float], came: Container[int]
) -> float:
    """Return the loss of a row as it came in this epoch, else the lowest that was ever seen.

    A wording that came long ago may well be learned by now; where it is not, the check tells.
    """
    now = [max_token_losses[i] for i in row if i in came]
    seen = [max_token_losses[i] for i in row if max_token_losses[i] != UNKNOWN_LOSS]
    return max(now) if now else min(seen, default=UNKNOWN_LOSS)


def _failing(max_token_losses: Sequence[float]) -> int:
    return sum(not nats < PASS_NATS for nats in max_token_losses)  # so that a NaN fails


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """The score of a model after some step on held-out rows.

    Attributes:
        step: Optimizer updates done.
        right: Rows answered word for word.
        asked: Rows scored.
        loss: Nats per token; None where it was not finite.
    """

    step: int
    right: int
    asked: int
    loss: float | None


def best_score(scores: Sequence[ValidationScore]) -> ValidationScore | None:
    """Return the score with the highest recall, then the lowest loss, then the fewest steps.

    One whose loss is not finite is never the best; None where no other is left. None too where no
    row was ever right: of facts that were not taught the loss rises while the taught ones are
    learned, so the lowest would undo the training.
    """
    finite = [one for one in scores if one.loss is not None and math.isfinite(one.loss)]
    if not any(one.right for one in finite):
        return None
    return max(finite, key=lambda one: (one.right, -(one.loss or 0), -one.step), default=None)


def scores_to_json(scores: Sequence[ValidationScore]) -> bytes:
    """Return scores as JSON, for a checkpoint."""
    return (json.dumps([asdict(score) for score in scores]) + "\n").encode()


def scores_from_json(data: bytes) -> list[ValidationScore]:
    """Return the scores that :func:`scores_to_json` wrote."""
    return [ValidationScore(**score) for score in json.loads(data)]
