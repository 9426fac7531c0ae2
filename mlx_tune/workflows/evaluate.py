"""How well every session is known, after every session: the retention matrix.

The answering row is asked afresh. The sessions' records hold what was known when each was learned;
the base's row, and what was known of a session before it was taught, are measured once, one model
in memory at a time, and kept under ``evals/``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_tune.continual.recall import GeneralChange, general_change, score
from mlx_tune.continual.rehearse import History, current_rows
from mlx_tune.continual.retention import KINDS, Kind, questions, recorded_outcomes, superseded
from mlx_tune.errors import DiskError
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.store import evals
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import StoreSnapshot, read_snapshot
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.matrix import (
    MEASURED,
    RECORDED,
    Cells,
    CellScore,
    Evaluation,
    MatrixColumn,
    MatrixRow,
)
from mlx_tune.workflows.scoring import (
    Questions,
    SessionRecall,
    ask_questions,
    prepare_questions,
    score_facts,
    score_sessions,
)
from mlx_tune.workflows.workspace import (
    FoldedModel,
    describe_base,
    find_session,
    free_memory,
    load_folded,
    need_sessions,
    open_workspace,
    read_history,
)

__all__ = ["SessionRecall", "evaluate", "score_sessions"]


def evaluate(
    store_root: Path,
    *,
    session: str | None,
    base: str | None,
    on: str | None,
    say: Say,
    fresh: bool = False,
    quick: bool = False,
    facts: bool = False,
) -> Evaluation:
    """Ask a session's model, and those of its ancestors, the questions of a chain of sessions.

    Args:
        store_root: The store's folder.
        session: Whose model answers: a session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        on: Whose chain of sessions is asked about; None for the answering one's, or, when that
            is the base, for HEAD's.
        say: Called, in a line, with what takes long and what could not be read or written.
        fresh: Measure every cell, whatever earlier evaluations hold.
        quick: Measure the answering row alone.
        facts: Generate answers and look for the key facts in them.

    Returns:
        The matrices, which were written under ``evals/`` as well.

    Raises:
        UsageError: The store has no sessions, or a name means none.
        DamagedStoreError: A session of the chain is damaged.
        InputError: The base cannot take a row, or a model computes no finite numbers.
    """
    opened = open_workspace(store_root, session=session, base=base, say=say, needs_sessions=True)
    store, info = opened.snapshot, opened.info
    found, history = _empty_matrix(store, opened.session, on)
    cells = {} if fresh else _stored_cells(store, found, history, info, say)
    exam = _questions_by_id(found.columns, load_tokenizer(info.folder, info.template))
    general = None if quick else general_set(info, say=say)
    found = _with_answers(replace(found, cells=cells), exam, info, general, facts=facts, say=say)
    free_memory()
    try:
        for more in () if quick else _ask_the_rest(found, exam, info, say):
            found = more
    finally:  # stopped midway, the rows that were asked need not be asked again
        _keep(store_root, found, info, say)
    return found


def stored_evaluation(
    store_root: Path, *, info: BaseInfo, session: str | None, say: Say
) -> Evaluation:
    """Return what records and earlier evaluations say, without asking any model.

    Args:
        store_root: The store's folder.
        info: The store's base.
        session: Up to which session; None for HEAD.
        say: Called with what could not be read.

    Raises:
        UsageError: The store has no sessions, or the name means none.
        DamagedStoreError: A session of the chain is damaged.
    """
    store = read_snapshot(store_root)
    need_sessions(store)
    found, history = _empty_matrix(store, find_session(store, session), None)
    return replace(found, cells=_stored_cells(store, found, history, info, say))


def _empty_matrix(
    store: StoreSnapshot, answering: Session | None, on: str | None
) -> tuple[Evaluation, History]:
    """Return the matrix without a cell, and the rows its questions come from."""
    taught = store.chain(find_session(store, on) if on else answering or store.head())
    history = read_history(taught)
    chain = tuple(store.chain(answering))
    found = Evaluation(
        answering=MatrixRow(session=answering, chain=chain),
        rows=_rows(answering, chain, taught),
        columns=_columns(taught, history),
        cells={},
        recall=(),
    )
    return found, history


def _rows(
    answering: Session | None, chain: tuple[Session, ...], taught: Sequence[Session]
) -> tuple[MatrixRow, ...]:
    """Return the rows up to the answering one; it alone where its chain is not the columns'."""
    if [session.id for session in chain] != [session.id for session in taught[: len(chain)]]:
        return (MatrixRow(session=answering, chain=chain),)
    return tuple(
        MatrixRow(session=chain[count - 1] if count else None, chain=chain[:count])
        for count in range(len(chain) + 1)
    )


