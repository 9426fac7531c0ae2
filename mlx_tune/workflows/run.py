"""Runs a training from its plan to a committed session, or from its newest checkpoint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.early_stopping import ValidationScore, best_score
from mlx_tune.continual.methods import method
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError, LockedError, UsageError
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.sizing import Sizing
from mlx_tune.store import snapshot
from mlx_tune.store.runs import COMMIT, DONE, FAILED, SCORE, TRAIN, Run, list_runs
from mlx_tune.store.session import PROMOTE, Session
from mlx_tune.store.store import SessionStore
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows import fitting
from mlx_tune.workflows.gate_run import GateResult, run_gate
from mlx_tune.workflows.prepare import TrainingRequest, prepare
from mlx_tune.workflows.scoring import SessionRecall
from mlx_tune.workflows.steps import TrainingResult, take_steps
from mlx_tune.workflows.training_plan import (
    GENERAL_ROWS,
    HELD_OUT_ROWS,
    NEW_ROWS,
    OLD_ROWS,
    Job,
    TrainingObserver,
    TrainingPlan,
)
from mlx_tune.workflows.workspace import DATA_FILE, describe_base, folding, free_memory, locate_base


def session_record(job: Job, trained: TrainingResult, judged: GateResult) -> dict[str, Any]:
    """Return the record of a session."""
    # A resumed run takes the steps after its checkpoint again; the later line counts.
    metrics = list({line["number"]: line for line in job.run.metrics()}.values())
    return {
        "created": job.run.record["created"],
        "verdict": judged.verdict,
        "gate": judged.to_json(),
        "base": describe_base(job.info),
        "note": (
            "This adapter holds its own session alone. Used without mlx-tune it needs the model "
            "it was trained on: `mlx-tune fuse --session PARENT --out FOLDER`."
            if job.chain
            else "The first session: this adapter goes directly onto the base."
        ),
        "sizing": job.sizing.to_json(),
        "data": {
            "sources": job.run.record["sources"],
            "rows": len(job.new),
            "sha256": job.run.record["data_sha256"],
            "rehearsed": len(job.old) if job.mixture.kinds[1].places else 0,
            "held_out": len(job.held_out),
            **({} if job.keeps_data else {"traces": [row.trace.to_json() for row in job.new]}),
        },
        **({"replaces": [session.id for session in job.replaced]} if job.replaced else {}),
        **({"without": [session.id for session in job.without]} if job.without else {}),
        **({"folds": [session.id for session in job.stands_on]} if _folds_less(job) else {}),
        "training": {
            "run": job.run.path.name,
            "steps": len(metrics),
            "epochs": metrics[-1]["epoch"],
            "is_learned": trained.is_learned,
            "last_loss": metrics[-1]["loss"],
            "tokens": sum(line["tokens"] for line in metrics),
            "seconds": round(sum(line["seconds"] for line in metrics), 1),
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in metrics),
        },
        **_validation(trained.scores),
        "recall": [entry.to_json() for entry in judged.recall],
        **({"fidelity": judged.fidelity.to_json()} if judged.fidelity else {}),
        "versions": runtime.versions(),
    }


def _folds_less(job: Job) -> bool:
    return job.stands_on != tuple(folding(job.chain))


def _validation(scores: Sequence[ValidationScore]) -> dict[str, Any]:
    if not scores:
        return {}
    chosen = best_score(scores)
    return {
        "validation": {
            "scores": [vars(score) for score in scores],
            "best_step": chosen.step if chosen else None,
        }
    }


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
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
    judged: GateResult | None


def run_training(job: Job, watch: TrainingObserver) -> TrainingOutcome:
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
    return TrainingOutcome(session=session, recall=recall, is_head=is_head, judged=judged)


def _committed(job: Job) -> Session | None:
    """Return the session that an earlier attempt at this run committed before it ended."""
    for session in job.store.sessions():
        if session.record.get("training", {}).get("run") == job.run.path.name:
            return session
    return None


def _train_and_commit(job: Job, watch: TrainingObserver) -> tuple[Session, GateResult]:
    trained = take_steps(job, watch)
    free_memory()  # the trained model has gone with its frame, before its folded twin comes
    job.run.set(phase=SCORE)
    judged = run_gate(job, trained.adapter, watch)
    job.run.set(phase=COMMIT)
    files = judged.adapter.files(num_layers=trained.num_layers)
    if job.keeps_data:
        files[DATA_FILE] = read.dump(job.new)
        if job.held_out:
            files[HELD_OUT_ROWS] = read.dump(job.held_out)
    record = session_record(job, trained, judged)
    session = job.store.commit(name=job.name, parent=job.parent, record=record, files=files)
    return session, judged


def _move_head(job: Job, session: Session, watch: TrainingObserver) -> bool:
    """Put the session in use, once, unless somebody moved HEAD while it was training."""
    if session.id in {move.new for move in snapshot.head_moves(job.store.root)}:
        return job.store.head() == session
    try:
        job.store.move_head(session, expected=job.head, why=f"train {job.name}")
    except LockedError as error:
        watch.say(str(error))
        return False
    return True


def resume(store_root: Path, name: str | None, watch: TrainingObserver) -> TrainingOutcome:
    """Finish a run as if it had never stopped.

    Args:
        store_root: The store's folder.
        name: The run's folder name; None for the newest unfinished one.
        watch: Who follows.

    Raises:
        UsageError: There is no such run, or it is finished.
        LockedError: Another training is going on in this store.
        IncompatibleError: The base model is no longer the one the run began with.
        Interrupted: Somebody asked to stop once more.
    """
    store = SessionStore.open(store_root)
    store.sessions()  # a newer version's are refused before anything else is said of the store
    run = find_run(store_root, name, watch)
    with store.training(f"resume {run.path.name}"):
        return resume_run(
            store, Run.open(run.path), watch
        )  # as it is, now that nobody else writes it


def resume_run(store: SessionStore, run: Run, watch: TrainingObserver) -> TrainingOutcome:
    """Finish a run, with the lock of trainings held."""
    job = _read_job(store, run, watch.say)
    watch.say(f"going on with {run.path.name}")
    moved = store.head() != job.head
    for note in store.notes:
        watch.say(note)
    if moved:
        watch.say("HEAD has moved since: the session will be a branch, and HEAD stays where it is")
    return run_training(job, watch)


def _read_job(store: SessionStore, run: Run, say: Say) -> Job:
    parent = run.record["parent"]
    decided = Sizing.from_json(run.record["sizing"])  # another version's run is refused here
    chain = tuple(store.chain(store.find(parent))) if parent else ()
    info = _same_base(store, run, say)
    new = _read_run_rows(run, NEW_ROWS, "data_sha256")
    old = _read_run_rows(run, OLD_ROWS, "old_sha256")
    held_out = _read_run_rows(run, HELD_OUT_ROWS, "held_out_sha256")
    tokenizer = load_tokenizer(info.folder, info.template)
    return Job(
        name=run.record["name"],
        info=info,
        store=store,
        chain=chain,
        replaced=_sessions(store, run.record["replaces"]),
        without=_sessions(store, run.record["without"]),
        method=method(str(decided.method.value)),
        sizing=decided,
        mixture=Mixture.from_json(run.record["mixture"]),
        new=tuple(new),
        old=tuple(old),
        held_out=tuple(held_out),
        examples=(*tokenise.encode([*new, *old], tokenizer), *_read_general_rows(run)),
        validation=tuple(tokenise.encode(held_out, tokenizer)),
        run=run,
    )


def _same_base(store: SessionStore, run: Run, say: Say) -> BaseInfo:
    """Find the base that the run began with."""
    kept = run.record["base"]
    info = locate_base(store, kept["name"], say)
    if info.fingerprint != kept["fingerprint"]:
        raise IncompatibleError(
            f"{run.path}: began on the base {kept['fingerprint'][:12]}, {kept['name']} is now "
            f"{info.fingerprint[:12]}; train again"
        )
    return info


def _sessions(store: SessionStore, ids: Sequence[str]) -> tuple[Session, ...]:
    return tuple(session for ref in ids if (session := store.find(ref)))


def _read_general_rows(run: Run) -> list[Example]:
    """Read the general questions that come along."""
    data = run.read(GENERAL_ROWS)
    _check_same(run, GENERAL_ROWS, hashlib.sha256(data).hexdigest(), "guards_sha256")
    return [Example.from_json(json.loads(line)) for line in data.splitlines()]


def _read_run_rows(run: Run, name: str, key: str) -> list[Row]:
    """Read rows that a run keeps, and refuse others than those it began with."""
    rows = read.load(run.read(name), str(run.path / name))
    _check_same(run, name, read.fingerprint(rows), key)
    return rows


def _check_same(run: Run, name: str, found: str, key: str) -> None:
    began = str(run.record.get(key))
    if found != began:
        raise IncompatibleError(
            f"{run.path / name}: sha256 {found[:12]}…, the run began with {began[:12]}…; "
            "put the rows back, or train again"
        )


def find_run(store_root: Path, name: str | None, watch: TrainingObserver) -> Run:
    """Return the run a person means: by its folder's name, or the newest unfinished one."""
    notes: list[str] = []
    unfinished = [run for run in list_runs(store_root, notes=notes) if run.is_unfinished]
    for note in notes:
        watch.say(note)
    if name is None:
        if not unfinished:
            raise UsageError(f"{store_root}: no unfinished run; start one with `mlx-tune train`")
        return unfinished[-1]
    for run in unfinished:
        if run.path.name == Path(name).name:
            return run
    names = ", ".join(run.path.name for run in unfinished) or "none"
    raise UsageError(f"{name}: no unfinished run of that name; there are: {names}")


