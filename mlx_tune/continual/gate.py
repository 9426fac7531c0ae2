"""The gate: decides from what earlier sessions lost whether a new session is put in use.

It measures retention (each earlier session's score now over that when it was trained), backward
transfer, and the loss on general questions. Shares are fractions, so that a limit is exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from mlx_tune.continual.recall import GeneralChange, PairedChanges, mcnemar
from mlx_tune.errors import UsageError
from mlx_tune.settings import TrainingSettings, default
from mlx_tune.store.session import ASK, PROMOTE, REFUSE, Verdict


def label(number: int, name: str) -> str:
    """Return what a session is called among others, two of which may have one name: ``1 cs``."""
    return f"{number} {name}"


@dataclass(frozen=True, kw_only=True)
class SessionOutcomes:
    """How one earlier session's questions came out, when it was trained and with the new model.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        before: One flag a question that no later session taught again: was it answered word for
            word when the session was trained?
        after: The same questions in the same order, asked of the new model.

    Raises:
        ValueError: They are not equally many.
    """

    number: int
    name: str
    before: tuple[bool, ...]
    after: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.before) != len(self.after):
            raise ValueError(
                f"{label(self.number, self.name)}: {len(self.before)} questions when learned, "
                f"{len(self.after)} now"
            )


@dataclass(frozen=True, kw_only=True)
class SessionRetention:
    """How much of one session is retained.

    Attributes:
        number: Its place in the chain.
        name: What it is called.
        asked: Its questions.
        before: How many were right when it was trained; at least one.
        lost: Which of them, as indices from 0, were right then and are not now.
        changes: How many are wrong now and were right, and the other way round: McNemar's test.
    """

    number: int
    name: str
    asked: int
    before: int
    lost: tuple[int, ...]
    changes: PairedChanges

    @staticmethod
    def of(outcomes: SessionOutcomes) -> "SessionRetention":
        """Count one session's flags."""
        pairs = list(zip(outcomes.before, outcomes.after, strict=True))
        return SessionRetention(
            number=outcomes.number,
            name=outcomes.name,
            asked=len(pairs),
            before=sum(outcomes.before),
            lost=tuple(i for i, (was, is_now) in enumerate(pairs) if was and not is_now),
            changes=mcnemar(outcomes.before, outcomes.after),
        )

    @property
    def after(self) -> int:
        """How many are right now."""
        return self.before - self.changes.worse + self.changes.better

    @property
    def share(self) -> Fraction:
        """Its score now over that when it was trained; above 1 where it gained."""
        return Fraction(self.after, self.before)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        own = {"number": self.number, "name": self.name, "asked": self.asked}
        scores = {"learned": self.before, "now": self.after, "lost": list(self.lost)}
        return {**own, **scores, "p": self.changes.p}


@dataclass(frozen=True, kw_only=True)
class BackwardTransfer:
    """Backward transfer over the sessions that were measured.

    Attributes:
        mean: Mean over the sessions of score now − score when trained, each 0 to 1; negative
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
    changes: PairedChanges

    @staticmethod
    def over(sessions: Sequence[SessionRetention]) -> "BackwardTransfer | None":
        """Return the mean over sessions, each with the same weight; None over none."""
        if not sessions:
            return None
        changes = [Fraction(one.after - one.before, one.asked) for one in sessions]
        return BackwardTransfer(
            mean=sum(changes, start=Fraction()) / len(changes),
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


SEVERITY: Mapping[Verdict, int] = {PROMOTE: 0, ASK: 1, REFUSE: 2}


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What may be lost.

    Up to the first limits a session is promoted, up to the second a person is asked; beyond, it is
    refused where the loss is significant.

    Attributes:
        kept: Least share of its score that each earlier session keeps, 0 to 1.
        backward: Most that earlier sessions lose on average, as a share of their questions.
        general: Most that the loss on general questions rises, nats per token.
        ask_kept: The second limit of ``kept``.
        ask_backward: That of ``backward``.
        ask_general: That of ``general``.
        significance: The level of the paired test, 0 to 1: a loss is significant where p is below.

    Raises:
        UsageError: A second limit is stricter than the first, or the significance is no
            probability.
    """

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
        wrong = []
        for name in ("kept", "backward", "general"):
            first, second = getattr(self, name), getattr(self, f"ask_{name}")
            if not (second <= first if name == "kept" else second >= first):  # nor a NaN
                wrong.append(f"ask_{name} {second:g} is stricter than {name} {first:g}")
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
        sessions: What each earlier session retained, by number.
        skipped: Why a session was not measured, by its label, such as ``1 cs``.
        backward: None where no session could be measured.
        general: None where it was not measured.
        thresholds: What was decided by.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    sessions: tuple[SessionRetention, ...]
    skipped: Mapping[str, str]
    backward: BackwardTransfer | None
    general: GeneralChange | None
    thresholds: Thresholds

    @property
    def worst(self) -> SessionRetention | None:
        """The session that retained the smallest share; the older of two; None of none."""
        return min(self.sessions, key=lambda one: (one.share, one.number), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        general = self.general
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "sessions": [one.to_json() for one in self.sessions],
            "skipped": dict(self.skipped),
            "backward": self.backward and self.backward.to_json(),
            "general": general and {**general.to_json(), "p": general.changes.p},
            "thresholds": asdict(self.thresholds),
        }