def _columns(taught: Sequence[Session], history: History) -> tuple[MatrixColumn, ...]:
    return tuple(
        MatrixColumn(session=session, rows=tuple(questions(rows)), superseded=count)
        for session, rows, count in zip(
            taught, current_rows(history), superseded(history), strict=True
        )
    )


def _stored_cells(
    store: StoreSnapshot, found: Evaluation, history: History, info: BaseInfo, say: Say
) -> Cells:
    notes: list[str] = []
    try:
        files = evals.read_all(store.root, notes)
    except DiskError as error:
        files = {}
        notes.append(f"{error}; going on without earlier evaluations")
    cells = evaluated_cells(files, found.rows, found.columns, info.fingerprint, notes)
    for note in notes:
        say(f"note: {note}")
    return cells | recorded_cells(found.rows, found.columns, history)


QuestionsById = Mapping[str, Questions]
"""By the id of the session whose questions they are."""


def _questions_by_id(columns: Sequence[MatrixColumn], tokenizer: Tokenizer) -> QuestionsById:
    labels = [(column.session.number, column.session.name) for column in columns]
    prepared = prepare_questions(labels, [column.rows for column in columns], tokenizer)
    ids = [column.session.id for column in columns]
    return dict(zip(ids, prepared, strict=True))


def _with_answers(
    found: Evaluation,
    exam: QuestionsById,
    info: BaseInfo,
    general: GeneralSet | None,
    *,
    facts: bool,
    say: Say,
) -> Evaluation:
    """Ask the answering model everything, whatever earlier evaluations hold."""
    say(f"asking {_name(found.answering)}…")
    folded = load_folded(info, found.answering.chain)
    recall = {
        column.session.id: ask_questions(folded, exam[column.session.id])
        for column in found.columns
    }
    if facts:
        say("generating the answers that are not known word for word…")
    return replace(
        found,
        general=_general_change(folded, general),
        cells={**found.cells, **_cells(found.answering, recall)},
        recall=tuple(recall.values()),
        facts={
            column.session.number: score_facts(
                folded, column.rows, exam[column.session.id], recall[column.session.id]
            )
            for column in found.columns
        }
        if facts
        else None,
    )


def _general_change(folded: FoldedModel, general: GeneralSet | None) -> GeneralChange | None:
    """Return ΔG of a model; None where nothing is asked, or the base had nothing to say."""
    if general is None or not general.probes:
        return None
    losses = score(folded.model, general.probes).losses
    return general_change(general.base_losses, losses, general.tokens)


def _ask_the_rest(
    found: Evaluation, exam: QuestionsById, info: BaseInfo, say: Say
) -> Iterator[Evaluation]:
    """Fill in the cells that lack a score, a row at a time; yield the matrix after each."""
    for row in found.rows:
        lacking = [c.session.id for c in found.columns if _lacks(found, row, c)]
        if lacking:
            say(f"asking {_name(row)}, as it was…" if row.session else "asking the base…")
            cells = _measure(row, {identity: exam[identity] for identity in lacking}, info)
            found = replace(found, cells={**found.cells, **cells})
            free_memory()
            yield found


