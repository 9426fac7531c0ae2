"""The gate: decides from what earlier sessions lost whether a new session is put in use.

It compares each earlier session with its best score on record, question by question: what it knew
and no longer knows, word for word and in other words than the taught ones; the loss of its taught
answers; and the loss on general questions, of all and of each kind. Forgetting more never improves
a verdict, and no gain makes up for a loss. Shares are fractions, so that a limit is exact.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from mlx_tune.continual.recall import GeneralChange, PairedChanges
from mlx_tune.continual.retained import NOTHING, Retained, SessionRetention, label
from mlx_tune.errors import UsageError
from mlx_tune.settings import TrainingSettings, default
from mlx_tune.store.session import ASK, PROMOTE, REFUSE, Verdict

_KIND_SLACK = 2.0
"""A kind of general question is refused where its loss rises by so many times what all may."""

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
        for name, beyond in (("kept", "least"), ("backward", "most"), ("general", "most")):
            first, second = getattr(self, name), getattr(self, f"ask_{name}")
            if not (second <= first if name == "kept" else second >= first):  # nor a NaN
                unit = 100 if name == "backward" else 1
                wrong.append(
                    f"--gate-{name}-{beyond} {unit * second:g} is stricter than "
                    f"--gate-{name} {unit * first:g}"
                )
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
        verbatim: What earlier sessions retained, word for word.
        other_words: What they retained in other words than the taught ones.
        losses: By an earlier session's label, how the loss of its taught answers changed.
        general: None where it was not measured.
        thresholds: What was decided by.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    verbatim: Retained
    other_words: Retained
    losses: Mapping[str, GeneralChange]
    general: GeneralChange | None
    thresholds: Thresholds

    @property
    def worst(self) -> SessionRetention | None:
        """The session that retained the smallest share, word for word; the older of two."""
        sessions = self.verbatim.sessions
        return min(sessions, key=lambda one: (one.share, one.number), default=None)

    @property
    def measures_nothing(self) -> bool:
        """Tell whether there was nothing to decide by."""
        sessions = (*self.verbatim.sessions, *self.other_words.sessions)
        return not sessions and not self.losses and self.general is None

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        general = self.general
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            **self.verbatim.to_json(),
            "other_words": self.other_words.to_json(),
            "losses": [
                {"session": name, **change.to_json(), "p": change.changes.p}
                for name, change in self.losses.items()
            ],
            "general": general and {**general.to_json(), "p": general.changes.p},
            "thresholds": asdict(self.thresholds),
        }


def decide(
    verbatim: Retained,
    *,
    other_words: Retained = NOTHING,
    losses: Mapping[str, GeneralChange] = MappingProxyType({}),
    general: GeneralChange | None,
    thresholds: Thresholds,
) -> Decision:
    """Decide whether the newest session may be used.

    Args:
        verbatim: What earlier sessions retained, word for word.
        other_words: What they retained in other words.
        losses: By an earlier session's label, how the loss of its taught answers changed since it
            was lowest. It tells what a session forgets that never recited its answers.
        general: None where it was not measured.
        thresholds: The limits, the same for both scores.

    Returns:
        *promote* where every value is within its first limit; *refuse* where one is beyond its
        second and its paired test is significant; else *ask*. In other words a loss counts only
        where its test is significant: of two trainings that know equally much, each answers
        wordings that the other does not, so that a few lost ones say nothing.
    """
    grades = [
        *_grade_retained(verbatim, "word for word", thresholds, doubtful=ASK),
        *_grade_retained(other_words, "in other words", thresholds, doubtful=PROMOTE),
    ]
    for name, change in losses.items():
        about = f"{name}, taught answers"
        first, second = thresholds.general, thresholds.ask_general
        grades.append(_grade_rise(about, change, first, second, thresholds))
    if general is not None:
        grades += _grade_general(general, thresholds)
    return Decision(
        verdict=max((verdict for verdict, _ in grades), key=SEVERITY.__getitem__, default=PROMOTE),
        reasons=tuple(words for verdict, words in grades if verdict != PROMOTE),
        verbatim=verbatim,
        other_words=other_words,
        losses=losses,
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


def _grade_retained(
    retained: Retained, score: str, limits: Thresholds, *, doubtful: Verdict
) -> Iterator[_Grade]:
    """Grade what each session keeps of a score, and what they lost together.

    Args:
        retained: By this score.
        score: What it is called.
        limits: The limits.
        doubtful: The verdict on a loss that may be chance.
    """
    for session in retained.sessions:
        gained = f", {session.changes.better} gained" if session.changes.better else ""
        counts = f"{len(session.lost)} lost of the {session.before} known at best{gained}"
        name = label(session.number, session.name)
        first, second = _exact(limits.kept), _exact(limits.ask_kept)
        yield _grade(
            f"{name} keeps {percent(session.share)} of what it knew {score} ({counts})",
            (session.share >= first, f"at least {percent(first)}"),
            (session.share >= second, percent(second)),
            session.changes,
            limits,
            doubtful,
        )
    if (backward := retained.backward) is not None:
        plural = "s" * (backward.sessions != 1)
        over = f"{backward.sessions} session{plural}, {backward.asked} questions"
        first, second = _exact(limits.backward), _exact(limits.ask_backward)
        lost = f"earlier sessions lost {points(backward.lost)} on average {score} ({over})"
        yield _grade(
            lost,
            (backward.lost <= first, f"at most {points(first)}"),
            (backward.lost <= second, points(second)),
            backward.changes,
            limits,
            doubtful,
        )


def _grade_general(general: GeneralChange, limits: Thresholds) -> Iterator[_Grade]:
    """Grade ΔG, and where it is worse that of a kind, which may reach the second limit."""
    first, second = limits.general, limits.ask_general
    whole = _grade_rise("general ability", general, first, second, limits)
    yield whole
    for kind, change in general.kinds.items():
        about = f"general ability, {kind} questions"
        verdict, words = _grade_rise(about, change, second, _KIND_SLACK * second, limits)
        if SEVERITY[verdict] > SEVERITY[whole[0]]:
            yield verdict, words


def _grade_rise(
    about: str, change: GeneralChange, first: float, second: float, limits: Thresholds
) -> _Grade:
    """Grade a rise of losses by two limits, nats a token."""
    worse, better = change.changes.worse, change.changes.better
    over = f"worse on {worse} of {change.asked} questions, better on {better}"
    rise = change.nats_per_token
    if math.isnan(rise):  # no limit holds it, and no question counts as worse
        return REFUSE, f"{about}: the loss is no number any more"
    return _grade(
        f"{about}: the loss rose by {nats(rise)} nats a token ({over})",
        (rise <= first, f"at most {first:g}"),
        (rise <= second, f"{second:g}"),
        change.changes,
        limits,
        ASK,
    )


def _grade(
    words: str,
    first: tuple[bool, str],
    second: tuple[bool, str],
    changes: PairedChanges,
    limits: Thresholds,
    doubtful: Verdict,
) -> _Grade:
    """Grade one value by whether it is within each limit, and say why."""
    (is_good, wanted), (is_tolerable, limit) = first, second
    if is_good or (doubtful == PROMOTE and not changes.is_loss(limits.significance)):
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
