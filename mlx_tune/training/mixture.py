"""Which rows an epoch has: all new rows; old rows in rotation, then those with the highest loss.

A row may be trained on in several forms: its question as taught, in other wordings, and in noised
versions of those. Each form is an example of its own; an epoch has one of them, in rotation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

UNKNOWN_LOSS = float("inf")
"""The loss of a row that has not been trained on yet: larger than that of any other row."""

Teacher = Literal["labels", "merged", "base"]
LABELS: Teacher = "labels"
MERGED: Teacher = "merged"
BASE: Teacher = "base"

TEACHERS = (BASE, MERGED, LABELS)
"""In the order in which a step takes them. Sums and dropout masks depend on it, so it is fixed."""

_RECORDED: dict[Teacher, str] = {BASE: "base", MERGED: "folded", LABELS: "rows"}


class Forms(NamedTuple):
    """How many examples of a row there are; those of its wordings come before the noised ones."""

    wordings: int = 1
    """Its question as taught, and in other words."""
    noised: int = 0
    """Noised versions of them."""

    def example(self, visit: int) -> int:
        """Return which of the row's examples comes when it is visited, as an index.

        Every second visit is a noised one, where there are any.

        Args:
            visit: Counted from 0.
        """
        if not self.noised:
            return visit % self.wordings
        turn, is_noised = divmod(visit, 2)
        return self.wordings + turn % self.noised if is_noised else turn % self.wordings


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Rows that share a teacher, a weight and a number of rows per epoch.

    Attributes:
        size: How many rows there are, in the order of the rotation.
        per_epoch: How many of them an epoch has, each once.
        min_passes: After every row was trained on this many times, an epoch has the rows with the
            highest loss instead of the next in the rotation; None to rotate to the end.
        teacher: What the rows are trained towards: their own tokens (``labels``), or the
            distribution over each token of the merged model without the adapter (``merged``) or of
            the bare base (``base``).
        weight: Multiplier of their loss.
        forms: How many examples of each row there are, in the order of the rows; none where every
            row is one example.
    """

    size: int
    per_epoch: int
    min_passes: int | None = None
    teacher: Teacher = LABELS
    weight: float = 1.0
    forms: tuple[Forms, ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The index of each row's first example, and the number of all examples."""
        counts = map(sum, self.forms) if self.forms else (1 for _ in range(self.size))
        return (0, *accumulate(counts))

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.starts[-1]

    def wordings_of(self, row: int) -> range:
        """Return the indices of a row's examples that are not noised."""
        count = self.forms[row].wordings if self.forms else 1
        return range(self.starts[row], self.starts[row] + count)

    @property
    def epochs_of_min_passes(self) -> int:
        """After how many epochs every row has had ``min_passes``; 0 without ``min_passes``."""
        passes = self.min_passes or 0
        return -(-passes * self.size // self.per_epoch) if self.per_epoch else 0

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the examples of an epoch, one of each row that it has, as sorted indices.

        Args:
            number: The epoch, counted from 0.
            losses: The largest token loss of each example, nats; ``UNKNOWN_LOSS`` for one that was
                not trained on yet.
        """
        begin, end = number * self.per_epoch, (number + 1) * self.per_epoch
        if self.min_passes is not None:
            end = min(end, max(begin, self.min_passes * self.size))
        visits = {turn % self.size: turn // self.size for turn in range(begin, end)}
        hardest = sorted(set(range(self.size)) - set(visits), key=lambda i: self._rank(i, losses))
        visits |= dict.fromkeys(hardest[: self.per_epoch - len(visits)], number)
        return sorted(self._example(row, visit) for row, visit in visits.items())

    def _rank(self, row: int, losses: Sequence[float]) -> tuple[float, int]:
        return -max(losses[i] for i in self.wordings_of(row)), row

    def _example(self, row: int, visit: int) -> int:
        # Each row begins elsewhere in its rotation, so that a step has some of every form; the
        # first visit of all is as taught.
        turn = visit + row if visit else 0
        return self.starts[row] + (self.forms[row].example(turn) if self.forms else 0)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The sources of an epoch; examples are numbered consecutively, source after source.

    Attributes:
        sources: The new rows first, then the rows of earlier sessions and general questions.
    """

    sources: tuple[DataSource, ...]

    @staticmethod
    def of_all(rows: int) -> "Mixture":
        """Return the mixture in which every epoch has every row."""
        return Mixture(sources=(DataSource(size=rows, per_epoch=rows),))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The index of each source's first example, and the number of all examples."""
        return (0, *accumulate(source.examples for source in self.sources))

    @property
    def size(self) -> int:
        """How many examples there are."""
        return self.starts[-1]

    @property
    def rows_per_epoch(self) -> int:
        """How many rows an epoch has."""
        return sum(source.per_epoch for source in self.sources)

    @property
    def epochs_of_min_passes(self) -> int:
        """After how many epochs every row has had the ``min_passes`` of its source."""
        return max(source.epochs_of_min_passes for source in self.sources)

    @property
    def depends_on_losses(self) -> bool:
        """Whether the rows of some epoch depend on the losses of the epochs before it."""
        return any(s.min_passes is not None and s.per_epoch < s.size for s in self.sources)

    @property
    def has_teachers(self) -> bool:
        """Whether some rows are trained towards the distribution of a model."""
        return any(source.teacher != LABELS and source.per_epoch for source in self.sources)

    def source_of(self, example: int) -> DataSource:
        """Return the source of an example, given by its index."""
        for source, end in zip(self.sources, self.starts[1:], strict=True):
            if example < end:
                return source
        raise IndexError(f"example {example} of {self.size}")

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the examples of an epoch of all sources; see :meth:`DataSource.epoch`."""
        found: list[int] = []
        for source, first in zip(self.sources, self.starts[:-1], strict=True):
            own = source.epoch(number, losses[first : first + source.examples])
            found += [first + i for i in own]
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return what run.json keeps, by the names that its format has."""
        return [
            {
                "rows": source.size,
                "places": source.per_epoch,
                "rounds": source.min_passes,
                "teacher": _RECORDED[source.teacher],
                "weight": source.weight,
                **({"forms": [list(forms) for forms in source.forms]} if source.forms else {}),
            }
            for source in self.sources
        ]

    @staticmethod
    def from_json(record: Sequence[Mapping[str, Any]]) -> "Mixture":
        """Return the mixture that run.json keeps; the inverse of :meth:`to_json`."""
        teachers = {name: teacher for teacher, name in _RECORDED.items()}
        return Mixture(
            sources=tuple(
                DataSource(
                    size=source["rows"],
                    per_epoch=source["places"],
                    min_passes=source.get("rounds"),
                    teacher=teachers[source.get("teacher", "rows")],
                    weight=source.get("weight", 1.0),
                    forms=tuple(Forms(*forms) for forms in source.get("forms", ())),
                )
                for source in record
            )
        )
