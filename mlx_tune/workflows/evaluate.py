"""How well every session is known, after every session: the retention matrix.

The answering row is asked afresh. The sessions' records hold what was known when each was learned;
the base's row, and what was known of a session before it was taught, are measured once, one model
in memory at a time, and kept under ``evals/``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlx_tune.continual.general import Rise, rise
from mlx_tune.continual.recall import score
from mlx_tune.continual.recorded import KINDS, Kind, questions, superseded
from mlx_tune.continual.rehearse import History, current
from mlx_tune.errors import DiskError
from mlx_tune.lineage import evals
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.asking import Questions, SessionRecall, ask, prepare, score_sessions
from mlx_tune.workflows.evaluation import MEASURED, Asked, Cells, Evaluation, Place, Scored
from mlx_tune.workflows.facts import score_facts
from mlx_tune.workflows.folded import (
    FoldedModel,
    choose_base,
    describe_base,
    find_session,
    let_go,
    load_folded,
    locate_base,
    need_sessions,
    read_history,
)
from mlx_tune.workflows.general import General, general_set
from mlx_tune.workflows.known_cells import evaluated, recorded

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
    """Ask a place in the lineage, and those before it, the questions of a chain of sessions.

    Args:
        store_root: The store's folder.
        session: Whose model answers: a session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        on: Whose chain of sessions is asked about; None for the answering one's, or, when that
            is the base, for HEAD's.
        say: Told, in a line, what takes long, and what could not be read or written.
        fresh: Measure every cell, whatever is known of it.
        quick: Measure the answering row alone.
        facts: Generate answers and look for the key facts in them.

    Returns:
        The matrices, which were written under ``evals/`` as well.

    Raises:
        UsageError: The store has no sessions, or a name means none.
        DamagedStoreError: A session of the chain is damaged.
        InputError: The base cannot take a row, or a model computes no finite numbers.
    """
    store = Store.open(store_root)
    need_sessions(store)
    info = locate_base(store, choose_base(store, base), say)
    found, history = _nothing_known(store, session, on)
    for note in store.notes:
        say(note)
    known = {} if fresh else _known(store, found, history, info, say)
    exam = _exam(found.columns, load_tokenizer(info.folder, info.template))
    general = None if quick else general_set(info, say=say)
    found = _with_answers(replace(found, cells=known), exam, info, general, facts=facts, say=say)
    let_go()
    try:
        for more in () if quick else _ask_the_rest(found, exam, info, say):
            found = more
    finally:  # stopped midway, the rows that were asked need not be asked again
        _keep(store, found, info, say)
    return found


def already_known(store_root: Path, *, info: BaseInfo, session: str | None, say: Say) -> Evaluation:
    """Return what records and earlier evaluations say, without asking any model.

    Args:
        store_root: The store's folder.
        info: The store's base.
        session: Up to which session; None for HEAD.
        say: Told what could not be read.

    Raises:
        UsageError: The store has no sessions, or the name means none.
        DamagedStoreError: A session of the chain is damaged.
    """
    store = Store.open(store_root)
    need_sessions(store)
    found, history = _nothing_known(store, session, None)
    return replace(found, cells=_known(store, found, history, info, say))


def _nothing_known(store: Store, session: str | None, on: str | None) -> tuple[Evaluation, History]:
    """Return the empty matrix, and the rows its questions come from."""
    answering = find_session(store, session)
    asked = store.chain(find_session(store, on) if on else answering or store.head())
    history = read_history(asked)
    found = Evaluation(
        answering=Place(session=answering, chain=tuple(store.chain(answering))),
        rows=_rows(answering, tuple(store.chain(answering)), asked),
        columns=_columns(asked, history),
        cells={},
        recall=(),
    )
    return found, history


def _rows(
    answering: Session | None, chain: tuple[Session, ...], asked: Sequence[Session]
) -> tuple[Place, ...]:
    """Return the places up to the answering one; it alone where it is not on the chain asked."""
    if [session.id for session in chain] != [session.id for session in asked[: len(chain)]]:
        return (Place(session=answering, chain=chain),)
    return tuple(
        Place(session=chain[count - 1] if count else None, chain=chain[:count])
        for count in range(len(chain) + 1)
    )


def _columns(asked: Sequence[Session], history: History) -> tuple[Asked, ...]:
    return tuple(
        Asked(session=session, rows=tuple(questions(rows)), superseded=count)
        for session, rows, count in zip(asked, current(history), superseded(history), strict=True)
    )


def _known(store: Store, found: Evaluation, history: History, info: BaseInfo, say: Say) -> Cells:
    notes: list[str] = []
    try:
        files = evals.read_all(store.root, notes)
    except DiskError as error:
        files = {}
        notes.append(f"{error}; going on without earlier evaluations")
    cells = evaluated(files, found.rows, found.columns, info.fingerprint, notes)
    for note in notes:
        say(f"note: {note}")
    return cells | recorded(found.rows, found.columns, history)


Exam = Mapping[str, Questions]
"""By the id of the session whose questions they are."""


def _exam(columns: Sequence[Asked], tokenizer: Tokenizer) -> Exam:
    labels = [(column.session.number, column.session.name) for column in columns]
    prepared = prepare(labels, [column.rows for column in columns], tokenizer)
    ids = [column.session.id for column in columns]
    return dict(zip(ids, prepared, strict=True))


def _with_answers(
    found: Evaluation,
    exam: Exam,
    info: BaseInfo,
    general: General | None,
    *,
    facts: bool,
    say: Say,
) -> Evaluation:
    """Ask the answering place everything, whatever is known."""
    say(f"asking {_name(found.answering)}…")
    folded = load_folded(info, found.answering.chain)
    recall = {column.session.id: ask(folded, exam[column.session.id]) for column in found.columns}
    if facts:
        say("generating the answers that are not known word for word…")
    return replace(
        found,
        general=_rise(folded, general),
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


def _rise(folded: FoldedModel, general: General | None) -> Rise | None:
    """Return ΔG of a model; None where nothing is asked, or the base had nothing to say."""
    if general is None or not general.probes:
        return None
    losses = score(folded.model, general.probes).losses
    return rise(general.base_losses, losses, general.tokens)


def _ask_the_rest(found: Evaluation, exam: Exam, info: BaseInfo, say: Say) -> Iterator[Evaluation]:
    """Ask each place before the answering one what is not known of it; yield what is known then."""
    for row in found.rows:
        lacking = [c.session.id for c in found.columns if _lacks(found, row, c)]
        if lacking:
            say(f"asking {_name(row)}, as it was…" if row.session else "asking the base…")
            cells = _measure(row, {identity: exam[identity] for identity in lacking}, info)
            found = replace(found, cells={**found.cells, **cells})
            let_go()
            yield found


def _measure(row: Place, exam: Exam, info: BaseInfo) -> Cells:
    folded = load_folded(info, row.chain)
    return _cells(row, {identity: ask(folded, asked) for identity, asked in exam.items()})


def _lacks(found: Evaluation, row: Place, column: Asked) -> bool:
    return any(column.count(kind) and not found.scored(row, column, kind) for kind in KINDS)


def _cells(row: Place, recall: Mapping[str, SessionRecall]) -> Cells:
    return {
        (row.id, identity, kind): scored
        for identity, entry in recall.items()
        for kind in KINDS
        if (scored := _scored(entry, kind)) is not None
    }


def _scored(entry: SessionRecall, kind: Kind) -> Scored | None:
    recall = entry.verbatim if kind == "verbatim" else entry.paraphrases
    if recall is None:
        return None
    return Scored(
        outcomes=recall.verbatim,
        loss=recall.loss,
        token_accuracy=recall.token_accuracy,
        source=MEASURED,
    )


def _keep(store: Store, found: Evaluation, info: BaseInfo, say: Say) -> None:
    """Write the evaluation down; a disk that takes none does not take back what was measured."""
    record = {**found.to_json(), "base": describe_base(info), "versions": runtime.versions()}
    session = found.answering.session
    try:
        evals.write(store.root, record, who=session.folder_name if session else found.answering.id)
    except DiskError as error:
        say(f"note: {error}; the evaluation was not kept")


def _name(place: Place) -> str:
    return f"{place.number} {place.name}" if place.session else "the base"
