"""Carries a run to a committed session: train, score, decide, commit; HEAD moves on *promote*."""

from dataclasses import dataclass

from mlx_tune.continual.gate import PROMOTE
from mlx_tune.data import read
from mlx_tune.errors import IncompatibleError, InputError, LockedError
from mlx_tune.lineage import head
from mlx_tune.lineage.runs import COMMIT, DONE, FAILED, SCORE
from mlx_tune.lineage.session import Session
from mlx_tune.workflows.asking import SessionRecall
from mlx_tune.workflows.folded import DATA_FILE, let_go
from mlx_tune.workflows.job import HELD_OUT_ROWS, NEW_ROWS, Job, Watch
from mlx_tune.workflows.judge import Judged, judge
from mlx_tune.workflows.session_record import session_record
from mlx_tune.workflows.steps import take_steps


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished session.

    Attributes:
        session: As committed.
        recall: Of every session of its chain, itself last.
        is_head: False when it was held back, or HEAD moved elsewhere meanwhile.
        judged: What was decided; None where an earlier attempt at the run committed it.
    """

    session: Session
    recall: tuple[SessionRecall, ...]
    is_head: bool
    judged: Judged | None


def carry_out(job: Job, watch: Watch) -> Outcome:
    """Go on with a run from wherever it stands; one run commits one session.

    Raises:
        Interrupted: Somebody asked to stop; `resume` goes on.
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    watch.opened(job.run)
    session, judged = _committed(job), None
    if session is None:
        try:
            session, judged = _train_and_commit(job, watch)
        except (IncompatibleError, InputError):  # it would end the same way again
            job.run.set(phase=FAILED)
            raise
    is_head = session.record["verdict"] == PROMOTE and _move_head(job, session, watch)
    if not job.keeps_data:
        job.run.discard(NEW_ROWS, HELD_OUT_ROWS)
    safe = f"{session.folder_name} is saved, only the run's record lacks its last line"
    job.run.set(phase=DONE, session=session.id, safe=safe)
    recall = tuple(map(SessionRecall.from_json, session.record["recall"]))
    return Outcome(session=session, recall=recall, is_head=is_head, judged=judged)


def _committed(job: Job) -> Session | None:
    """Return the session that an earlier attempt at this run committed before it ended."""
    for session in job.store.sessions():
        if session.record.get("training", {}).get("run") == job.run.path.name:
            return session
    return None


def _train_and_commit(job: Job, watch: Watch) -> tuple[Session, Judged]:
    trained = take_steps(job, watch)
    let_go()  # the trained model has gone with its frame, before its folded twin comes
    job.run.set(phase=SCORE)
    judged = judge(job, trained.adapter, watch)
    job.run.set(phase=COMMIT)
    files = judged.adapter.files(num_layers=trained.num_layers)
    if job.keeps_data:
        files[DATA_FILE] = read.dump(job.new)
        if job.held_out:
            files[HELD_OUT_ROWS] = read.dump(job.held_out)
    record = session_record(job, trained, judged)
    session = job.store.commit(name=job.name, parent=job.parent, record=record, files=files)
    return session, judged


def _move_head(job: Job, session: Session, watch: Watch) -> bool:
    """Put the session in use, once, unless somebody moved HEAD while it was training."""
    if session.id in {move.new for move in head.moves(job.store.root)}:
        return job.store.head() == session
    try:
        job.store.move_head(session, expected=job.head, why=f"train {job.name}")
    except LockedError as error:
        watch.say(str(error))
        return False
    return True
