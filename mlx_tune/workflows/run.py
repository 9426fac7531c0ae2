"""Runs a training from its plan to a committed session, or on from its newest checkpoint."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.early_stopping import best_score
from mlx_tune.data import read
from mlx_tune.errors import (
    DamagedStoreError,
    IncompatibleError,
    InputError,
    LockedError,
    NetworkError,
    NotFiniteError,
    UsageError,
)
from mlx_tune.models import runtime
from mlx_tune.settings import typed
from mlx_tune.store import snapshot
from mlx_tune.store.runs import (
    COMMIT,
    DONE,
    FAILED,
    SCORE,
    Run,
    discard_run,
    give_up,
    list_runs,
)
from mlx_tune.store.session import PROMOTE, Session
from mlx_tune.store.store import SessionStore, open_store
from mlx_tune.workflows import fitting
from mlx_tune.workflows.gate_run import GateResult, run_gate
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.plan import TrainingRequest, plan_training
from mlx_tune.workflows.scoring import SessionRecall
from mlx_tune.workflows.steps import TrainingResult, take_steps
from mlx_tune.workflows.training_plan import (
    HELD_OUT_ROWS,
    NEW_ROWS,
    Candidate,
    TrainingPlan,
    create_run,
    other_settings,
    read_plan,
    unfinished_twin,
)
from mlx_tune.workflows.workspace import DATA_FILE, describe_base, folding, free_memory


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """A finished session.

    Attributes:
        session: As committed.
        recall: Of every session of its chain, itself last.
        is_head: False when it was held back, or HEAD moved elsewhere meanwhile.
        gate: What was decided; None where an earlier attempt at the run committed it.
    """

    session: Session
    recall: tuple[SessionRecall, ...]
    is_head: bool
    gate: GateResult | None


def train(request: TrainingRequest, observer: TrainingObserver) -> TrainingOutcome:
    """Train one session from the data to the store.

    Raises:
        LockedError: Another training is going on in this store.
        Interrupted: Somebody asked to stop; `resume` goes on.
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    plan = plan_training(request, say=observer.say)
    assert plan.review is not None, "a new plan comes with what a person should know"
    with plan.store.training(f"train {plan.name}"):
        if plan.store.snapshot().head() != plan.head:  # another training may just have ended
            raise LockedError(
                f"{plan.store.root}: HEAD moved while this training was planned; run it again"
            )
        twin = unfinished_twin(plan)
        if twin is not None and observer.offered(twin, other_settings(twin, plan)):
            return _resume_run(plan.store, twin, observer)
        observer.planned(plan)
        fitting.check_disk(plan.review.disk, plan.store.root)
        run = create_run(plan)
        observer.opened(run)
        return run_training(plan, run, observer)


def resume(store_root: Path, name: str | None, observer: TrainingObserver) -> TrainingOutcome:
    """Finish a run as if it had never stopped.

    Args:
        store_root: The store's folder.
        name: The run's folder name; None for the newest unfinished one.
        observer: Who follows.

    Raises:
        UsageError: There is no such run, or it is finished.
        DamagedStoreError: There is no store.
        LockedError: Another training is going on in this store.
        IncompatibleError: The base model is no longer the one the run began with.
        Interrupted: Somebody asked to stop once more.
        MlxTuneError: Whatever else keeps it from going on, with the command that gives it up.
    """
    store = open_store(store_root)
    store.snapshot()  # a newer version's are refused before anything else is said of the store
    run = find_run(store_root, name, observer)
    with store.training(f"resume {run.path.name}"):
        # Read again, now that nobody else writes it.
        return _resume_run(store, Run.open(run.path), observer)


