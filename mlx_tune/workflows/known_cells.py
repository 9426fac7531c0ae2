"""Cells of the retention matrix that need no model: from sessions' records, and from evaluations.

A model and a set of questions give the same outcomes for ever, so what was once measured holds as
long as both are the same: the session's id stands for the one, a hash of its rows for the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_tune.continual.recorded import KINDS, Kind, recorded_outcomes
from mlx_tune.continual.rehearse import History
from mlx_tune.workflows.evaluation import RECORDED, Asked, Cells, Place, Scored


def recorded(rows: Sequence[Place], columns: Sequence[Asked], history: History) -> Cells:
    """Return what the sessions' records say of the questions asked about.

    Args:
        rows: The places; what stands on another chain says nothing of this one.
        columns: The sessions asked about, the chain root first.
        history: The rows each of them was taught.
    """
    cells: Cells = {}
    ids = [column.session.id for column in columns]
    for place in rows:
        if place.session is None or [s.id for s in place.chain] != ids[: place.number]:
            continue
        for j, column in enumerate(columns[: place.number], start=1):
            for kind in KINDS:
                scored = _from_record(place, column, history, j, kind)
                if scored is not None:
                    cells[place.id, column.session.id, kind] = scored
    return cells


def _from_record(
    place: Place, column: Asked, history: History, j: int, kind: Kind
) -> Scored | None:
    assert place.session is not None, "the base has no record"
    record = place.session.record
    flags = recorded_outcomes(record, history, row=place.number, column=j, kind=kind)
    if not flags or len(flags) != column.count(kind):
        return None
    kept = record["recall"][j - 1][kind]
    whole = len(kept["outcomes"]) == len(flags)  # its means are over what was asked then
    return Scored(
        outcomes=flags,
        loss=kept["loss"] if whole else None,
        token_accuracy=kept["token_accuracy"] if whole else None,
        source=RECORDED,
    )


def evaluated(
    files: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Place],
    columns: Sequence[Asked],
    fingerprint: str,
    notes: list[str],
) -> Cells:
    """Return what earlier evaluations found, the latest last word.

    Args:
        files: Evaluations by file name, in order of time.
        rows: The places whose answers are wanted.
        columns: The sessions asked about.
        fingerprint: The base's; an evaluation of another says nothing.
        notes: Takes a line for every file that is not what was written, and is passed over.
    """
    cells: Cells = {}
    wanted = {place.id for place in rows}
    asked = {(column.session.id, column.sha256): column for column in columns}
    for name, record in files.items():
        try:
            if record["base"]["fingerprint"] != fingerprint:
                continue
            found: Cells = {}
            for cell in record["cells"]:
                column = asked.get((cell["column"], cell["rows_sha256"]))
                if column is not None and cell["row"] in wanted:
                    found |= _from_file(cell, column, name)
        except (KeyError, TypeError, ValueError):
            notes.append(f"evals/{name}: not what was written; passed over, delete it")
            continue
        cells |= found
    return cells


def _from_file(cell: Mapping[str, Any], column: Asked, name: str) -> Cells:
    """Return the scores of one cell; what is not of the form that was written is a ValueError."""
    found: Cells = {}
    for kind in KINDS:
        kept = cell[kind]
        if kept is None or kept["source"] == RECORDED:
            continue
        outcomes = kept["outcomes"]
        if len(outcomes) != column.count(kind) or not set(outcomes) <= {0, 1}:
            raise ValueError(f"{len(outcomes)} outcomes of {column.count(kind)} questions")
        found[cell["row"], cell["column"], kind] = Scored(
            outcomes=tuple(map(bool, outcomes)),
            loss=float(kept["loss"]),
            token_accuracy=float(kept["token_accuracy"]),
            source=name,
        )
    return found
