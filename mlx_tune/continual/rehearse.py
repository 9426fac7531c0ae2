"""Which old rows are trained again: folding alone forgets, rehearsal keeps.

Measured on SmolLM2-135M, 30 facts a session: a folded chain without rehearsal takes a subject from
97 % verbatim recall to 0 % after the next one; with all old rows rehearsed it stays at 100 %.
"""

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from mlx_tune.data.rows import Row, Trace
from mlx_tune.settings import replay_share
from mlx_tune.training.mixture import BASE, LABELS, MERGED, DataSource, Mixture

GENERAL_WEIGHT = 10.0
"""Of a general answer's loss: a few rows then hold as much as many (docs/LOG.md)."""

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
        contradictions: (later, earlier) rows of the new data that ask the same and disagree.
        duplicates: New rows that stand in the data more than once.
    """

    new: tuple[Row, ...]
    old: tuple[Row, ...]
    repeated: tuple[Row, ...]
    changed: tuple[tuple[Row, Row], ...]
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
    conversation.
    """
    answers: dict[str, str] = {}
    topics: set[str] = set()
    kept: list[list[Row]] = []
    for rows in reversed(history):
        traced = [(row, row if isinstance(row, Trace) else row.trace) for row in rows]
        current = [row for row, trace in traced if not _is_superseded(trace, topics, answers)]
        kept.append([row for row in current if isinstance(row, Row)])
        for _, trace in traced:
            topics.add(trace.topic)
            for topic, answer in trace.exchanges:
                answers.setdefault(topic, answer)
    return kept[::-1]


def _is_superseded(trace: Trace, topics: Set[str], answers: Mapping[str, str]) -> bool:
    """Tell whether a row's question returned, or an earlier exchange has another answer now."""
    earlier = trace.exchanges[:-1]
    return trace.topic in topics or any(answers.get(topic, own) != own for topic, own in earlier)


def mixture(
    *,
    new: int,
    old: int,
    general: int,
    epochs: int,
    replay: str,
    general_replay: float,
    distils: bool = False,
) -> Mixture:
    """Return which rows come in which epoch: new ones, old ones, general questions.

    Per epoch come all new rows and, by ``auto``, max(new, ⌈3 · old / epochs⌉) old ones, all where
    they are fewer. Every old row is seen at least min(3, epochs) times, interleaved over the
    sessions; the places left go to the rows with the highest loss.

    Args:
        new: How many there are to learn.
        old: How many to keep.
        general: How many general questions there are.
        epochs: As planned; the most where training stops once all is learned.
        replay: ``auto``, ``all``, ``none`` or the share of the old rows that comes in an epoch.
        general_replay: Share of an epoch that is general questions; the bare base teaches them, so
            that what a session costs in general ability does not add up along a chain.
        distils: Whether the folded model teaches the old rows.
    """
    share = replay_share(replay)
    by_name = {"auto": max(new, math.ceil(MIN_PASSES * old / epochs)), "all": old, "none": 0}
    old_per_epoch = min(old, by_name[replay] if share is None else math.ceil(share * old))
    min_passes = min(MIN_PASSES, epochs) if replay == "auto" else None
    share_of_rest = general_replay / (1 - general_replay)
    general_per_epoch = min(general, math.ceil(share_of_rest * (new + old_per_epoch)))
    teacher = MERGED if distils else LABELS
    sources = (
        DataSource(size=new, per_epoch=new),
        DataSource(size=old, per_epoch=old_per_epoch, min_passes=min_passes, teacher=teacher),
        DataSource(size=general, per_epoch=general_per_epoch, teacher=BASE, weight=GENERAL_WEIGHT),
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
    before = current_rows(history)
    after = current_rows([*history, new])[:-1]
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
    # Conversations that are left out for an answer inside them, with what replaced it.
    replacing = {topic: row for row in first.values() for topic, _ in row.exchanges}
    inside = [
        (next(replacing[t] for t, _ in row.exchanges[:-1] if t in replacing), row)
        for rows, left in zip(before, after, strict=True)
        for row in rows
        if row not in left and row.topic not in first
    ]
    return Rehearsal(
        new=tuple(new),
        old=tuple(row for one in itertools.zip_longest(*after) for row in one if row is not None),
        repeated=tuple(row for row, old in again if row.key == old.key),
        changed=(*((row, old) for row, old in again if row.key != old.key), *inside),
        contradictions=tuple(contradictions),
        duplicates=tuple(duplicates),
    )
