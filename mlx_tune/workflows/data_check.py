"""Looks at a data set as a training would see it, without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from mlx_tune.data.rows import Row
from mlx_tune.errors import UsageError
from mlx_tune.models.bases import Say
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.plan import TrainingRequest, plan_training
from mlx_tune.workflows.training_plan import TrainingPlan

_BARS = 8


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a row's text, given or taught throughout.

    Attributes:
        text: As the tokens say it, special ones included.
        is_taught: Whether the loss counts it.
    """

    text: str
    is_taught: bool


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """A data set as a training would see it.

    Attributes:
        plan: The training's, with everything that is to be said of the rows.
        lengths: Tokens of each row as taught, in order; those that are left out are not among them.
        row: The row that is shown.
        segments: Its text, in order.
    """

    plan: TrainingPlan
    lengths: tuple[int, ...]
    row: Row
    segments: tuple[Segment, ...]

    @property
    def wordings(self) -> int:
        """How many other wordings are trained on, of all rows."""
        return sum(len(row.variants) - 1 for row in self.plan.new)

    @property
    def paraphrases(self) -> int:
        """How many wordings are asked and never trained on, of all rows."""
        return sum(len(row.paraphrases) for row in self.plan.new)

    def histogram(self) -> list[tuple[int, int, int]]:
        """Return the shortest and the longest length of each class, and how many rows it has."""
        least, most = min(self.lengths), max(self.lengths)
        width = max(1, -(-(most - least + 1) // _BARS))
        found = []
        for start in range(least, most + 1, width):
            end = min(start + width - 1, most)
            found.append((start, end, sum(start <= length <= end for length in self.lengths)))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and the row that is shown."""
        return {
            "rows": len(self.plan.new),
            "wordings": self.wordings,
            "paraphrases": self.paraphrases,
            "tokens": {
                "least": min(self.lengths),
                "median": median(self.lengths),
                "most": max(self.lengths),
                "histogram": [list(one) for one in self.histogram()],
            },
            "shown": {
                "place": self.row.place,
                "segments": [vars(segment) for segment in self.segments],
            },
        }


def check_data(
    data: Sequence[Path], *, store: Path, base: str | None, row: int, say: Say
) -> DataCheck:
    """Read, check and tokenise data beside what the store was taught; nothing is written.

    Args:
        data: Files or folders.
        store: The store's folder; it need not be there.
        base: The base model, when not the store's own.
        row: Which row to show as it is trained, from 1.
        say: Called, in a line, with what takes long.

    Raises:
        InputError: The data cannot be used.
        UsageError: There is no such row.
    """
    flags = {"base": base} if base else {}
    request = TrainingRequest(data=data, store=store, flags=flags, asks_model=False)
    plan = plan_training(request, say=say)
    places = plan.mixture.sources[0].rows
    if not 1 <= row <= len(places):
        raise UsageError(f"--row {row}: there are rows 1 to {len(places)}")
    taught = [plan.examples[place[0]] for place in places]
    shown = taught[row - 1]
    return DataCheck(
        plan=plan,
        lengths=tuple(len(one.tokens) for one in taught),
        row=plan.new[row - 1],
        segments=tuple(_segments(shown.tokens, shown.supervised, plan.tokenizer)),
    )


def _segments(
    tokens: Sequence[int], supervised: Sequence[bool], tokenizer: Tokenizer
) -> list[Segment]:
    marked = zip(tokens, supervised, strict=True)
    return [
        Segment(text=tokenizer.decode_raw([token for token, _ in part]), is_taught=is_taught)
        for is_taught, part in groupby(marked, key=lambda pair: pair[1])
    ]
