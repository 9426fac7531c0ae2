"""How well every session is recalled, after every session: the retention matrix.

The answering row is measured afresh. The sessions' records hold the recall when each was learned;
the base's row, and the recall of a session before it was taught, are measured once, one model in
memory at a time, and kept under ``evals/``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_tune.continual.answers import AnswerKey, AnswerScore
from mlx_tune.continual.in_force import History, current_rows
from mlx_tune.continual.recall import Recall
from mlx_tune.continual.retention import (
    ANSWERED,
    KINDS,
    Kind,
    QuestionHistory,
    questions,
    recorded_grades,
    recorded_outcomes,
    superseded,
)
from mlx_tune.errors import DiskError
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.store.runs import read_evaluations, write_evaluation
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import StoreSnapshot, read_store
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.matrix import (
    MEASURED,
    RECORDED,
    AnswerCell,
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
    grade_answers,
    prepare_questions,
    sample_size,
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


def evaluate(
    store_root: Path,
    *,
    session: str | None,
    base: str | None,
    on: str | None,
    say: Say,
    fresh: bool = False,
    quick: bool = False,
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

    Returns:
        The matrices, which were written under ``evals/`` as well.

    Raises:
        UsageError: The store has no sessions, or a name means none.
        DamagedStoreError: A session of the chain is damaged.
        InputError: The base cannot take a row, or a model computes no finite numbers.
    """
    opened = open_workspace(store_root, session=session, base=base, say=say, needs_sessions=True)
    store, info = opened.snapshot, opened.info
    matrix, history = _empty_matrix(store, opened.session, on)
    cells = {} if fresh else _stored_cells(store, matrix, history, info, say)
    exam = _Exam.of(matrix.columns, info)
    general = None if quick else general_set(info, say=say)
    matrix = _with_answers(replace(matrix, cells=cells), exam, general, say)
    free_memory()
    try:
        for more in () if quick else _measure_rest(matrix, exam, say):
            matrix = more
    finally:  # stopped midway, the rows that were measured need not be measured again
        _keep(store_root, matrix, info, say)
    return matrix


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
    store = read_store(store_root)
    need_sessions(store)
    matrix, history = _empty_matrix(store, find_session(store, session), None)
    return replace(matrix, cells=_stored_cells(store, matrix, history, info, say))


def _empty_matrix(
    store: StoreSnapshot, answering: Session | None, on: str | None
) -> tuple[Evaluation, History]:
    """Return the matrix without a cell, and the rows its questions come from."""
    taught = store.chain(find_session(store, on) if on else answering or store.head())
    history = read_history(taught)
    columns = zip(taught, current_rows(history), superseded(history), strict=True)
    chain = tuple(store.chain(answering))
    row = MatrixRow(session=answering, chain=chain)
    # The answering row stands alone where its chain is not the columns'.
    follows = [session.id for session in chain] == [session.id for session in taught[: len(chain)]]
    matrix = Evaluation(
        answering=row,
        rows=tuple(
            MatrixRow(session=chain[count - 1] if count else None, chain=chain[:count])
            for count in range(len(chain) + 1)
        )
        if follows
        else (row,),
        columns=tuple(
            MatrixColumn(session=session, rows=tuple(questions(rows)), superseded=count)
            for session, rows, count in columns
        ),
        cells={},
        recall=(),
    )
    return matrix, history


def _stored_cells(
    store: StoreSnapshot, matrix: Evaluation, history: History, info: BaseInfo, say: Say
) -> Cells:
    notes: list[str] = []
    try:
        files = read_evaluations(store.root, notes)
    except DiskError as error:
        files = {}
        notes.append(f"{error}; going on without earlier evaluations")
    cells = _evaluated_cells(files, matrix, info.fingerprint, notes)
    for note in notes:
        say(f"note: {note}")
    return cells | _recorded_cells(matrix, history)


@dataclass(frozen=True, kw_only=True)
class _Exam:
    """What every row of the matrix is asked.

    Attributes:
        info: The base.
        questions: By the id of the session whose they are, in the order of the columns.
        key: All their answers.
    """

    info: BaseInfo
    questions: Mapping[str, Questions]
    key: AnswerKey

    @staticmethod
    def of(columns: Sequence[MatrixColumn], info: BaseInfo) -> "_Exam":
        labels = [(column.session.number, column.session.name) for column in columns]
        tokenizer = load_tokenizer(info.folder, info.template)
        prepared = prepare_questions(labels, [column.rows for column in columns], tokenizer)
        ids = [column.session.id for column in columns]
        return _Exam(
            info=info,
            questions=dict(zip(ids, prepared, strict=True)),
            key=AnswerKey([row for column in columns for row in column.rows]),
        )

    def ask(self, folded: FoldedModel, ids: Sequence[str]) -> dict[str, SessionRecall]:
        """Ask a model the questions of some sessions."""
        questions = [self.questions[identity] for identity in ids]
        recall = [ask_questions(folded, each) for each in questions]
        most = sample_size(len(self.questions))
        graded = grade_answers(folded, questions, recall, self.key, most=most)
        return dict(zip(ids, graded, strict=True))


def _with_answers(
    matrix: Evaluation, exam: _Exam, general: GeneralSet | None, say: Say
) -> Evaluation:
    """Ask the answering model everything, whatever earlier evaluations hold."""
    say(f"asking {_name(matrix.answering)}…")
    folded = load_folded(exam.info, matrix.answering.chain)
    recall = exam.ask(folded, list(exam.questions))
    return replace(
        matrix,
        general=general.change(folded.model) if general and general.probes else None,
        cells={**matrix.cells, **_cells(matrix.answering, recall)},
        recall=tuple(recall.values()),
    )