def _measure(row: MatrixRow, exam: QuestionsById, info: BaseInfo) -> Cells:
    folded = load_folded(info, row.chain)
    return _cells(row, {column: ask_questions(folded, each) for column, each in exam.items()})


def _lacks(found: Evaluation, row: MatrixRow, column: MatrixColumn) -> bool:
    return any(column.count(kind) and not found.scored(row, column, kind) for kind in KINDS)


def _cells(row: MatrixRow, recall: Mapping[str, SessionRecall]) -> Cells:
    return {
        (row.id, identity, kind): scored
        for identity, entry in recall.items()
        for kind in KINDS
        if (scored := _scored(entry, kind)) is not None
    }


def _scored(entry: SessionRecall, kind: Kind) -> CellScore | None:
    recall = entry.verbatim if kind == "verbatim" else entry.paraphrases
    if recall is None:
        return None
    return CellScore(
        outcomes=recall.verbatim,
        loss=recall.loss,
        token_accuracy=recall.token_accuracy,
        source=MEASURED,
    )


def _keep(store_root: Path, found: Evaluation, info: BaseInfo, say: Say) -> None:
    """Write the evaluation down; a disk that takes none does not take back what was measured."""
    record = {**found.to_json(), "base": describe_base(info), "versions": runtime.versions()}
    session = found.answering.session
    try:
        evals.write(store_root, record, who=session.folder_name if session else found.answering.id)
    except DiskError as error:
        say(f"note: {error}; the evaluation was not kept")


def _name(place: MatrixRow) -> str:
    return f"{place.number} {place.name}" if place.session else "the base"


def recorded_cells(
    rows: Sequence[MatrixRow], columns: Sequence[MatrixColumn], history: History
) -> Cells:
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
    place: MatrixRow, column: MatrixColumn, history: History, j: int, kind: Kind
) -> CellScore | None:
    assert place.session is not None, "the base has no record"
    record = place.session.record
    flags = recorded_outcomes(record, history, row=place.number, column=j, kind=kind)
    if not flags or len(flags) != column.count(kind):
        return None
    kept = record["recall"][j - 1][kind]
    whole = len(kept["outcomes"]) == len(flags)  # its means are over what was asked then
    return CellScore(
        outcomes=flags,
        loss=kept["loss"] if whole else None,
        token_accuracy=kept["token_accuracy"] if whole else None,
        source=RECORDED,
    )


def evaluated_cells(
    files: Mapping[str, Mapping[str, Any]],
    rows: Sequence[MatrixRow],
    columns: Sequence[MatrixColumn],
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
    by_rows = {(column.session.id, column.sha256): column for column in columns}
    for name, record in files.items():
        try:
            if record["base"]["fingerprint"] != fingerprint:
                continue
            found: Cells = {}
            for cell in record["cells"]:
                column = by_rows.get((cell["column"], cell["rows_sha256"]))
                if column is not None and cell["row"] in wanted:
                    found |= _from_file(cell, column, name)
        except (KeyError, TypeError, ValueError):
            notes.append(f"evals/{name}: not what was written; passed over, delete it")
            continue
        cells |= found
    return cells


def _from_file(cell: Mapping[str, Any], column: MatrixColumn, name: str) -> Cells:
    """Return the scores of one cell; what is not of the form that was written is a ValueError."""
    found: Cells = {}
    for kind in KINDS:
        kept = cell[kind]
        if kept is None or kept["source"] == RECORDED:
            continue
        outcomes = kept["outcomes"]
        if len(outcomes) != column.count(kind) or not set(outcomes) <= {0, 1}:
            raise ValueError(f"{len(outcomes)} outcomes of {column.count(kind)} questions")
        found[cell["row"], cell["column"], kind] = CellScore(
            outcomes=tuple(map(bool, outcomes)),
            loss=float(kept["loss"]),
            token_accuracy=float(kept["token_accuracy"]),
            source=name,
        )
    return found
