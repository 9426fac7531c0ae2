"""Which old rows are trained again: folding alone forgets, rehearsal keeps.

Measured on SmolLM2-135M, 30 facts a session: a folded chain without rehearsal takes a subject from
97 % verbatim recall to 0 % after the next one; with all old rows rehearsed it stays at 100 %.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
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
    """

    new: tuple[Row, ...]
    old: tuple[Row, ...]
    repeated: tuple[Row, ...]
    changed: tuple[tuple[Row, Row], ...]
    reworded: tuple[tuple[Row, Row], ...]
    contradictions: tuple[tuple[Row, Row], ...]
    duplicates: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that is trained on."""
        return self.new + self.old


def current_rows(history: History) -> list[list[Row]]:
    """Return each session's rows that no later session has taught again.

    A question that returns supersedes the old row, whether its answer changed or not: it is then
    the later session's to remember. So does another answer to an earlier question of a longer
    conversation, and a wording of a later row with another answer.
    """
    answers: dict[str, str] = {}
    topics: set[str] = set()
    reworded: dict[str, str] = {}
    kept: list[list[Row]] = []
    for rows in reversed(history):
        traced = list(zip(rows, map(_trace, rows), strict=True))
        current = [
            row for row, trace in traced if not _is_superseded(trace, topics, answers, reworded)
        ]
        kept.append([row for row in current if isinstance(row, Row)])
        for _, trace in traced:
            topics.add(trace.topic)
            for topic, answer in trace.exchanges:
                answers.setdefault(topic, answer)
            for topic in trace.wordings:
                reworded.setdefault(topic, str(trace.answer))
    return kept[::-1]


def _trace(row: Row | Trace) -> Trace:
    return row if isinstance(row, Trace) else row.trace


def _is_superseded(
    trace: Trace, topics: Set[str], answers: Mapping[str, str], reworded: Mapping[str, str]
) -> bool:
    """Tell whether a row's question returned, or one of its exchanges has another answer now.

    Args:
        trace: Of the row.
        topics: The questions of later rows.
        answers: By topic, the answers of the later rows' exchanges.
        reworded: The same by the topics of their wordings.
    """
    return (
        trace.topic in topics
        or any(answers.get(topic, own) != own for topic, own in trace.exchanges[:-1])
        or any(reworded.get(topic, own) != own for topic, own in trace.exchanges)
    )


def rows_in_force(history: History) -> list[list[Row]]:
    """Return :func:`current_rows` without the wordings that a later session answers otherwise.

    This is what may be trained again. Sessions are measured by the rows as they were taught.
    """
    answers: dict[str, str | None] = {}
    found: list[list[Row]] = []
    for rows, current in zip(reversed(history), reversed(current_rows(history)), strict=True):
        found.append([_without_wordings(row, answers) for row in current])
        for trace in map(_trace, rows):
            for topic in (trace.topic, *trace.wordings) if trace.answer else ():
                answers.setdefault(topic, trace.answer)
    return found[::-1]


def _without_wordings(row: Row, answers: Mapping[str, str | None]) -> Row:
    """Return a row without the wordings that have another answer by now."""
    if not row.wordings:
        return row
    trace = row.trace
    kept = [answers.get(topic, trace.answer) == trace.answer for topic in trace.wordings]
    return replace(row, wordings=tuple(itertools.compress(row.wordings, kept)))


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
    # Those that left for a wording, or for an answer inside a conversation.
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
    )


def _replacements(left: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield (new, old) for old rows that left although no new row has their question."""
    reworded = {one.topic: one for row in reversed(new) for one in reversed(row.variants[1:])}
    inside = {topic: row for row in reversed(new) for topic, _ in row.exchanges}
    for row in left:
        found = [
            reworded[topic]
            for topic, answer in row.exchanges
            if topic in reworded and reworded[topic].answer != answer
        ]
        found += [inside[topic] for topic, _ in row.exchanges[:-1] if topic in inside]
        yield found[0], row
