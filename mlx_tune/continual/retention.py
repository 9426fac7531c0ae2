"""The retention matrix: how well each session is known after each, and the measures taken from it.

R[i][j] is the share of session j's questions that are right after session i; row 0 is the base's.
Records of sessions keep one outcome for each question that was a session's at that time. Outcomes
of questions that a later session answers otherwise are left out, so that a fact that changed is
never counted as forgotten.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from mlx_tune.continual.answers import RULES, AnswerScore, Grade
from mlx_tune.continual.in_force import (
    History,
    current_rows,
    rows_unchanged_in_all_turns,
)
from mlx_tune.data.rows import Row

Kind = Literal["other_words", "as_taught", "verbatim", "paraphrases"]
"""What is asked and how it is scored.

``as_taught`` and ``other_words``: whether the answer is right (:mod:`mlx_tune.continual.answers`),
asked as taught, and in wordings never trained on. ``verbatim`` and ``paraphrases``: whether it is
the taught one word for word, asked likewise.
"""
ANSWERED: tuple[Kind, ...] = ("as_taught", "other_words")
RECITED: tuple[Kind, ...] = ("verbatim", "paraphrases")
KINDS: tuple[Kind, ...] = (*RECITED, *ANSWERED)
REWORDED: tuple[Kind, ...] = ("paraphrases", "other_words")
"""Those that ask in other wordings than the taught ones."""

_Question = tuple[str, str | None]  # hashes of what is asked and of the answer

Cell = tuple[int, int] | None
"""(right, asked); None where nothing was measured or there is nothing to ask."""

_Z = 1.959963984540054  # the standard normal distribution's 97.5 % point


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A mean over sessions, and what it was taken over.

    Attributes:
        value: Dimensionless, 1 is 100 %; None where no session could be measured.
        sessions: Numbers of those it is the mean of.
        left_out: Numbers of those it should cover too and that lack a cell it needs.
        questions: How many questions those sessions asked in the row that is summed up.
        interval: Its 95 % confidence interval, for means of shares; None for differences.
    """

    value: float | None
    sessions: tuple[int, ...]
    left_out: tuple[int, ...]
    questions: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class RetentionMatrix:
    """The matrix of a chain of T sessions and the measures taken from it.

    Attributes:
        cells: T + 1 rows, the base's first, of T cells each.

    Raises:
        ValueError: The cells have another shape, or more are right than were asked.

    Source:
        Lopez-Paz and Ranzato 2017, arXiv:1706.08840 (the matrix, ACC, BWT, FWT); Wang et al. 2023
        (TRACE), arXiv:2310.06762, uses the same for language models.
    """

    cells: tuple[tuple[Cell, ...], ...]

    @staticmethod
    def of(rows: Iterable[Iterable[Cell]]) -> "RetentionMatrix":
        """Return the matrix of rows of cells, the base's row first."""
        return RetentionMatrix(cells=tuple(tuple(row) for row in rows))

    def __post_init__(self) -> None:
        if any(len(row) != self.length for row in self.cells):
            raise ValueError(f"{len(self.cells)} rows need {self.length} cells each")
        for right, asked in filter(None, (cell for row in self.cells for cell in row)):
            if not 0 <= right <= asked:
                raise ValueError(f"{right} right of {asked} asked")

    @property
    def length(self) -> int:
        """T, the number of sessions."""
        return len(self.cells) - 1

    def rate(self, i: int, j: int) -> float | None:
        """Return R[i][j], 0 to 1, for i from 0 and j from 1; None where it is not known."""
        cell = self.cells[i][j - 1]
        return cell[0] / cell[1] if cell and cell[1] else None

    def accuracy(self) -> Measure:
        """Return ACC_T = mean over j of R[T][j]: what is known now, every session alike."""
        return self._mean(self._now(), share=True)

    def backward_transfer(self) -> Measure:
        """Return BWT_T = mean over j < T of R[T][j] − R[j][j]: what came since it was learned.

        Below zero the chain forgets; above, later sessions helped earlier ones.
        """
        now = self._now()
        return self._mean({j: _difference(now[j], self.rate(j, j)) for j in range(1, self.length)})

    def forward_transfer(self) -> Measure:
        """Return FWT_T = mean over j ≥ 2 of R[j−1][j] − R[0][j]: known before it was taught."""
        later = range(2, self.length + 1)
        return self._mean({j: _difference(self.rate(j - 1, j), self.rate(0, j)) for j in later})

    def forgetting(self) -> Measure:
        """Return F_T = mean over j < T of (max over l of R[l][j]) − R[T][j], never below zero.

        The maximum is over the rows that were measured, T itself included, and R[j][j] has to be
        among them.

        Source:
            Chaudhry et al. 2018, arXiv:1801.10112, equation 3, where l goes from 1 to T − 1: there
            a session that is known better than ever counts below zero.
        """
        lost: dict[int, float | None] = {}
        for j in range(1, self.length):
            rates = [self.rate(i, j) for i in range(self.length + 1)]
            best = max((rate for rate in rates if rate is not None), default=None)
            lost[j] = None if rates[j] is None else _difference(best, rates[-1])
        return self._mean(lost)

    def worst(self) -> int | None:
        """Return the number of the session that is known least now, the earliest of equals."""
        rates = {j: rate for j, rate in self._now().items() if rate is not None}
        return min(rates, key=lambda j: (rates[j], j), default=None)

    def interval(self, i: int, j: int) -> tuple[float, float] | None:
        """Return the 95 % interval of R[i][j], or None where it is not known."""
        cell = self.cells[i][j - 1]
        return wilson(*cell) if cell and cell[1] else None

    def _now(self) -> dict[int, float | None]:
        return {j: self.rate(self.length, j) for j in range(1, self.length + 1)}

    def _mean(self, values: dict[int, float | None], *, share: bool = False) -> Measure:
        found = {j: value for j, value in values.items() if value is not None}
        asked = [cell[1] for cell in (self.cells[-1][j - 1] for j in found) if cell]
        mean = sum(found.values()) / len(found) if found else None
        interval = None
        if share and mean is not None:
            # A mean of T shares varies about as one share of T² / Σ 1/n questions does, which is
            # all of them where every session asks as many.
            alike = len(asked) ** 2 / sum(1 / n for n in asked)
            interval = wilson(mean * alike, alike)
        return Measure(
            value=mean,
            sessions=tuple(found),
            left_out=tuple(j for j in values if j not in found),
            questions=sum(asked),
            interval=interval,
        )


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def wilson(right: float, asked: float) -> tuple[float, float]:
    """Return the 95 % score interval of a share: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Unlike p ± z·√(p(1−p)/n) it stays within 0 to 1 and has a width at 0 of n and at n of n.

    Args:
        right: How many; it need not be whole.
        asked: Of how many, above 0.

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22 (158), 209–212, doi:10.1080/01621459.1927.10502953.
    """
    share, squared = right / asked, _Z * _Z / asked
    middle = share + squared / 2
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    low, high = ((middle + sign * half) / (1 + squared) for sign in (-1, 1))
    # At the two ends the formula gives the end itself, but for the last bit of a float.
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def questions(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that ask something, each question once; the others teach a text.

    Equal rows are one, with the paraphrases of all.
    """
    paraphrases: dict[_Question, dict[str, None]] = {}
    for row in rows:
        if row.paraphrases:
            paraphrases.setdefault(_question(row), {}).update(dict.fromkeys(row.paraphrases))
    found = []
    for question, row in _first_rows(rows).items():
        joined = tuple(paraphrases.get(question, ()))
        found.append(replace(row, paraphrases=joined) if joined != row.paraphrases else row)
    return found


def _first_rows(rows: Sequence[Row]) -> dict[_Question, Row]:
    """Return the first row with each question and answer, without texts."""
    first: dict[_Question, Row] = {}
    for row in rows:
        if row.question is not None:
            first.setdefault(_question(row), row)
    return first


def _question(row: Row) -> _Question:
    return row.trace.topic, row.trace.answer


class QuestionHistory:
    """The questions of each session of a chain: those that are still its own, and those of before.

    Every record is read against them, so each list is made once.

    Args:
        history: The rows each session was taught, root first; it may go on beyond the records, with
            the rows of a session that is being trained.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._then: dict[tuple[int, int], list[list[Row]]] = {}

    @cached_property
    def own(self) -> list[list[Row]]:
        """Of each session, its questions that no later one answers otherwise."""
        return _own_questions(self._history)

    def asked(self, row: int, column: int) -> Iterator[list[Row]]:
        """Yield what a session's questions were for a record; from the second on for older ones.

        Args:
            row: Number of the session whose record it is, from 1.
            column: Number of the session whose questions they are, from 1 to ``row``.
        """
        for version, find in enumerate(_VERSIONS):
            place = row, version
            if place not in self._then:
                self._then[place] = find(self._history[:row])
            yield self._then[place][column - 1]


def _own_questions(history: History) -> list[list[Row]]:
    return [questions(rows) for rows in current_rows(history)]


def _questions_of_unchanged_turns(history: History) -> list[list[Row]]:
    return [[*_first_rows(rows).values()] for rows in rows_unchanged_in_all_turns(history)]


def _every_row_taught_last(history: History) -> list[list[Row]]:
    kept = rows_unchanged_in_all_turns(history, once=True)
    return [[row for row in rows if row.question is not None] for rows in kept]


_VERSIONS = (_own_questions, _questions_of_unchanged_turns, _every_row_taught_last)
"""What sessions are measured by, and what they were in earlier versions, the latest first."""


def diagonal_outcomes(
    records: Sequence[Mapping[str, Any]], history: QuestionHistory, kind: Kind = "verbatim"
) -> list[tuple[bool | None, ...] | None]:
    """Return, for each session, how its questions came out when it was trained: R[j][j].

    Args:
        records: session.json of each session of a chain, root first.
        history: Their questions.
        kind: Which questions, and which score of them.

    Returns:
        One entry a record: a flag for each of its questions that is still its own, in the order of
        :attr:`QuestionHistory.own` and their paraphrases, None in the place of one
        that was not asked; None where the record does not tell, as for a session whose rows were
        not kept. A session without questions has ().
    """
    return [
        recorded_outcomes(record, history, row=number, column=number, kind=kind)
        for number, record in enumerate(records, start=1)
    ]


def recorded_outcomes(
    record: Mapping[str, Any], history: QuestionHistory, *, row: int, column: int, kind: Kind
) -> tuple[bool | None, ...] | None:
    """Return what a session's record says of another's questions that are still the other's.

    Args:
        record: session.json of session ``row``.
        history: The questions of the whole chain.
        row: Number of the session whose model was asked, from 1.
        column: Number of the session whose questions they are, from 1 to ``row``.
        kind: Which questions, and which score of them.

    Returns:
        The flags, or None where the record does not tell; see :func:`diagonal_outcomes`.
    """
    if kind in ANSWERED:
        grades = recorded_grades(record, history, row=row, column=column, kind=kind)
        return None if grades is None else AnswerScore(grades=grades).outcomes
    recorded = _recorded(record, history, row, column, kind)
    return None if recorded is None else tuple(bool(outcome) for _, outcome in recorded)


def recorded_grades(
    record: Mapping[str, Any], history: QuestionHistory, *, row: int, column: int, kind: Kind
) -> tuple[Grade | None, ...] | None:
    """Return the grades of the same questions, for a kind whose answers are graded.

    Grades by other rules than today's are not told.
    """
    recorded = _recorded(record, history, row, column, kind)
    if recorded is None:
        return None
    score = (record["recall"][column - 1]).get(kind)
    return None if score and score["rules"] != RULES else tuple(grade for _, grade in recorded)


def _recorded(
    record: Mapping[str, Any],
    history: QuestionHistory,
    row: int,
    column: int,
    kind: Kind,
    values: str = "outcomes",
) -> list[tuple[Row, Any]] | None:
    """Return what a record keeps of questions whose answers still hold, each as it was then."""
    entries = record.get("recall") or []
    if len(entries) < column:
        return None
    score = entries[column - 1].get(kind)  # none where there was nothing to ask
    outcomes = score.get(values, []) if score else []
    wanted = [(_question(one), text) for one, text in _asked_as(history.own[column - 1], kind)]
    for rows in history.asked(row, column):
        asked = _asked_as(rows, kind)
        if len(asked) != len(outcomes):
            continue
        found: dict[tuple[_Question, str], tuple[Row, Any]] = {}
        for (row_then, text), outcome in zip(asked, outcomes, strict=True):
            # From when a question counted as often as it stood in the data: the first.
            found.setdefault((_question(row_then), text), (row_then, outcome))
        # An older record leaves out what was taught again: it does not tell of those.
        if all(one in found for one in wanted):
            return [found[one] for one in wanted]
    return None


def _asked_as(rows: Sequence[Row], kind: Kind) -> list[tuple[Row, str]]:
    """Return each row as often as it is asked for a score, with its other wording if any."""
    return [
        (row, text) for row in rows for text in (row.paraphrases if kind in REWORDED else ("",))
    ]


def best_outcomes(
    records: Sequence[Mapping[str, Any]],
    history: QuestionHistory,
    kind: Kind = "verbatim",
    *,
    asked: Sequence[Collection[int]] | None = None,
) -> list[tuple[bool | None, ...] | None]:
    """Return, for each session, the best that any record says of its questions.

    Args:
        records: As for :func:`diagonal_outcomes`.
        history: Likewise.
        kind: Likewise.
        asked: Of each session, the indices of what is asked now; None for all. Records have samples
            of several sizes, and one with more right answers may have fewer of these.

    Returns:
        As of :func:`diagonal_outcomes`; of the records with most right answers to what is asked the
        first.
    """

    def right(outcomes: tuple[bool | None, ...]) -> int:
        compared = range(len(outcomes)) if asked is None else asked[column - 1]
        return sum(outcomes[i] is True for i in compared)

    best: list[tuple[bool | None, ...] | None] = []
    for column in range(1, len(records) + 1):
        found = [
            outcomes
            for row in range(column, len(records) + 1)
            if (
                outcomes := recorded_outcomes(
                    records[row - 1], history, row=row, column=column, kind=kind
                )
            )
            is not None
        ]
        best.append(max(found, key=right, default=None))
    return best


def lowest_losses(
    records: Sequence[Mapping[str, Any]], history: QuestionHistory
) -> list[tuple[float | None, ...] | None]:
    """Return, for each session, the losses of its taught answers when they were lowest together.

    Returns:
        For each the sum over every answer's tokens, nats, in the order of its questions, None for
        one of which other turns were taught in some record than are now; None where no record has
        them.
    """
    lowest: list[tuple[float | None, ...] | None] = []
    for column in range(1, len(records) + 1):
        found = [
            recorded
            for row in range(column, len(records) + 1)
            if (recorded := _recorded(records[row - 1], history, row, column, "verbatim", "losses"))
        ]
        own = [len(one.trace.exchanges) for one in history.own[column - 1]]
        is_same = [
            all(len(recorded[i][0].trace.exchanges) == taught for recorded in found)
            for i, taught in enumerate(own)
        ]
        losses = [
            tuple(nats if same else None for (_, nats), same in zip(recorded, is_same, strict=True))
            for recorded in found
        ]
        lowest.append(min(losses, key=lambda one: sum(filter(None, one)), default=None))
    return lowest


def superseded(history: History) -> list[int]:
    """Return how many questions of each session a later one answers otherwise."""
    return [
        len(questions([row for row in rows if isinstance(row, Row)])) - len(questions(kept))
        for rows, kept in zip(history, current_rows(history), strict=True)
    ]
