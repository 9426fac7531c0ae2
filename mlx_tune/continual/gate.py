"""The gate: from what was lost it decides whether a session is put in use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from mlx_tune.continual.recall import GeneralChange
from mlx_tune.continual.significance import Changes, mcnemar
from mlx_tune.errors import UsageError
from mlx_tune.settings import TrainingSettings, default
from mlx_tune.store.session import ASK, PROMOTE, REFUSE, Verdict


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


SEVERITY: Mapping[Verdict, int] = {PROMOTE: 0, ASK: 1, REFUSE: 2}


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What may be lost. Up to the first limits a session is promoted, up to the second a person is
    asked; beyond, it is refused where the loss is hardly chance.

    Attributes:
        kept: Least share of its score that each earlier session keeps, 0 to 1.
        backward: Most that earlier sessions lose on average, as a share of their questions.
        general: Most that the loss on general questions rises, nats per token.
        ask_kept: The second limit of ``kept``.
        ask_backward: That of ``backward``.
        ask_general: That of ``general``.
        significance: The p of the paired test below which a loss is hardly chance.

    Raises:
        UsageError: A second limit is stricter than the first, or the significance is no
            probability.
    """  # noqa: D205 - two sentences that belong together

    kept: float = default("gate_kept")
    backward: float = default("gate_backward") / 100
    general: float = default("gate_general")
    ask_kept: float = default("gate_kept_least")
    ask_backward: float = default("gate_backward_most") / 100
    ask_general: float = default("gate_general_most")
    significance: float = 0.05

    @staticmethod
    def of(settings: TrainingSettings) -> "Thresholds":
        """Return the limits that a person set; the settings count backward transfer in points."""
        return Thresholds(
            kept=settings.gate_kept,
            backward=settings.gate_backward / 100,
            general=settings.gate_general,
            ask_kept=settings.gate_kept_least,
            ask_backward=settings.gate_backward_most / 100,
            ask_general=settings.gate_general_most,
        )

    def __post_init__(self) -> None:
        """Refuse limits under which losing more could look better."""
        wrong = [
            f"ask_{name} {second:g} is stricter than {name} {first:g}"
            for name, first, second, is_looser in (
                ("kept", self.kept, self.ask_kept, self.ask_kept <= self.kept),
                ("backward", self.backward, self.ask_backward, self.ask_backward >= self.backward),
                ("general", self.general, self.ask_general, self.ask_general >= self.general),
            )
            if not is_looser
        ]
        if not 0 <= self.significance <= 1:
            wrong.append(f"significance {self.significance:g} is not within 0 to 1")
        if wrong:
            raise UsageError(f"thresholds of the gate: {'; '.join(wrong)}")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says, and why.

    Attributes:
        verdict: The worst that any value asks for.
        reasons: One line a value that stands in the way; none where the verdict is *promote*.
        sessions: What each earlier session kept, by number.
        skipped: Why a session was not measured, by its label, such as ``1 cs``.
        backward: None where no session could be measured.
        general: None where it was not measured.
        thresholds: What was decided by.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    sessions: tuple[Kept, ...]
    skipped: Mapping[str, str]
    backward: Backward | None
    general: GeneralChange | None
    thresholds: Thresholds

    @property
    def worst(self) -> Kept | None:
        """The session that kept the smallest share; the older of two; None of none."""
        return min(self.sessions, key=lambda kept: (kept.share, kept.number), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        backward, general = self.backward, self.general
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "sessions": [
                {
                    "number": kept.number,
                    "name": kept.name,
                    "asked": kept.asked,
                    "learned": kept.learned,
                    "now": kept.now,
                    "lost": list(kept.lost),
                    "p": kept.changes.p,
                }
                for kept in self.sessions
            ],
            "skipped": dict(self.skipped),
            "backward": backward
            and {
                "points": backward.points,
                "sessions": backward.sessions,
                "asked": backward.asked,
                "p": backward.changes.p,
            },
            "general": general and {**asdict(general), "p": general.changes.p},
            "thresholds": asdict(self.thresholds),
        }