def _measure_rest(matrix: Evaluation, exam: _Exam, say: Say) -> Iterator[Evaluation]:
    """Fill in the cells that lack a score, a row at a time; yield the matrix after each."""
    for row in matrix.rows:
        lacking = {
            (row.id, column.session.id, kind): column.session.id
            for column in matrix.columns
            for kind in KINDS
            if column.count(kind) and not matrix.scored(row, column, kind)
        }
        if lacking:
            say(f"asking {_name(row)}, as it was…" if row.session else "asking the base…")
            found = _measure(row, exam, list(dict.fromkeys(lacking.values())))
            cells = {place: score for place, score in found.items() if place in lacking}
            matrix = replace(matrix, cells={**matrix.cells, **cells})
            free_memory()
            yield matrix


def _measure(row: MatrixRow, exam: _Exam, ids: Sequence[str]) -> Cells:
    return _cells(row, exam.ask(load_folded(exam.info, row.chain), ids))


def _cells(row: MatrixRow, recall: Mapping[str, SessionRecall]) -> Cells:
    cells: Cells = {}
    for column, entry in recall.items():
        for kind in KINDS:
            scored: Recall | AnswerScore | None = getattr(entry, kind)
            if isinstance(scored, AnswerScore):
                cells[row.id, column, kind] = AnswerCell(score=scored, source=MEASURED)
            elif scored is not None:
                cells[row.id, column, kind] = CellScore(
                    outcomes=scored.verbatim,
                    loss=scored.loss,
                    token_accuracy=scored.token_accuracy,
                    source=MEASURED,
                )
    return cells


def _keep(store_root: Path, matrix: Evaluation, info: BaseInfo, say: Say) -> None:
    """Write the evaluation down; a disk that takes none does not take back what was measured."""
    record = {**matrix.to_json(), "base": describe_base(info), "versions": runtime.versions()}
    session = matrix.answering.session
    try:
        who = session.folder_name if session else matrix.answering.id
        write_evaluation(store_root, record, who=who)
    except DiskError as error:
        say(f"note: {error}; the evaluation was not kept")


def _name(row: MatrixRow) -> str:
    return f"{row.number} {row.name}" if row.session else "the base"


def _recorded_cells(matrix: Evaluation, history: History) -> Cells:
    """Return what the sessions' records say of the questions asked.

    A row on another chain than the columns says nothing of them.
    """
    cells: Cells = {}
    asked = QuestionHistory(history)
    ids = [column.session.id for column in matrix.columns]
    for row in matrix.rows:
        if row.session is None or [s.id for s in row.chain] != ids[: row.number]:
            continue
        for number, column in enumerate(matrix.columns[: row.number], start=1):
            for kind in KINDS:
                scored = _from_record(row, column, asked, number, kind)
                if scored is not None:
                    cells[row.id, column.session.id, kind] = scored
    return cells


def _from_record(
    row: MatrixRow, column: MatrixColumn, history: QuestionHistory, number: int, kind: Kind
) -> CellScore | AnswerCell | None:
    assert row.session is not None, "the base has no record"
    record = row.session.record
    if kind in ANSWERED:
        grades = recorded_grades(record, history, row=row.number, column=number, kind=kind)
        score = AnswerScore(grades=grades or ())
        is_whole = score.asked and len(score.grades) == column.count(kind)
        return AnswerCell(score=score, source=RECORDED) if is_whole else None
    flags = recorded_outcomes(record, history, row=row.number, column=number, kind=kind)
    if not flags or len(flags) != column.count(kind):
        return None
    kept = record["recall"][number - 1][kind]
    whole = len(kept["outcomes"]) == len(flags)  # its means are over what was asked then
    return CellScore(
        outcomes=tuple(map(bool, flags)),
        loss=kept["loss"] if whole else None,
        token_accuracy=kept["token_accuracy"] if whole else None,
        source=RECORDED,
    )


def _evaluated_cells(
    files: Mapping[str, Mapping[str, Any]], matrix: Evaluation, fingerprint: str, notes: list[str]
) -> Cells:
    """Return what earlier evaluations of the same base measured; the latest counts.

    A file that is not what was written is passed over with a note.
    """
    cells: Cells = {}
    wanted = {row.id for row in matrix.rows}
    by_rows = {(column.session.id, column.sha256): column for column in matrix.columns}
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
        kept = cell.get(kind) if kind in ANSWERED else cell[kind]  # a file of before has none
        if kept is None or kept["source"] == RECORDED:
            continue
        outcomes, place = kept["outcomes"], (cell["row"], cell["column"], kind)
        if len(outcomes) != column.count(kind):
            raise ValueError(f"{len(outcomes)} outcomes of {column.count(kind)} questions")
        if kind in ANSWERED:
            if (score := AnswerScore.from_json(kept)) is not None:
                found[place] = AnswerCell(score=score, source=name)
            continue
        if not set(outcomes) <= {0, 1}:
            raise ValueError(f"{outcomes} are no flags")
        found[place] = CellScore(
            outcomes=tuple(map(bool, outcomes)),
            loss=float(kept["loss"]),
            token_accuracy=float(kept["token_accuracy"]),
            source=name,
        )
    return found
