"""Which rows of a chain of sessions still hold, by all that later sessions taught.

Rehearsal trains on them, and each session is measured by its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlx_tune.data.rows import Row, Trace

History = Sequence[Sequence[Row] | Sequence[Trace]]
"""The rows of each session of a chain, root first; their traces where they were not kept."""


def current_rows(history: History) -> list[list[Row]]:
    """Return each session's rows whose answers still hold: what it is measured by.

    A question that returns with its old answer stays the old session's too. With another answer it
    is the later session's alone; so is a row whose question is a wording of a later row with
    another answer, and one that a later row names in its ``replaces``. The question of a
    conversation is its last, after all that was said before. A turn before it that a later session
    answers otherwise is given, no longer taught, and the row goes on: two conversations may open
    alike. A paraphrase that its session or a later one trains on measures nothing, so the row goes
    on without it.
    """
    kept: list[list[Row]] = []
    trained = _Trained()
    for rows, later in _with_later(history):
        trained.add(rows)
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        kept.append([trained.without_paraphrases(later.without_turns(row)) for row in current])
    return kept[::-1]


def current_rows_beside(new: Sequence[Row], history: History) -> list[Row]:
    """Return the rows of :func:`current_rows` that new rows do not replace."""
    later = _LaterRows()
    later.add(new)
    return [row for rows in current_rows(history) for row in rows if not later.change(row)]


def rows_in_force(history: History) -> list[list[Row]]:
    """Return what may be trained again: :func:`current_rows`, each question with its last session.

    The last that keeps its rows: else a question that returned there would be taught never again.
    Rows come without the wordings that a later session answers otherwise.
    """
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        kept.append(
            [
                later.without_wordings(later.without_turns(row))
                for row in current
                if not later.keep(row)
            ]
        )
    return kept[::-1]


def rows_taught_last(history: History) -> list[list[Row]]:
    """Return :func:`rows_in_force` in all their wordings."""
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        kept.append([later.without_turns(row) for row in current if not later.keep(row)])
    return kept[::-1]


def rows_unchanged_in_all_turns(history: History, *, once: bool = False) -> list[list[Row]]:
    """Return what sessions were measured by before a conversation outlived its earlier turns.

    Args:
        history: The rows of each session.
        once: As before a question that returned with its answer stayed the old session's too.
    """
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        whole = [row for row in current if not later.change_turns(row)]
        kept.append([row for row in whole if not (once and later.repeat(row))])
    return kept[::-1]


def _with_later(
    history: History,
) -> Iterator[tuple[Sequence[Row] | Sequence[Trace], "_LaterRows"]]:
    """Yield the rows of each session, the last first, with what was taught after it."""
    later = _LaterRows()
    for rows in reversed(history):
        yield rows, later
        later.add(rows)


class _LaterRows:
    """What later sessions taught, by exact topics; by likeness where old records have no others."""

    def __init__(self) -> None:
        self._exact, self._loose = _LaterTraces(), _LaterTraces()
        self._kept: set[str] = set()  # topics of rows that are there
        self._kept_loose: set[str] = set()  # their likenesses, where rows are of old records

    def add(self, rows: Sequence[Row] | Sequence[Trace]) -> None:
        traces = [*map(_trace, rows)]
        self._exact.add([trace for trace in traces if not trace.is_loose])
        self._loose.add([trace for trace in traces if trace.is_loose])
        for row, trace in zip(rows, traces, strict=True):
            if isinstance(row, Row):
                (self._kept_loose if trace.is_loose else self._kept).add(trace.topic)

    def change(self, row: Row) -> bool:
        """Tell whether a row's answer holds no longer."""
        if row.replaced_as in self._exact.replaced or self._exact.change(row.trace):
            return True
        return bool(self._loose) and self._loose.change(row.loose_trace)

    def change_turns(self, row: Row) -> bool:
        """Tell whether some turn before a row's last has another answer now."""
        return any(self._changed_turns(row))

    def repeat(self, row: Row) -> bool:
        """Tell whether a row's question was taught again."""
        if row.trace.topic in self._exact.finals:
            return True
        return bool(self._loose) and row.loose_trace.topic in self._loose.finals

    def keep(self, row: Row) -> bool:
        """Tell whether a row's question was taught again by a row that is there."""
        if row.trace.topic in self._kept:
            return True
        return bool(self._kept_loose) and row.loose_trace.topic in self._kept_loose

    def without_turns(self, row: Row) -> Row:
        """Return a row whose turns with another answer now are given, not taught."""
        changed = self._changed_turns(row)
        return row.without_answers(changed) if any(changed) else row

    def without_wordings(self, row: Row) -> Row:
        """Return a row without the wordings that have another answer by now."""
        if not row.wordings:
            return row
        kept = self._exact.agree(row.trace)
        if self._loose:
            loosely = self._loose.agree(row.loose_trace)
            kept = [one and other for one, other in zip(kept, loosely, strict=True)]
        return replace(row, wordings=tuple(itertools.compress(row.wordings, kept)))

    def _changed_turns(self, row: Row) -> list[bool]:
        changed = self._exact.changed_turns(row.trace)
        if self._loose and changed:
            loosely = self._loose.changed_turns(row.loose_trace)
            changed = [one or other for one, other in zip(changed, loosely, strict=True)]
        return changed


