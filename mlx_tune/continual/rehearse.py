"""Which old rows are trained again: folding alone forgets, rehearsal keeps.

Measured on SmolLM2-135M, 30 facts a session: a folded chain without rehearsal takes a subject from
97 % verbatim recall to 0 % after the next one; with all old rows rehearsed it stays at 100 %.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mlx_tune.continual.in_force import History, current_rows_beside, rows_in_force
from mlx_tune.data.rows import Row, Trace
from mlx_tune.settings import default, replay_share
from mlx_tune.sizing import MIN_PASSES
from mlx_tune.training.mixture import BASE, LABELS, MERGED, DataSource, Mixture


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
        turns: (new, earlier) rows, each up to a turn, where one question has two answers and at
            least one of them stands inside a conversation: neither row replaces the other. Of
            several new rows with one answer the first.
        unmeasured: (new, old) where a new row trains on a paraphrase of an old one, the old row in
            that wording: its session is measured without it from now on.
    """

    new: tuple[Row, ...]
    old: tuple[Row, ...]
    repeated: tuple[Row, ...]
    changed: tuple[tuple[Row, Row], ...]
    reworded: tuple[tuple[Row, Row], ...]
    contradictions: tuple[tuple[Row, Row], ...]
    duplicates: tuple[Row, ...]
    alike: tuple[tuple[Row, Row], ...]
    turns: tuple[tuple[Row, Row], ...]
    unmeasured: tuple[tuple[Row, Row], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that is trained on."""
        return self.new + self.old


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

    Of two rows with one question and different answers, no model can give both, wherever in a
    conversation the question stands; a text has no answer.
    """
    answers: dict[str, set[str | None]] = {}
    for row in rows:
        for topic, answer in _answers(row.trace):
            answers.setdefault(topic, set()).add(answer)
    return [
        row.text is None and all(len(answers[topic]) == 1 for topic, _ in _answers(row.trace))
        for row in rows
    ]


def _answers(trace: Trace) -> Sequence[tuple[str, str | None]]:
    """Return what is asked and answered; of a row without any answer its topic alone."""
    return trace.exchanges or ((trace.topic, None),)


def rehearse(new: Sequence[Row], history: History) -> Rehearsal:
    """Plan what a session trains on: every new row, and every old one it does not replace.

    Args:
        new: The rows of the data set.
        history: The rows of the chain it is trained on top of.
    """
    before = rows_in_force(history)
    after = rows_in_force([*history, new])[:-1]
    old_rows = [row for rows in before for row in rows]
    kept_rows = [row for rows in after for row in rows]
    kept = {_identity(row) for row in kept_rows}
    taught = {row.topic: row for row in old_rows}
    first: dict[str, Row] = {}
    duplicates, contradictions = [], []
    for row in new:
        earlier = first.setdefault(row.topic, row)
        if earlier is row:
            continue
        if earlier.answer == row.answer:
            duplicates.append(row)
        else:
            contradictions.append((row, earlier))
    again = [(row, taught[topic]) for topic, row in first.items() if topic in taught]
    # The new rows in all wordings, by topic; of several with one topic the first.
    variants = {one.topic: one for row in reversed(new) for one in reversed(row.variants)}
    # Those that left for a wording, or as was asked for.
    left = [row for row in old_rows if _identity(row) not in kept and row.topic not in first]
    return Rehearsal(
        new=tuple(new),
        old=tuple(row for one in itertools.zip_longest(*after) for row in one if row is not None),
        repeated=tuple(row for row, old in again if row.answer == old.answer),
        changed=(
            *((row, old) for row, old in again if row.answer != old.answer),
            *_replacements(left, new),
        ),
        reworded=tuple(
            (variants[one.topic], one)
            for row in old_rows
            if _identity(row) in kept
            for one in row.variants[1:]
            if one.topic in variants and variants[one.topic].answer not in (None, one.answer)
        ),
        contradictions=tuple(contradictions),
        duplicates=tuple(duplicates),
        alike=tuple(_alike(new, kept_rows)),
        turns=tuple(_turns(new, old_rows)),
        unmeasured=tuple(_unmeasured(new, history)),
    )


def _identity(row: Row) -> tuple[str, str | None]:
    """Return what makes a row another: its question and its answer.

    White space, ids of calls, and which turns before the answer are taught make no difference.
    """
    return row.topic, row.answer


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


def _turns(new: Sequence[Row], old: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield each new turn with another that asks the same, answered otherwise: `Rehearsal.turns`.

    Two rows that ask the same at their ends are told otherwise.
    """
    # By topic and by whether it is a row's last: turns with two answers, as in :func:`_alike`.
    others: dict[tuple[str, bool], dict[str, tuple[Row, int]]] = {}
    told: set[tuple[str, str, bool]] = set()
    for is_new, row in itertools.chain(((False, one) for one in old), ((True, one) for one in new)):
        last = len(row.trace.exchanges) - 1
        for number, (topic, answer) in enumerate(row.trace.exchanges):
            is_last = number == last
            if is_new and (topic, answer, is_last) not in told:
                told.add((topic, answer, is_last))
                compared = (False,) if is_last else (True, False)
                for other, place in _others(others, topic, answer, compared):
                    yield row.turn(number), other.turn(place)
            found = others.setdefault((topic, is_last), {})
            if len(found) < 2:
                found.setdefault(answer, (row, number))


def _others(
    turns: Mapping[tuple[str, bool], Mapping[str, tuple[Row, int]]],
    topic: str,
    answer: str,
    compared: Sequence[bool],
) -> list[tuple[Row, int]]:
    """Return the first turn with another answer, none where there is none."""
    found = [
        turn
        for is_last in compared
        for other, turn in turns.get((topic, is_last), {}).items()
        if other != answer
    ]
    return found[:1]


def _unmeasured(new: Sequence[Row], history: History) -> Iterator[tuple[Row, Row]]:
    """Yield each new row with the old ones it trains on in other words: `Rehearsal.unmeasured`."""
    asked: dict[str, Row] = {}
    for row in new:
        exchanges = [topic for topic, _ in row.trace.exchanges]
        for topic in (row.trace.topic, *row.trace.wordings, *exchanges):
            asked.setdefault(topic, row)
    for old in current_rows_beside(new, history):
        for text, topic in zip(old.paraphrases, old.paraphrase_topics, strict=True):
            if topic in asked:
                yield asked[topic], old.with_question(text)


def _replacements(left: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield (new, old) for old rows that left although no new row has their question."""
    named = {text: row for row in reversed(new) for text in row.trace.replaces}
    reworded = {one.topic: one for row in reversed(new) for one in reversed(row.variants[1:])}
    for row in left:
        found = reworded.get(row.topic)
        is_other = found is not None and found.answer != row.answer
        yield found if found is not None and is_other else named[row.replaced_as], row
