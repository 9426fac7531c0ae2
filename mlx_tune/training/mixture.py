"""Which rows an epoch has: all new rows; old rows in rotation, then those with the highest loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

UNKNOWN_LOSS = float("inf")
"""The loss of a row that has not been trained on yet: larger than that of any other row."""

Teacher = Literal["labels", "merged", "base"]
LABELS: Teacher = "labels"
MERGED: Teacher = "merged"
BASE: Teacher = "base"

TEACHERS = (BASE, MERGED, LABELS)
"""In the order in which a step takes them. Sums and dropout masks depend on it, so it is fixed."""

_RECORDED: dict[Teacher, str] = {BASE: "base", MERGED: "folded", LABELS: "rows"}


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
    """

    size: int
    per_epoch: int
    min_passes: int | None = None
    teacher: Teacher = LABELS
    weight: float = 1.0

    @property
    def epochs_of_min_passes(self) -> int:
        """After how many epochs every row has had ``min_passes``; 0 without ``min_passes``."""
        passes = self.min_passes or 0
        return -(-passes * self.size // self.per_epoch) if self.per_epoch else 0

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the rows of an epoch, as sorted indices.

        Args:
            number: The epoch, counted from 0.
            losses: The largest token loss of each row, nats; ``UNKNOWN_LOSS`` for a row that was
                not trained on yet.
        """
        begin, end = number * self.per_epoch, (number + 1) * self.per_epoch
        if self.min_passes is not None:
            end = min(end, max(begin, self.min_passes * self.size))
        rotated = [turn % self.size for turn in range(begin, end)]
        left = sorted(set(range(self.size)) - set(rotated), key=lambda i: (-losses[i], i))
        return sorted([*rotated, *left[: self.per_epoch - len(rotated)]])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The sources of an epoch; rows are numbered consecutively, source after source.

    Attributes:
        sources: The new rows first, then the rows of earlier sessions and general questions.
    """

    sources: tuple[DataSource, ...]

    @staticmethod
    def of_all(rows: int) -> "Mixture":
        """Return the mixture in which every epoch has every row."""
        return Mixture(sources=(DataSource(size=rows, per_epoch=rows),))

    @property
    def size(self) -> int:
        """How many rows there are."""
        return sum(source.size for source in self.sources)

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

    def source_of(self, row: int) -> DataSource:
        """Return the source of a row, given by its index."""
        first = 0
        for source in self.sources:
            first += source.size
            if row < first:
                return source
        raise IndexError(f"row {row} of {self.size}")

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the rows of an epoch of all sources; see :meth:`DataSource.epoch`."""
        found: list[int] = []
        first = 0
        for source in self.sources:
            own = source.epoch(number, losses[first : first + source.size])
            found += [first + i for i in own]
            first += source.size
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
                )
                for source in record
            )
        )