def discard(store_root: Path, name: str | None) -> str:
    """Delete a run that is not to be finished: its checkpoints, rows and metrics.

    Args:
        store_root: The store's folder.
        name: The run's folder name; a run that is deleted has to be named.

    Returns:
        The folder's name.

    Raises:
        UsageError: There is no such run, none was named, or it became a session.
        LockedError: A training is going on in this store.
        DiskError: The disk is read-only or failing.
    """
    store = open_store(store_root)
    if name is None:
        names = _names(run for run in list_runs(store_root) if run.is_unfinished)
        raise UsageError(f"--discard deletes a run, so name it; there are: {names}")
    with store.training(f"resume --discard {name}"):
        discard_run(store_root, name)
    return Path(name).name


def find_run(store_root: Path, name: str | None, observer: TrainingObserver) -> Run:
    """Return the run a person means: by its folder's name, or the newest unfinished one."""
    notes: list[str] = []
    unfinished = [run for run in list_runs(store_root, notes=notes) if run.is_unfinished]
    for note in notes:
        observer.say(note)
    if name is None:
        if not unfinished:
            raise UsageError(
                f"{store_root}: no unfinished run; start one with "
                f"`{typed('train data/cs.json', store_root)}`"
            )
        return unfinished[-1]
    for run in unfinished:
        if run.path.name == Path(name).name:
            return run
    names = _names(unfinished)
    raise UsageError(f"{name}: no unfinished run of that name; there are: {names}")


def _names(runs: Iterable[Run]) -> str:
    return ", ".join(run.path.name for run in runs) or "none"


def _resume_run(store: SessionStore, run: Run, observer: TrainingObserver) -> TrainingOutcome:
    """Finish a run, with the lock of trainings held."""
    observer.opened(run)
    with _ways_out(run):
        now = store.snapshot()
        plan = read_plan(store, now, run, observer.say)
        moved = now.head() != plan.head
    observer.say(f"going on with {run.path.name}")
    for note in now.notes:
        observer.say(note)
    if moved:
        observer.say(
            "HEAD has moved since: the session will be a branch, and HEAD stays where it is"
        )
    return run_training(plan, run, observer)