class _LaterTraces:
    """The traces of later rows.

    Attributes:
        finals: By topic of a row, the answers to it.
        replaced: What later rows name in their ``replaces``.
    """

    def __init__(self) -> None:
        self.finals: dict[str, set[str | None]] = {}
        self.replaced: set[str] = set()
        self._answers: dict[str, set[str]] = {}  # of every exchange, the latest session's
        self._reworded: dict[str, str] = {}  # of every wording, likewise
        self._asked: dict[str, str] = {}  # of every question and wording, likewise

    def __bool__(self) -> bool:
        return bool(self.finals)

    def add(self, traces: Sequence[Trace]) -> None:
        """Add those of one session."""
        answers: dict[str, set[str]] = {}
        for trace in traces:
            self.finals.setdefault(trace.topic, set()).add(trace.answer)
            self.replaced |= {*trace.replaces}
            for topic, answer in trace.exchanges:
                answers.setdefault(topic, set()).add(answer)
            for topic in trace.wordings:
                self._reworded.setdefault(topic, str(trace.answer))
            if trace.answer is not None:
                for topic in (trace.topic, *trace.wordings):
                    self._asked.setdefault(topic, trace.answer)
        for topic, found in answers.items():
            self._answers.setdefault(topic, found)

    def change(self, trace: Trace) -> bool:
        """Tell whether a row's question has another answer now."""
        own = trace.answer
        if not self.finals.get(trace.topic, set()) <= {own}:
            return True
        return own is not None and self._reworded.get(trace.topic, own) != own

    def changed_turns(self, trace: Trace) -> list[bool]:
        """Tell of each exchange whether it stands before the last and has another answer now."""
        changed = [
            not self._answers.get(topic, set()) <= {own} or self._reworded.get(topic, own) != own
            for topic, own in trace.exchanges[:-1]
        ]
        return [*changed, False] if trace.exchanges else []

    def agree(self, trace: Trace) -> list[bool]:
        """Tell of each wording whether its answer is still the row's."""
        return [self._asked.get(topic, trace.answer) == trace.answer for topic in trace.wordings]


class _Trained:
    """The topics of all that was trained on; likenesses too where old records have no others."""

    def __init__(self) -> None:
        self._exact: set[str] = set()
        self._loose: set[str] = set()

    def add(self, rows: Sequence[Row] | Sequence[Trace]) -> None:
        for row in rows:
            trace = row if isinstance(row, Trace) else row.trace
            topics = self._loose if trace.is_loose else self._exact
            topics.update((trace.topic, *trace.wordings, *(topic for topic, _ in trace.exchanges)))

    def without_paraphrases(self, row: Row) -> Row:
        """Return a row without the paraphrases that were trained on."""
        kept = [topic not in self._exact for topic in row.paraphrase_topics]
        if self._loose:
            rephrased = (row.with_question(text).loose_trace.topic for text in row.paraphrases)
            alike = [topic not in self._loose for topic in rephrased]
            kept = [one and other for one, other in zip(kept, alike, strict=True)]
        if all(kept):
            return row
        return replace(row, paraphrases=tuple(itertools.compress(row.paraphrases, kept)))


def _trace(row: Row | Trace) -> Trace:
    if isinstance(row, Trace):
        return row
    return row.loose_trace if row.replaces_alike else row.trace
