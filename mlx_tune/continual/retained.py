"""What earlier sessions retain: each compared with its best score on record, question by question.

What was known and no longer is counts, and no gain makes up for a loss. Shares are fractions, so
that a limit is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mlx_tune.continual.recall import PairedChanges, mcnemar


def label(number: int, name: str) -> str:
    """Return what a session is called among others, two of which may have one name: ``1 cs``."""
    return f"{number} {name}"


@dataclass(frozen=True, kw_only=True)
class SessionOutcomes:
    """How one earlier session's questions came out, at its best and with the new model.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        before: One flag a question that no later session answers otherwise: was it right in the
            best score on record, of this session's own training or a later one's? None for one
            that was not asked.
        after: The same questions in the same order, asked of the new model. Those that were asked
            both times are compared.
        wordings: How each was asked, where that is not as taught; empty where it is.

    Raises:
        ValueError: They are not equally many.
    """

    number: int
    name: str
    before: tuple[bool | None, ...]
    after: tuple[bool | None, ...]
    wordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.before) != len(self.after):
            raise ValueError(
                f"{label(self.number, self.name)}: {len(self.before)} questions on record, "
                f"{len(self.after)} now"
            )

    @property
    def pairs(self) -> dict[int, tuple[bool, bool]]:
        """Both flags of the questions that were asked both times, by index."""
        both = enumerate(zip(self.before, self.after, strict=True))
        return {i: (x, y) for i, (x, y) in both if x is not None and y is not None}


@dataclass(frozen=True, kw_only=True)
class SessionRetention:
    """How much of one session is retained.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        asked: Its questions that were compared.
        before: How many were right at its best; at least one.
        lost: Which of them, as indices from 0, were right then and are not now. What was gained
            instead makes up for none: who asks for what was lost gets a wrong answer.
        lost_wordings: How these were asked, where that is not as taught.
        changes: How many are wrong now and were right, and the other way round: McNemar's test.
    """

    number: int
    name: str
    asked: int
    before: int
    lost: tuple[int, ...]
    changes: PairedChanges
    lost_wordings: tuple[str, ...] = ()

    @staticmethod
    def of(outcomes: SessionOutcomes) -> "SessionRetention":
        """Count one session's flags."""
        pairs = outcomes.pairs
        before = [was for was, _ in pairs.values()]
        lost = tuple(i for i, (was, is_now) in pairs.items() if was and not is_now)
        return SessionRetention(
            number=outcomes.number,
            name=outcomes.name,
            asked=len(pairs),
            before=sum(before),
            lost=lost,
            changes=mcnemar(before, [is_now for _, is_now in pairs.values()]),
            lost_wordings=tuple(outcomes.wordings[i] for i in lost) if outcomes.wordings else (),
        )

    @property
    def after(self) -> int:
        """How many are right now."""
        return self.before - self.changes.worse + self.changes.better

    @property
    def share(self) -> Fraction:
        """The share of what it knew that it still knows, 0 to 1."""
        return 1 - Fraction(len(self.lost), self.before)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        own = {"number": self.number, "name": self.name, "asked": self.asked}
        scores = {"learned": self.before, "now": self.after, "lost": list(self.lost)}
        return {**own, **scores, "p": self.changes.p}


@dataclass(frozen=True, kw_only=True)
class BackwardTransfer:
    """Backward transfer over the sessions that were measured.

    Attributes:
        mean: Mean over the sessions of score now − score at best, each 0 to 1; negative
            where they forgot.
        lost: Mean over the sessions of the share of their questions that was lost; what is decided
            by, for gains elsewhere make up for nothing.
        sessions: How many.
        asked: Their questions together.
        changes: Of all questions together, for McNemar's test.

    Source:
        Lopez-Paz and Ranzato 2017, arXiv:1706.08840.
    """

    mean: Fraction
    lost: Fraction
    sessions: int
    asked: int
    changes: PairedChanges

    @staticmethod
    def over(sessions: Sequence[SessionRetention]) -> "BackwardTransfer | None":
        """Return the mean over sessions, each with the same weight; None over none."""
        if not sessions:
            return None
        changes = [Fraction(one.after - one.before, one.asked) for one in sessions]
        return BackwardTransfer(
            mean=sum(changes, start=Fraction()) / len(changes),
            lost=sum((Fraction(len(one.lost), one.asked) for one in sessions), start=Fraction())
            / len(sessions),
            sessions=len(changes),
            asked=sum(one.asked for one in sessions),
            changes=PairedChanges(
                worse=sum(one.changes.worse for one in sessions),
                better=sum(one.changes.better for one in sessions),
            ),
        )

    @property
    def points(self) -> float:
        """The mean in percent points."""
        return float(100 * self.mean)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        counts = {"points": self.points, "sessions": self.sessions, "asked": self.asked}
        return {**counts, "p": self.changes.p}


@dataclass(frozen=True, kw_only=True)
class Retained:
    """What earlier sessions retained, by one score.

    Attributes:
        sessions: Each of them, by number.
        skipped: Why a session was not measured, by its label, such as ``1 cs``.
        backward: None where no session could be measured.
    """

    sessions: tuple[SessionRetention, ...]
    skipped: Mapping[str, str]
    backward: BackwardTransfer | None

    @staticmethod
    def of(measured: Sequence[SessionOutcomes], skipped: Mapping[str, str]) -> "Retained":
        """Count the flags of sessions.

        One with no right answer when it was trained cannot lose any: it counts nowhere, and
        ``skipped`` names it.

        Args:
            measured: The sessions that can be measured, in any order.
            skipped: Why another cannot, by its label.
        """
        in_order = sorted(measured, key=lambda one: (one.number, one.name))
        every = [SessionRetention.of(one) for one in in_order]
        sessions = tuple(one for one in every if one.before)
        knew_none = "it knew none of its questions when it was learned"
        cannot_lose = {
            label(one.number, one.name): (
                knew_none if one.asked else "no question of its own is left to ask"
            )
            for one in every
            if not one.before
        }
        return Retained(
            sessions=sessions,
            skipped={**skipped, **cannot_lose},
            backward=BackwardTransfer.over(sessions),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        return {
            "sessions": [one.to_json() for one in self.sessions],
            "skipped": dict(self.skipped),
            "backward": self.backward and self.backward.to_json(),
        }


NOTHING = Retained(sessions=(), skipped={}, backward=None)
"""Where no earlier session is measured by a score."""