def train(request: TrainingRequest, watch: TrainingObserver) -> TrainingOutcome:
    """Train one session from the data to the store.

    Raises:
        LockedError: Another training is going on in this store.
        Interrupted: Somebody asked to stop; `resume` goes on.
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    plan = prepare(request, say=watch.say)
    with plan.store.training(f"train {plan.name}"):
        _check_head(plan)
        twin = _unfinished_twin(plan)
        if twin is not None and watch.offered(twin, _other_settings(twin, plan)):
            return resume_run(plan.store, twin, watch)
        watch.planned(plan)
        fitting.check_disk(plan.disk, plan.store.root)
        return run_training(_begin(plan), watch)


def _check_head(plan: TrainingPlan) -> None:
    """Refuse a plan that stands on a HEAD of before: another training may just have ended."""
    if plan.store.head() != plan.head:
        raise LockedError(
            f"{plan.store.root}: HEAD moved while this training was planned; run it again"
        )


def _unfinished_twin(plan: TrainingPlan) -> Run | None:
    """Return the newest unfinished run of the same data in the same place."""
    of_newest = reversed(list_runs(plan.store.root))
    return next((r for r in of_newest if r.is_unfinished and _same_place(r, plan)), None)


def _other_settings(run: Run, plan: TrainingPlan) -> dict[str, Any]:
    """Return the values of a run's settings that a plan has otherwise."""
    began = Sizing.from_json(run.record["sizing"])
    return {
        name: chosen.value
        for name, chosen in began.items()
        if chosen.value != getattr(plan.sizing, name).value
    }