def run_training(plan: TrainingPlan, run: Run, observer: TrainingObserver) -> TrainingOutcome:
    """Take a run from wherever it stands to its end; one run commits one session.

    Raises:
        Interrupted: Somebody asked to stop; `resume` goes on.
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    with _ways_out(run):
        session, result = _committed(plan.store, run), None
        if session is None:
            try:
                session, result = _train_and_commit(plan, run, observer)
            except (IncompatibleError, InputError, UsageError) as error:
                # It would end the same way again. What is not of the numbers may be mended, such as
                # the base's files or a package's version, so a run that got anywhere stays.
                if isinstance(error, NotFiniteError) or run.newest_checkpoint() is None:
                    run.set(phase=FAILED)
                raise
        is_head = session.record["verdict"] == PROMOTE and put_in_use(
            plan, session, observer, why=f"train {plan.name}"
        )
    if not plan.settings.keep_data:
        run.discard(NEW_ROWS, HELD_OUT_ROWS)
    safe = f"{session.folder_name} is saved, only the run's record lacks its last line"
    run.set(phase=DONE, session=session.id, safe=safe)
    recall = tuple(map(SessionRecall.from_json, session.record["recall"]))
    return TrainingOutcome(session=session, recall=recall, is_head=is_head, gate=result)


@contextmanager
def _ways_out(run: Run) -> Iterator[None]:
    """Say in an error how to give the run up, for what failed may never be mended.

    A signal, a lock and a full disk pass, and their errors say how to go on.
    """
    try:
        yield
    except (DamagedStoreError, IncompatibleError, InputError, NetworkError, UsageError) as error:
        if not run.is_unfinished:
            raise
        raise type(error)(f"{error}; or give the run up with `{give_up(run.path)}`") from error


def _committed(store: SessionStore, run: Run) -> Session | None:
    """Return the session that an earlier attempt at this run committed before it ended."""
    for session in store.snapshot().sessions.values():
        if session.record.get("training", {}).get("run") == run.path.name:
            return session
    return None


def _train_and_commit(
    plan: TrainingPlan, run: Run, observer: TrainingObserver
) -> tuple[Session, GateResult]:
    trained = take_steps(plan, run, observer)
    free_memory()  # the trained model has gone with its frame, before its merged twin comes
    run.set(phase=SCORE)
    result = run_gate(plan, run, trained.adapter, observer)
    run.set(phase=COMMIT)
    files = result.adapter.files(num_layers=trained.num_layers)
    if plan.settings.keep_data:
        files[DATA_FILE] = read.dump(plan.new)
        if plan.held_out:
            files[HELD_OUT_ROWS] = read.dump(plan.held_out)
    record = _session_record(plan, run, trained, result)
    session = plan.store.commit(name=plan.name, parent=plan.parent, record=record, files=files)
    return session, result


def put_in_use(plan: Candidate, session: Session, observer: TrainingObserver, *, why: str) -> bool:
    """Put a session in use, once, unless somebody moved HEAD since it was planned.

    Args:
        plan: What the session was planned as.
        session: As committed.
        observer: Told where HEAD was moved.
        why: One line for HEAD.log.

    Returns:
        Whether HEAD is on it.
    """
    if session.id in {move.new for move in snapshot.head_moves(plan.store.root)}:
        return plan.store.snapshot().head() == session
    try:
        plan.store.move_head(session, expected=plan.head, why=why)
    except LockedError as error:
        observer.say(str(error))
        return False
    return True


def _session_record(
    plan: TrainingPlan, run: Run, trained: TrainingResult, result: GateResult
) -> dict[str, Any]:
    """Return what session.json says of a training, beside what the store writes itself."""
    folds_less = plan.stands_on != tuple(folding(plan.chain))
    # A resumed run takes the steps after its checkpoint again; the later line counts.
    metrics = list({line["number"]: line for line in run.metrics()}.values())
    return {
        "created": run.record["created"],
        "verdict": result.verdict,
        "gate": result.to_json(),
        "base": describe_base(plan.info),
        "note": (
            "This adapter holds its own session alone. Used without mlx-tune it needs the model "
            "it was trained on: `mlx-tune fuse --session PARENT --out FOLDER`."
            if plan.chain
            else "The first session: this adapter goes directly onto the base."
        ),
        "sizing": plan.settings.to_json(),
        "data": {
            "sources": list(plan.sources),
            "rows": len(plan.new),
            "sha256": run.record["data_sha256"],
            "exact": True,  # replaces the rows of its own topics alone
            "rehearsed": len(plan.old) if plan.mixture.sources[1].per_epoch else 0,
            "held_out": len(plan.held_out),
            # Enough to tell which questions come again.
            **(
                {} if plan.settings.keep_data else {"traces": [r.trace.to_json() for r in plan.new]}
            ),
        },
        **({"replaces": [session.id for session in plan.replaced]} if plan.replaced else {}),
        **({"without": [session.id for session in plan.without]} if plan.without else {}),
        **({"folds": [session.id for session in plan.stands_on]} if folds_less else {}),
        "training": {
            "run": run.path.name,
            "steps": len(metrics),
            "epochs": metrics[-1]["epoch"],
            "is_learned": trained.is_learned,
            "first_loss": metrics[0]["loss"],
            "last_loss": metrics[-1]["loss"],
            "tokens": sum(line["tokens"] for line in metrics),
            "seconds": round(sum(line["seconds"] for line in metrics), 1),
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in metrics),
        },
        **_validation(trained),
        "recall": [entry.to_json() for entry in result.recall],
        **({"fidelity": result.fidelity.to_json()} if result.fidelity else {}),
        "versions": runtime.versions(),
    }


def _validation(trained: TrainingResult) -> dict[str, Any]:
    if not trained.scores:
        return {}
    # Where training goes on until everything is learned, they choose nothing.
    best = best_score(trained.scores) if trained.is_learned is None else None
    kept = {"scores": list(map(vars, trained.scores)), "best_step": best.step if best else None}
    return {"validation": kept}
