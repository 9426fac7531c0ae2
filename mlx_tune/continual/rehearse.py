"""Which old rows are trained again: folding alone forgets, rehearsal keeps.

Measured on SmolLM2-135M, 30 facts a session: a folded chain without rehearsal takes a subject from
97 % verbatim recall to 0 % after the next one; with all old rows rehearsed it stays at 100 %.
"""

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from mlx_tune.data.rows import Row, Trace
from mlx_tune.settings import default, replay_share
from mlx_tune.training.mixture import BASE, LABELS, MERGED, DataSource, Forms, Mixture

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
    conversation, and a later wording with another answer. Of an old row that stays, the wordings
    that have another answer by now are left out.
    """
    answers: dict[str, str] = {}
    topics: set[str] = set()
    reworded: dict[str, str] = {}
    kept: list[list[Row]] = []
    for rows in reversed(history):
        traced = [(row, row if isinstance(row, Trace) else row.trace) for row in rows]
        current = [
            row for row, trace in traced if not _is_superseded(trace, topics, answers, reworded)
        ]
        asked = {**answers, **reworded}
        kept.append([_in_force(row, asked) for row in current if isinstance(row, Row)])
        for row, trace in traced:
            topics.add(trace.topic)
            for topic, answer in trace.exchanges:
                answers.setdefault(topic, answer)
            for topic, answer in _wordings(row).values():
                reworded.setdefault(topic, answer)
    return kept[::-1]


def _is_superseded(
    trace: Trace, topics: Set[str], answers: Mapping[str, str], reworded: Mapping[str, str]
) -> bool:
    """Tell whether a row's question returned, or something that it says has another answer now."""
    *earlier, (topic, answer) = trace.exchanges or ((trace.topic, ""),)
    changed = any(answers.get(topic, own) != own for topic, own in earlier)
    return topic in topics or changed or reworded.get(topic, answer) != answer


def _in_force(row: Row, answers: Mapping[str, str]) -> Row:
    """Return a row without the wordings that have another answer now."""
    wordings = _wordings(row)
    kept = tuple(text for text, (topic, own) in wordings.items() if answers.get(topic, own) == own)
    return replace(row, wordings=kept) if len(kept) < len(wordings) else row


def _wordings(row: Row | Trace) -> dict[str, tuple[str, str]]:
    """Return the hashes of topic and answer of each of a row's other wordings."""
    if isinstance(row, Trace):
        return {}
    traces = (reworded.trace for reworded in row.reworded)
    return {text: trace.exchanges[-1] for text, trace in zip(row.wordings, traces, strict=True)}


def mixture(
    *,
    new: Sequence[Forms],
    old: Sequence[Forms],
    general: int,
    epochs: int,
    replay: str,
    general_replay: float,
    general_weight: float = default("general_weight"),
    distils: bool = False,
) -> Mixture:
    """Return which rows come in which epoch: new ones, old ones, general questions.

    Per epoch come all new rows and, by ``auto``, max(new, ⌈3 · old / epochs⌉) old ones, all where
    they are fewer. Every old row is seen at least min(3, epochs) times, interleaved over the
    sessions; the places left go to the rows with the highest loss.

    Args:
        new: The forms of each row to learn.
        old: The forms of each row to keep.
        general: How many general questions there are.
        epochs: As planned; the most where training stops once all is learned.
        replay: ``auto``, ``all``, ``none`` or the share of the old rows that comes in an epoch.
        general_replay: Share of an epoch that is general questions; the bare base teaches them, so
            that what a session costs in general ability does not add up along a chain.
        general_weight: Multiplier of their loss.
        distils: Whether the folded model teaches the old rows.
    """
    share = replay_share(replay)
    enough = max(len(new), math.ceil(MIN_PASSES * len(old) / epochs))
    by_name = {"auto": enough, "all": len(old), "none": 0}
    old_per_epoch = min(len(old), by_name[replay] if share is None else math.ceil(share * len(old)))
    min_passes = min(MIN_PASSES, epochs) if replay == "auto" else None
    share_of_rest = general_replay / (1 - general_replay)
    general_per_epoch = min(general, math.ceil(share_of_rest * (len(new) + old_per_epoch)))
    sources = (
        DataSource(size=len(new), per_epoch=len(new), forms=_several(new)),
        DataSource(
            size=len(old),
            per_epoch=old_per_epoch,
            min_passes=min_passes,
            teacher=MERGED if distils else LABELS,
            forms=_several(old),
        ),
        DataSource(size=general, per_epoch=general_per_epoch, teacher=BASE, weight=general_weight),
    )
    return Mixture(sources=sources)


def _several(forms: Sequence[Forms]) -> tuple[Forms, ...]:
    """Return the forms where some row has more than one."""
    return tuple(forms) if any(one != Forms() for one in forms) else ()


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
    replacing |= {reworded.topic: row for row in new for reworded in row.reworded}
    left = {row.key: row for rows in after for row in rows}
    inside = [
        (next(replacing[t] for t, _ in row.exchanges if t in replacing), row)
        for rows in before
        for row in rows
        if row.key not in left and row.topic not in first
    ]
    dropped = [
        (replacing[reworded.topic], reworded)
        for rows in before
        for row in rows
        if row.key in left
        for reworded in row.reworded
        if reworded.question not in left[row.key].wordings
    ]
    return Rehearsal(
        new=tuple(new),
        old=tuple(row for one in itertools.zip_longest(*after) for row in one if row is not None),
        repeated=tuple(row for row, old in again if row.key == old.key),
        changed=(*((row, old) for row, old in again if row.key != old.key), *inside, *dropped),
        contradictions=tuple(contradictions),
        duplicates=tuple(duplicates),
    )
