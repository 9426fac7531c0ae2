"""Which old rows are trained again: folding alone forgets, rehearsal keeps.

Measured on SmolLM2-135M, 30 facts a session: a folded chain without rehearsal takes a subject from
97 % verbatim recall to 0 % after the next one; with all old rows rehearsed it stays at 100 %.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_tune.data.rows import Row, Trace
from mlx_tune.settings import default, replay_share
from mlx_tune.training.mixture import BASE, LABELS, MERGED, DataSource, Mixture

MIN_PASSES = 3
"""Epochs in which every old row comes at least, where there are as many."""

History = Sequence[Sequence[Row] | Sequence[Trace]]
"""The rows of each session of a chain, root first; their traces where they were not kept."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a session is trained on, and where it meets what was trained before.

    Attributes:
        new: The rows of the data set.
        old: Rows of earlier sessions to be kept, interleaved: a row of each session, then another.
        repeated: New rows that were taught before with the same answer.
        changed: (new, old) where an earlier answer is replaced; the old row is not rehearsed.
        reworded: (new, old) where the question or wording of a new row was a wording of an old row
            with another answer, both as rows in that wording; the old row goes on without it.
        contradictions: (later, earlier) rows of the new data that ask the same and disagree.
        duplicates: New rows that stand in the data more than once.
        alike: (new, earlier) rows with different answers whose questions differ in case, width or
            outer punctuation alone; both are trained on. Of each such question one earlier row.
    """

    new: tuple[Row, ...]
    old: tuple[Row, ...]
    repeated: tuple[Row, ...]
    changed: tuple[tuple[Row, Row], ...]
    reworded: tuple[tuple[Row, Row], ...]
    contradictions: tuple[tuple[Row, Row], ...]
    duplicates: tuple[Row, ...]
    alike: tuple[tuple[Row, Row], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that is trained on."""
        return self.new + self.old


def current_rows(history: History) -> list[list[Row]]:
    """Return each session's rows whose answers still hold: what it is measured by.

    A question that returns with its old answer stays the old session's too. With another answer it
    is the later session's alone; so is a row with another answer now to an earlier question of its
    conversation, one whose question is a wording of a later row with another answer, and one that a
    later row names in its ``replaces``.
    """
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        kept.append([row for row in rows if isinstance(row, Row) and not later.change(row)])
    return kept[::-1]


def rows_in_force(history: History) -> list[list[Row]]:
    """Return what may be trained again: :func:`current_rows`, each question with its last session.

    Rows come without the wordings that a later session answers otherwise.
    """
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        kept.append([later.without_wordings(row) for row in current if not later.repeat(row)])
    return kept[::-1]


def rows_taught_last(history: History) -> list[list[Row]]:
    """Return :func:`current_rows`, each question with its last session and as it was taught.

    Sessions were measured by these before a question that returned stayed the old session's too.
    """
    kept: list[list[Row]] = []
    for rows, later in _with_later(history):
        current = [row for row in rows if isinstance(row, Row) and not later.change(row)]
        kept.append([row for row in current if not later.repeat(row)])
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

    def add(self, rows: Sequence[Row] | Sequence[Trace]) -> None:
        for trace in map(_trace, rows):
            (self._loose if trace.is_loose else self._exact).add(trace)

    def change(self, row: Row) -> bool:
        """Tell whether a row's answer holds no longer."""
        if row.replaced_as in self._exact.replaced or self._exact.change(row.trace):
            return True
        return bool(self._loose) and self._loose.change(row.loose_trace)

    def repeat(self, row: Row) -> bool:
        """Tell whether a row's question was taught again."""
        if row.trace.topic in self._exact.finals:
            return True
        return bool(self._loose) and row.loose_trace.topic in self._loose.finals

    def without_wordings(self, row: Row) -> Row:
        """Return a row without the wordings that have another answer by now."""
        if not row.wordings:
            return row
        kept = self._exact.agree(row.trace)
        if self._loose:
            loosely = self._loose.agree(row.loose_trace)
            kept = [one and other for one, other in zip(kept, loosely, strict=True)]
        return replace(row, wordings=tuple(itertools.compress(row.wordings, kept)))


