"""Which rows come in which epoch: the new ones always, old ones in turns, then the worst known."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

UNSEEN = float("inf")
"""What is known of a row that has not come yet: it could not be known worse."""


Teacher = Literal["rows", "folded", "base"]
LABELS: Teacher = "rows"
MERGED: Teacher = "folded"
BASE: Teacher = "base"


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Rows of one kind that share some places of every epoch.

    Attributes:
        rows: How many there are, in the order they take turns.
        places: How many of them come in an epoch, each once.
        rounds: When every row has come so often, the places go to the rows known worst; None when
            turns are taken to the end.
        teacher: What they are taught by: their own tokens (``rows``), or, word by word, what the
            network without the adapter says of them (``folded``), or the bare base (``base``).
        weight: Multiplier of their loss.
    """

    rows: int
    places: int
    rounds: int | None = None
    teacher: Teacher = LABELS
    weight: float = 1.0

    @property
    def epochs_of_rounds(self) -> int:
        """After how many epochs every row has come ``rounds`` times; 0 without rounds."""
        return -(-(self.rounds or 0) * self.rows // self.places) if self.places else 0

    def epoch(self, number: int, hardest: Sequence[float]) -> list[int]:
        """Return the rows of an epoch, counted from 0, as sorted indices.

        Args:
            number: Of the epoch, from 0.
            hardest: How badly each row is known, the larger the worse; ``UNSEEN`` at first.
        """
        begin, end = number * self.places, (number + 1) * self.places
        if self.rounds is not None:
            end = min(end, max(begin, self.rounds * self.rows))
        chosen = [turn % self.rows for turn in range(begin, end)]
        left = sorted(set(range(self.rows)) - set(chosen), key=lambda i: (-hardest[i], i))
        return sorted([*chosen, *left[: self.places - len(chosen)]])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What an epoch is made of; rows are numbered through, kind after kind.

    Attributes:
        kinds: Taught rows first, then those that come along.
    """

    kinds: tuple[DataSource, ...]

    @staticmethod
    def of_all(rows: int) -> "Mixture":
        """Return the mixture in which every row comes in every epoch."""
        return Mixture(kinds=(DataSource(rows=rows, places=rows),))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(kind.rows for kind in self.kinds)

    @property
    def places(self) -> int:
        """How many rows an epoch has."""
        return sum(kind.places for kind in self.kinds)

    @property
    def epochs_of_rounds(self) -> int:
        """After how many epochs every row has come as often as it must."""
        return max(kind.epochs_of_rounds for kind in self.kinds)

    @property
    def chooses(self) -> bool:
        """Whether some epoch may depend on what is known of the rows."""
        return any(k.rounds is not None and k.places < k.rows for k in self.kinds)

    @property
    def has_teachers(self) -> bool:
        """Whether some rows are taught by what a network says of them."""
        return any(kind.teacher != LABELS and kind.places for kind in self.kinds)

    def kind(self, row: int) -> DataSource:
        """Return what kind a row is of."""
        first = 0
        for kind in self.kinds:
            first += kind.rows
            if row < first:
                return kind
        raise IndexError(f"row {row} of {self.rows}")

    def epoch(self, number: int, hardest: Sequence[float]) -> list[int]:
        """Return the rows of an epoch, counted from 0, as sorted indices; see `Turns.epoch`."""
        found: list[int] = []
        first = 0
        for kind in self.kinds:
            own = kind.epoch(number, hardest[first : first + kind.rows])
            found += [first + i for i in own]
            first += kind.rows
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return what a run's record keeps."""
        return [asdict(kind) for kind in self.kinds]

    @staticmethod
    def from_json(record: Sequence[Mapping[str, Any]]) -> "Mixture":
        """Return the mixture a record keeps; the inverse of :meth:`to_json`."""
        return Mixture(kinds=tuple(DataSource(**kind) for kind in record))
