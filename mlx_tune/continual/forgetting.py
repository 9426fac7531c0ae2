"""How much is left of what was known: the same questions then and now, counted, not judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mlx_tune.continual.paired import Changes, mcnemar


def label(number: int, name: str) -> str:
    """Return what a session is called among others, two of which may have one name: ``1 cs``."""
    return f"{number} {name}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One earlier session's questions, asked twice.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        learned: One flag a question that is still its own: was it known word for word when the
            session was learned?
        now: The same questions in the same order, asked of the new model.

    Raises:
        ValueError: They are not equally many.
    """

    number: int
    name: str
    learned: tuple[bool, ...]
    now: tuple[bool, ...]

    def __post_init__(self) -> None:
        """Refuse flags that are not of the same questions."""
        if len(self.learned) != len(self.now):
            raise ValueError(
                f"{label(self.number, self.name)}: {len(self.learned)} questions when learned, "
                f"{len(self.now)} now"
            )


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is left of one session.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        asked: Its questions.
        learned: How many it knew when it was learned; at least one.
        lost: Which of them, as indices from 0, were known then and are not now.
        gained: How many the other way round.
    """

    number: int
    name: str
    asked: int
    learned: int
    lost: tuple[int, ...]
    gained: int

    @staticmethod
    def of(measured: Measured) -> "Kept":
        """Count one session's flags."""
        pairs = list(zip(measured.learned, measured.now, strict=True))
        return Kept(
            number=measured.number,
            name=measured.name,
            asked=len(pairs),
            learned=sum(measured.learned),
            lost=tuple(i for i, (had, has) in enumerate(pairs) if had and not has),
            gained=mcnemar(measured.learned, measured.now).better,
        )

    @property
    def now(self) -> int:
        """How many it knows now."""
        return self.learned - len(self.lost) + self.gained

    @property
    def share(self) -> Fraction:
        """Its score now over that when it was learned; above 1 where it gained."""
        return Fraction(self.now, self.learned)

    @property
    def changes(self) -> Changes:
        """For McNemar's test."""
        return Changes(worse=len(self.lost), better=self.gained)


@dataclass(frozen=True, kw_only=True)
class Backward:
    """Backward transfer over the sessions that were measured.

    Attributes:
        mean: Mean over the sessions of score now − score when learned, each 0 to 1; negative
            where they forgot.
        sessions: How many.
        asked: Their questions together.
        changes: Of all questions together, for McNemar's test.

    Source:
        Lopez-Paz and Ranzato 2017, arXiv:1706.08840.
    """

    mean: Fraction
    sessions: int
    asked: int
    changes: Changes

    @staticmethod
    def over(sessions: Sequence[Kept]) -> "Backward | None":
        """Return the mean over sessions, each counting the same; None over none."""
        if not sessions:
            return None
        changes = [Fraction(kept.now - kept.learned, kept.asked) for kept in sessions]
        return Backward(
            mean=sum(changes, start=Fraction()) / len(changes),
            sessions=len(changes),
            asked=sum(kept.asked for kept in sessions),
            changes=Changes(
                worse=sum(kept.changes.worse for kept in sessions),
                better=sum(kept.changes.better for kept in sessions),
            ),
        )

    @property
    def points(self) -> float:
        """The mean in percent points."""
        return float(100 * self.mean)