class _LaterTraces:
    """The traces of later rows.

    Attributes:
        finals: By topic of a row, the answers to it.
        replaced: What later rows name in their ``replaces``.
    """

    def __init__(self) -> None:
        self.finals: dict[str, set[str | None]] = {}
        self.replaced: set[str] = set()
        self._answers: dict[str, str] = {}  # of every exchange, the latest session's
        self._reworded: dict[str, str] = {}  # of every wording, likewise
        self._asked: dict[str, str] = {}  # of every question and wording, likewise

    def __bool__(self) -> bool:
        return bool(self.finals)

    def add(self, trace: Trace) -> None:
        self.finals.setdefault(trace.topic, set()).add(trace.answer)
        self.replaced |= {*trace.replaces}
        for topic, answer in trace.exchanges:
            self._answers.setdefault(topic, answer)
        for topic in trace.wordings:
            self._reworded.setdefault(topic, str(trace.answer))
        if trace.answer is not None:
            for topic in (trace.topic, *trace.wordings):
                self._asked.setdefault(topic, trace.answer)

    def change(self, trace: Trace) -> bool:
        """Tell whether a row's question, or one before it, has another answer now."""
        return (
            not self.finals.get(trace.topic, set()) <= {trace.answer}
            or any(self._answers.get(topic, own) != own for topic, own in trace.exchanges[:-1])
            or any(self._reworded.get(topic, own) != own for topic, own in trace.exchanges)
        )

    def agree(self, trace: Trace) -> list[bool]:
        """Tell of each wording whether its answer is still the row's."""
        return [self._asked.get(topic, trace.answer) == trace.answer for topic in trace.wordings]


def _trace(row: Row | Trace) -> Trace:
    if isinstance(row, Trace):
        return row
    return row.loose_trace if row.replaces_alike else row.trace


def mixture(
    *,
    new: int,
    old: int,
    general: int,
    epochs: int,
    replay: str,
    general_replay: float,
    general_weight: float = default("general_weight"),
    distils: bool = False,
    variants: tuple[Sequence[int], Sequence[int]] = ((), ()),
    noised: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Mixture:
    """Return which rows come in which epoch: new ones, old ones, general questions.

    Per epoch come all new rows and, by ``auto``, max(new, ⌈3 · old / epochs⌉) old ones, all where
    they are fewer. Every old row is seen at least min(3, epochs) times, interleaved over the
    sessions; the places left go to the rows with the highest loss. A row with several wordings
    comes in one of them an epoch.

    Args:
        new: How many there are to learn.
        old: How many to keep.
        general: How many general questions there are.
        epochs: As planned; the most where training stops once all is learned.
        replay: ``auto``, ``all``, ``none`` or the share of the old rows that comes in an epoch.
        general_replay: Share of an epoch that is general questions; the bare base teaches them, so
            that what a session costs in general ability does not add up along a chain.
        general_weight: Multiplier of their loss.
        distils: Whether the folded model teaches the old rows.
        variants: How many wordings each new row has, its question included, and each old one; none
            are as good as one for each.
        noised: How many noised questions each new row has, and each old one.
    """
    share = replay_share(replay)
    by_name = {"auto": max(new, math.ceil(MIN_PASSES * old / epochs)), "all": old, "none": 0}
    old_per_epoch = min(old, by_name[replay] if share is None else math.ceil(share * old))
    min_passes = min(MIN_PASSES, epochs) if replay == "auto" else None
    share_of_rest = general_replay / (1 - general_replay)
    general_per_epoch = min(general, math.ceil(share_of_rest * (new + old_per_epoch)))
    teacher = MERGED if distils else LABELS
    # A run of rows with one wording each is written down as it was before there were wordings.
    new_variants, old_variants = (
        tuple(counts) if max(counts, default=1) > 1 else () for counts in variants
    )
    new_noised, old_noised = (tuple(counts) if any(counts) else () for counts in noised)
    sources = (
        DataSource(size=new, per_epoch=new, variants=new_variants, noised=new_noised),
        DataSource(
            size=old,
            per_epoch=old_per_epoch,
            variants=old_variants,
            noised=old_noised,
            min_passes=min_passes,
            teacher=teacher,
        ),
        DataSource(size=general, per_epoch=general_per_epoch, teacher=BASE, weight=general_weight),
    )
    return Mixture(sources=sources)


def learnable(rows: Sequence[Row]) -> list[bool]:
    """Tell of each row whether it can be learned word for word.

    Of two rows with one question and different answers, no model can give both; a text has no
    answer.
    """
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.topic, set()).add(row.key)
    return [row.text is None and len(answers[row.topic]) == 1 for row in rows]