def decide(
    measured: Sequence[Measured],
    *,
    skipped: Mapping[str, str],
    general: GeneralChange | None,
    thresholds: Thresholds,
) -> Decision:
    """Decide whether the newest session may be used.

    Args:
        measured: The earlier sessions that can be measured, in any order.
        skipped: Why another cannot, by its label.
        general: None where it was not measured.
        thresholds: The limits.

    Returns:
        *promote* where every value is within its first limit; *refuse* where one is beyond its
        second and its paired test says that this is hardly chance; else *ask*. A session that knew
        nothing when it was learned cannot lose: it counts nowhere, and ``skipped`` names it.
    """
    in_order = sorted(measured, key=lambda one: (one.number, one.name))
    sessions = tuple(Kept.of(one) for one in in_order if any(one.learned))
    cannot_lose = {
        label(one.number, one.name): (
            "it knew none of its questions when it was learned"
            if one.learned
            else "no question of its own is left to ask"
        )
        for one in in_order
        if not any(one.learned)
    }
    backward = Backward.over(sessions)
    found = [_kept(kept, thresholds) for kept in sessions]
    if backward is not None:
        found.append(_backward(backward, thresholds))
    if general is not None:
        found.append(_general(general, thresholds))
    return Decision(
        verdict=max((verdict for verdict, _ in found), key=SEVERITY.__getitem__, default=PROMOTE),
        reasons=tuple(words for verdict, words in found if verdict != PROMOTE),
        sessions=sessions,
        skipped={**skipped, **cannot_lose},
        backward=backward,
        general=general,
        thresholds=thresholds,
    )


def percent(share: Fraction) -> str:
    """Return a share for a person, rounded down: what is below 95 % never reads 95 %."""
    return f"{math.floor(1000 * share) / 10:g} %"


def points(loss: Fraction) -> str:
    """Return a share lost as percent points for a person, rounded up."""
    tenths = math.ceil(1000 * loss)
    return f"{tenths / 10:g} point{'s' * (tenths != 10)}"


def nats(rise: float) -> str:
    """Return a rise of loss for a person, rounded up: what is over 0.1 never reads 0.1."""
    if not math.isfinite(rise):
        return str(rise)
    thousandths = math.ceil(round(1000 * rise, 6))  # a float may lie a hair above what is meant
    return f"{thousandths / 1000:g}"


def chance(changes: Changes) -> str:
    """Return the p of a paired test for a person."""
    return "p < 0.001" if changes.p < 0.001 else f"p = {changes.p:.3g}"


_Value = tuple[Verdict, str]


def _kept(kept: Kept, limits: Thresholds) -> _Value:
    scored = f"{kept.now} of {kept.asked} right, {kept.learned} when learned"
    words = f"{label(kept.number, kept.name)} keeps {percent(kept.share)} of its score ({scored})"
    return _judge(
        words,
        is_good=kept.share >= _exact(limits.kept),
        is_bearable=kept.share >= _exact(limits.ask_kept),
        wanted=f"at least {percent(_exact(limits.kept))}",
        limit=percent(_exact(limits.ask_kept)),
        changes=kept.changes,
        significance=limits.significance,
    )


def _backward(backward: Backward, limits: Thresholds) -> _Value:
    over = (
        f"{backward.sessions} session{'s' * (backward.sessions != 1)}, {backward.asked} questions"
    )
    return _judge(
        f"earlier sessions lost {points(-backward.mean)} on average ({over})",
        is_good=-backward.mean <= _exact(limits.backward),
        is_bearable=-backward.mean <= _exact(limits.ask_backward),
        wanted=f"at most {points(_exact(limits.backward))}",
        limit=points(_exact(limits.ask_backward)),
        changes=backward.changes,
        significance=limits.significance,
    )


def _general(general: GeneralChange, limits: Thresholds) -> _Value:
    over = f"worse on {general.rose} of {general.asked} questions, better on {general.fell}"
    return _judge(
        f"general ability: the loss rose by {nats(general.nats_per_token)} nats a token ({over})",
        is_good=general.nats_per_token <= limits.general,  # so that a NaN is not good
        is_bearable=general.nats_per_token <= limits.ask_general,
        wanted=f"at most {limits.general:g}",
        limit=f"{limits.ask_general:g}",
        changes=general.changes,
        significance=limits.significance,
    )


def _judge(
    words: str,
    *,
    is_good: bool,
    is_bearable: bool,
    wanted: str,
    limit: str,
    changes: Changes,
    significance: float,
) -> _Value:
    """Grade one value and say why."""
    if is_good:
        return PROMOTE, words
    if is_bearable:
        return ASK, f"{words}; {wanted} is wanted"
    if changes.is_loss(significance):
        return (
            REFUSE,
            f"{words}; the limit is {limit}, and that is hardly chance ({chance(changes)})",
        )
    if changes.worse > changes.better:
        doubt = f"that may be chance ({chance(changes)})"
    else:
        doubt = f"{changes.better} questions did better and {changes.worse} worse"
    return ASK, f"{words}; the limit is {limit}, but {doubt}"


def _exact(limit: float) -> Fraction:
    """Return the decimal number a person wrote: 0.95 as a float is a little less."""
    return Fraction(repr(limit))