def _same_place(run: Run, plan: TrainingPlan) -> bool:
    """Tell whether a run is of the same data in the same place, and of this version's settings."""
    kept = run.record
    wanted = {
        "data_sha256": read.fingerprint(plan.taught),
        "parent": plan.parent.id if plan.parent else None,
        "replaces": [session.id for session in plan.replaced],
        "without": [session.id for session in plan.without],
    }
    try:
        Sizing.from_json(kept["sizing"])
        same_base = kept["base"]["fingerprint"] == plan.info.fingerprint
    except (IncompatibleError, KeyError, TypeError):
        return False
    return same_base and all(kept.get(name) == value for name, value in wanted.items())


def _begin(plan: TrainingPlan) -> Job:
    """Write down all that a run needs, so that it can be gone on with from its folder alone."""
    rows = {
        NEW_ROWS: plan.taught,
        OLD_ROWS: plan.rehearsal.old,
        HELD_OUT_ROWS: plan.held_out,
    }
    guards = plan.examples[len(plan.taught) + len(plan.rehearsal.old) :]
    lines = "".join(canonical_json(guard.to_json()) + "\n" for guard in guards).encode()
    run = Run.create(
        plan.store.root,
        name=plan.name,
        record={
            "phase": TRAIN,
            "base": describe_base(plan.info),
            "parent": plan.parent.id if plan.parent else None,
            "replaces": [session.id for session in plan.replaced],
            "without": [session.id for session in plan.without],
            "mixture": plan.mixture.to_json(),
            "sizing": plan.sizing.to_json(),
            "sources": list(plan.sources),
            "data_sha256": read.fingerprint(plan.taught),
            "old_sha256": read.fingerprint(plan.rehearsal.old),
            "held_out_sha256": read.fingerprint(plan.held_out),
            "guards_sha256": hashlib.sha256(lines).hexdigest(),
        },
        files={**{name: read.dump(kept) for name, kept in rows.items()}, GENERAL_ROWS: lines},
    )
    return Job(
        name=plan.name,
        info=plan.info,
        store=plan.store,
        chain=plan.chain,
        replaced=plan.replaced,
        without=plan.without,
        method=plan.method,
        sizing=plan.sizing,
        mixture=plan.mixture,
        new=plan.taught,
        old=plan.rehearsal.old,
        held_out=plan.held_out,
        examples=plan.examples,
        validation=plan.validation,
        run=run,
    )