def rehearse(new: Sequence[Row], history: History) -> Rehearsal:
    """Plan what a session trains on: every new row, and every old one it does not replace.

    Args:
        new: The rows of the data set.
        history: The rows of the chain it is trained on top of.
    """
    before = rows_in_force(history)
    after = rows_in_force([*history, new])[:-1]
    kept = {row.key for rows in after for row in rows}
    taught = {row.topic: row for rows in before for row in rows}
    first: dict[str, Row] = {}
    duplicates, contradictions = [], []
    for row in new:
        earlier = first.setdefault(row.topic, row)
        if earlier is row:
            continue
        if earlier.key == row.key:
            duplicates.append(row)
        else:
            contradictions.append((row, earlier))
    again = [(row, taught[topic]) for topic, row in first.items() if topic in taught]
    # The new rows in all wordings, by topic; of several with one topic the first.
    variants = {one.topic: one for row in reversed(new) for one in reversed(row.variants)}
    old_rows = [row for rows in before for row in rows]
    # Those that left for a wording, for an answer inside a conversation, or as was asked for.
    left = [row for row in old_rows if row.key not in kept and row.topic not in first]
    return Rehearsal(
        new=tuple(new),
        old=tuple(row for one in itertools.zip_longest(*after) for row in one if row is not None),
        repeated=tuple(row for row, old in again if row.key == old.key),
        changed=(
            *((row, old) for row, old in again if row.key != old.key),
            *_replacements(left, new),
        ),
        reworded=tuple(
            (variants[one.topic], one)
            for row in old_rows
            if row.key in kept
            for one in row.variants[1:]
            if one.topic in variants and variants[one.topic].answer not in (None, one.answer)
        ),
        contradictions=tuple(contradictions),
        duplicates=tuple(duplicates),
        alike=tuple(_alike(new, [row for rows in after for row in rows])),
    )


def replacing(new: Sequence[Row], history: History) -> list[Row]:
    """Return new rows that take the place of the old ones they are alike: `Rehearsal.alike`."""
    old = [row for rows in rows_in_force([*history, new])[:-1] for row in rows]
    replaced: dict[str, dict[str, None]] = {}
    for row, other in _alike(new, old, among_new=False):
        replaced.setdefault(row.key, {})[str(other.question)] = None
    return [
        replace(row, replaces=(*row.replaces, *replaced[row.key])) if row.key in replaced else row
        for row in new
    ]


def _alike(
    new: Sequence[Row], old: Sequence[Row], *, among_new: bool = True
) -> Iterator[tuple[Row, Row]]:
    """Yield each new row with the other questions that are nearly its own and answered otherwise.

    Of several rows with one question the first with another answer is enough, so that the time does
    not grow with the square of the rows that ask the same.
    """
    # By likeness, then by topic: rows with two answers, one of which is another than any third's.
    others: dict[str, dict[str, list[Row]]] = {}

    def add(row: Row) -> None:
        same = others.setdefault(row.likeness, {}).setdefault(row.topic, [])
        if len(same) < 2 and all(one.answer != row.answer for one in same):
            same.append(row)

    for row in old:
        if row.question is not None:
            add(row)
    for row in new:
        if row.question is None:
            continue
        for topic, same in others.get(row.likeness, {}).items():
            if topic != row.topic:
                yield from [(row, one) for one in same if one.answer != row.answer][:1]
        if among_new:
            add(row)


def _replacements(left: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield (new, old) for old rows that left although no new row has their question."""
    named = {text: row for row in reversed(new) for text in row.trace.replaces}
    reworded = {one.topic: one for row in reversed(new) for one in reversed(row.variants[1:])}
    inside = {topic: row for row in reversed(new) for topic, _ in row.exchanges}
    for row in left:
        found = [
            reworded[topic]
            for topic, answer in row.exchanges
            if topic in reworded and reworded[topic].answer != answer
        ]
        found += [inside[topic] for topic, _ in row.exchanges[:-1] if topic in inside]
        found += [named[row.replaced_as]] if row.replaced_as in named else []
        yield found[0], row
