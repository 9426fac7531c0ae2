"""Which rows an epoch has: all new rows; old rows in rotation, then those with the highest loss.

A row is an example, or several: one for each of its wordings, then its noised questions. The
examples of a row are consecutive, and an epoch has one of each of its rows, so that it costs no
more than with one wording.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        variants: In how many wordings each row is; empty where each is in one.
        noised: How many noised questions each row has besides; empty for none.
        min_passes: After every row was trained on this many times, an epoch has the rows with the
            highest loss instead of the next in the rotation; None to rotate to the end.
        teacher: What the rows are trained towards: their own tokens (``labels``), or the
            distribution over each token of the merged model without the adapter (``merged``) or of
            the bare base (``base``).
        weight: Multiplier of their loss.
    """

    size: int
    per_epoch: int
    variants: tuple[int, ...] = ()
    noised: tuple[int, ...] = ()
    min_passes: int | None = None
    teacher: Teacher = LABELS
    weight: float = 1.0

    @cached_property
    def rows(self) -> list[range]:
        """The examples of each row that are its wordings, as indices."""
        variants, noised = self.variants or (1,) * self.size, self.noised or (0,) * self.size
        counts = map(sum, zip(variants, noised, strict=True))
        firsts = itertools.accumulate(counts, initial=0)
        return [range(first, first + count) for first, count in zip(firsts, variants, strict=False)]

    @cached_property
    def num_wordings(self) -> int:
        """How many wordings the rows have together."""
        return sum(self.variants) if self.variants else self.size

    @property
    def num_examples(self) -> int:
        """How many examples the rows have."""
        return self.num_wordings + sum(self.noised)

    @property
    def depends_on_losses(self) -> bool:
        """Whether the examples of some epoch depend on the losses of the epochs before it."""
        return self.min_passes is not None and self.per_epoch < self.size

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the examples of an epoch, one of each of its rows, as sorted indices.

        A row that comes in turn has its wordings in turn, each row beginning with another, so that
        every epoch has all kinds of wordings; every second time it comes with a noised question. A
        row that comes for its loss comes in the wording with the highest loss, in every second
        epoch with a noised question as well.

        Args:
            number: The epoch, counted from 0.
            losses: The largest token loss of each example, nats; ``UNKNOWN_LOSS`` for one that was
                not trained on yet.
        """
        begin, end = number * self.per_epoch, (number + 1) * self.per_epoch
        if self.depends_on_losses:
            end = min(end, max(begin, (self.min_passes or 0) * self.size))
        rows = self.rows
        chosen = []
        left = set(range(self.size))
        for turn in range(begin, end):
            passes, row = divmod(turn, self.size)
            chosen.append(self._in_turn(row, passes + row))
            left.remove(row)
        worst = {row: max(rows[row], key=losses.__getitem__) for row in sorted(left)}
        hardest = sorted(worst, key=lambda row: -losses[worst[row]])  # of equals the first comes
        for row in hardest[: self.per_epoch - len(chosen)]:
            is_noised = number % 2 == 1 and self.noised and self.noised[row]
            chosen.append(self._in_turn(row, number) if is_noised else worst[row])
        return sorted(chosen)

    def _in_turn(self, row: int, turn: int) -> int:
        """Return which example of a row comes in a turn, counted from 0."""
        wordings, noised = self.rows[row], self.noised[row] if self.noised else 0
        if noised and turn % 2:
            return wordings.stop + turn // 2 % noised
        return wordings[(turn // 2 if noised else turn) % len(wordings)]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The sources of an epoch; examples are numbered consecutively, source after source.

    Attributes:
        sources: The new rows first, then the rows of earlier sessions and general questions.
    """

    sources: tuple[DataSource, ...]

    @staticmethod
    def of_all(rows: int) -> "Mixture":
        """Return the mixture in which every epoch has every row, each of one example."""
        return Mixture(sources=(DataSource(size=rows, per_epoch=rows),))

    @property
    def num_examples(self) -> int:
        """How many examples there are."""
        return sum(source.num_examples for source in self.sources)

    @property
    def rows(self) -> list[range]:
        """The examples of each row that are its wordings, as indices."""
        found: list[range] = []
        for first, source in self._numbered():
            found += [range(first + row.start, first + row.stop) for row in source.rows]
        return found

    @property
    def rows_per_epoch(self) -> int:
        """How many rows an epoch has."""
        return sum(source.per_epoch for source in self.sources)

    @property
    def depends_on_losses(self) -> bool:
        """Whether the examples of some epoch depend on the losses of the epochs before it."""
        return any(source.depends_on_losses for source in self.sources)

    @property
    def teachers(self) -> frozenset[Teacher]:
        """What the rows of an epoch are trained towards."""
        return frozenset(source.teacher for source in self.sources if source.per_epoch)

    def source_of(self, example: int) -> DataSource:
        """Return the source of an example, given by its index."""
        for first, source in self._numbered():
            if example < first + source.num_examples:
                return source
        raise IndexError(f"example {example} of {self.num_examples}")

    def epoch(self, number: int, losses: Sequence[float]) -> list[int]:
        """Return the examples of an epoch of all sources; see :meth:`DataSource.epoch`."""
        found: list[int] = []
        for first, source in self._numbered():
            own = source.epoch(number, losses[first : first + source.num_examples])
            found += [first + i for i in own]
        return found

    def _numbered(self) -> Iterator[tuple[int, DataSource]]:
        """Yield each source with the index of its first example."""
        first = 0
        for source in self.sources:
            yield first, source
            first += source.num_examples

    def to_json(self) -> list[dict[str, Any]]:
        """Return what run.json keeps, by the names that its format has."""
        return [
            {
                "rows": source.size,
                "places": source.per_epoch,
                "rounds": source.min_passes,
                "teacher": _RECORDED[source.teacher],
                "weight": source.weight,
                **({"variants": list(source.variants)} if source.variants else {}),
                **({"noised": list(source.noised)} if source.noised else {}),
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
                    variants=tuple(source.get("variants", ())),
                    noised=tuple(source.get("noised", ())),
                    min_passes=source.get("rounds"),
                    teacher=teachers[source.get("teacher", "rows")],
                    weight=source.get("weight", 1.0),
                )
                for source in record
            )
        )
