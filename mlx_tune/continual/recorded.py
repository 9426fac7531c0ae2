"""What sessions' records say of questions that are still theirs.

A record keeps one outcome for each question that was a session's at that time. Later sessions may
have taught some of them again; those outcomes are left out, so that a fact that changed is never
counted as forgotten.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlx_tune.continual.rehearse import History, current
from mlx_tune.data.rows import Row

Kind = Literal["verbatim", "paraphrases"]
KINDS: tuple[Kind, ...] = ("verbatim", "paraphrases")


def questions(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that ask something; the others teach a text."""
    return [row for row in rows if row.question is not None]


def learned_outcomes(
    records: Sequence[Mapping[str, Any]], history: History, kind: Kind = "verbatim"
) -> list[tuple[bool, ...] | None]:
    """Return, for each session, how its questions came out when it was learned: R[j][j].

    Args:
        records: session.json of each session of a chain, root first.
        history: The rows each was taught; it may go on beyond the records, with the rows of a
            session that is being trained.
        kind: The questions as taught, or their paraphrases.

    Returns:
        One entry a record: a flag for each of its questions that is still its own, in the order of
        ``questions(current(history)[j])`` and their paraphrases; None where the record does not
        tell, as for a session whose rows were not kept. A session without questions has ().
    """
    return [
        recorded_outcomes(record, history, row=number, column=number, kind=kind)
        for number, record in enumerate(records, start=1)
    ]


def recorded_outcomes(
    record: Mapping[str, Any], history: History, *, row: int, column: int, kind: Kind
) -> tuple[bool, ...] | None:
    """Return what a session's record says of another's questions that are still the other's.

    Args:
        record: session.json of session ``row``.
        history: The rows of the whole chain, root first.
        row: Number of the session whose model was asked, from 1.
        column: Number of the session whose questions they are, from 1 to ``row``.
        kind: The questions as taught, or their paraphrases.

    Returns:
        The flags, or None where the record does not tell; see :func:`learned_outcomes`.
    """
    then = questions(current(history[:row])[column - 1])
    still = {id(one) for one in current(history)[column - 1]}
    stays = [id(one) in still for one in then for _ in range(_asked(one, kind))]
    flags = _flags(record, column, kind)
    if flags is None or len(flags) != len(stays):
        return None
    return tuple(flag for flag, stay in zip(flags, stays, strict=True) if stay)


def superseded(history: History) -> list[int]:
    """Return how many questions of each session a later one taught again."""
    return [
        len(questions([row for row in rows if isinstance(row, Row)])) - len(questions(kept))
        for rows, kept in zip(history, current(history), strict=True)
    ]


def _asked(row: Row, kind: Kind) -> int:
    return 1 if kind == "verbatim" else len(row.paraphrases)


def _flags(record: Mapping[str, Any], column: int, kind: Kind) -> list[bool] | None:
    """Return a record's outcomes; () where it says that there was nothing to ask."""
    entries = record.get("recall") or []
    if len(entries) < column:
        return None
    score = entries[column - 1].get(kind)
    return [bool(flag) for flag in score["outcomes"]] if score else []
