"""Goes on with a run that was interrupted, from its newest checkpoint."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mlx_tune.continual.methods import method
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, UsageError
from mlx_tune.lineage.runs import Run, runs
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.sizing import Sizing
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows.carry_out import Outcome, carry_out
from mlx_tune.workflows.folded import locate_base
from mlx_tune.workflows.job import GUARDS, HELD_OUT_ROWS, NEW_ROWS, OLD_ROWS, Job, Watch


def resume(store_root: Path, name: str | None, watch: Watch) -> Outcome:
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
    store = Store.open(store_root)
    store.sessions()  # a newer version's are refused before anything else is said of the store
    run = find_run(store_root, name, watch)
    with store.training(f"resume {run.path.name}"):
        return go_on(store, Run.open(run.path), watch)  # as it is, now that nobody else writes it


def go_on(store: Store, run: Run, watch: Watch) -> Outcome:
    """Finish a run, with the lock of trainings held."""
    job = _read_job(store, run, watch.say)
    watch.say(f"going on with {run.path.name}")
    moved = store.head() != job.head
    for note in store.notes:
        watch.say(note)
    if moved:
        watch.say("HEAD has moved since: the session will be a branch, and HEAD stays where it is")
    return carry_out(job, watch)


def _read_job(store: Store, run: Run, say: Say) -> Job:
    parent = run.record["parent"]
    decided = Sizing.from_json(run.record["sizing"])  # another version's run is refused here
    chain = tuple(store.chain(store.find(parent))) if parent else ()
    info = _same_base(store, run, say)
    new = _rows(run, NEW_ROWS, "data_sha256")
    old = _rows(run, OLD_ROWS, "old_sha256")
    held_out = _rows(run, HELD_OUT_ROWS, "held_out_sha256")
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
        examples=(*tokenise.encode([*new, *old], tokenizer), *_guards(run)),
        validation=tuple(tokenise.encode(held_out, tokenizer)),
        run=run,
    )


def _same_base(store: Store, run: Run, say: Say) -> BaseInfo:
    """Find the base that the run began with."""
    kept = run.record["base"]
    info = locate_base(store, kept["name"], say)
    if info.fingerprint != kept["fingerprint"]:
        raise IncompatibleError(
            f"{run.path}: began on the base {kept['fingerprint'][:12]}, {kept['name']} is now "
            f"{info.fingerprint[:12]}; train again"
        )
    return info


def _sessions(store: Store, ids: Sequence[str]) -> tuple[Session, ...]:
    return tuple(session for ref in ids if (session := store.find(ref)))


def _guards(run: Run) -> list[Example]:
    """Read the general questions that come along."""
    data = run.read(GUARDS)
    _check_same(run, GUARDS, hashlib.sha256(data).hexdigest(), "guards_sha256")
    return [Example.from_json(json.loads(line)) for line in data.splitlines()]


def _rows(run: Run, name: str, key: str) -> list[Row]:
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


def find_run(store_root: Path, name: str | None, watch: Watch) -> Run:
    """Return the run a person means: by its folder's name, or the newest unfinished one."""
    notes: list[str] = []
    unfinished = [run for run in runs(store_root, notes=notes) if run.is_unfinished]
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