def decide(
    measured: Sequence[SessionOutcomes],
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
        second and its paired test is significant; else *ask*. A session with no right answer when
        it was trained cannot lose any: it counts nowhere, and ``skipped`` names it.
    """
    in_order = sorted(measured, key=lambda one: (one.number, one.name))
    sessions = tuple(SessionRetention.of(one) for one in in_order if any(one.before))
    knew_none = "it knew none of its questions when it was learned"
    cannot_lose = {
        label(one.number, one.name): (
            knew_none if one.before else "no question of its own is left to ask"
        )
        for one in in_order
        if not any(one.before)
    }
    backward = BackwardTransfer.over(sessions)
    grades = [_grade_session(one, thresholds) for one in sessions]
    if backward is not None:
        grades.append(_grade_backward(backward, thresholds))
    if general is not None:
        grades.append(_grade_general(general, thresholds))
    return Decision(
        verdict=max((verdict for verdict, _ in grades), key=SEVERITY.__getitem__, default=PROMOTE),
        reasons=tuple(words for verdict, words in grades if verdict != PROMOTE),
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


_Grade = tuple[Verdict, str]


def _grade_session(session: SessionRetention, limits: Thresholds) -> _Grade:
    score = f"{session.after} of {session.asked} right, {session.before} when learned"
    name = label(session.number, session.name)
    first, second = _exact(limits.kept), _exact(limits.ask_kept)
    return _grade(
        f"{name} keeps {percent(session.share)} of its score ({score})",
        (session.share >= first, f"at least {percent(first)}"),
        (session.share >= second, percent(second)),
        session.changes,
        limits,
    )


def _grade_backward(backward: BackwardTransfer, limits: Thresholds) -> _Grade:
    plural = "s" * (backward.sessions != 1)
    over = f"{backward.sessions} session{plural}, {backward.asked} questions"
    first, second = _exact(limits.backward), _exact(limits.ask_backward)
    return _grade(
        f"earlier sessions lost {points(-backward.mean)} on average ({over})",
        (-backward.mean <= first, f"at most {points(first)}"),
        (-backward.mean <= second, points(second)),
        backward.changes,
        limits,
    )


def _grade_general(general: GeneralChange, limits: Thresholds) -> _Grade:
    worse, better = general.changes.worse, general.changes.better
    over = f"worse on {worse} of {general.asked} questions, better on {better}"
    rise = general.nats_per_token  # may be a NaN, which is within no limit
    return _grade(
        f"general ability: the loss rose by {nats(rise)} nats a token ({over})",
        (rise <= limits.general, f"at most {limits.general:g}"),
        (rise <= limits.ask_general, f"{limits.ask_general:g}"),
        general.changes,
        limits,
    )


def _grade(
    words: str,
    first: tuple[bool, str],
    second: tuple[bool, str],
    changes: PairedChanges,
    limits: Thresholds,
) -> _Grade:
    """Grade one value by whether it is within each limit, and say why."""
    (is_good, wanted), (is_tolerable, limit) = first, second
    if is_good:
        return PROMOTE, words
    if is_tolerable:
        return ASK, f"{words}; {wanted} is wanted"
    p = "p < 0.001" if changes.p < 0.001 else f"p = {changes.p:.3g}"
    if changes.is_loss(limits.significance):
        return REFUSE, f"{words}; the limit is {limit}, and that is hardly chance ({p})"
    doubt = f"{changes.better} questions did better and {changes.worse} worse"
    if changes.worse > changes.better:
        doubt = f"that may be chance ({p})"
    return ASK, f"{words}; the limit is {limit}, but {doubt}"


def _exact(limit: float) -> Fraction:
    """Return the decimal number a person wrote: 0.95 as a float is a little less."""
    return Fraction(repr(limit))
