"""Goes on with a run that was interrupted, from its newest checkpoint."""

from pathlib import Path

from mlx_tune.data import read, tokenise
from mlx_tune.errors import IncompatibleError, UsageError
from mlx_tune.lineage.runs import Run, runs
from mlx_tune.lineage.store import Store
from mlx_tune.models.load import load_tokenizer
from mlx_tune.sizing import Sizing
from mlx_tune.workflows.folded import locate_base
from mlx_tune.workflows.train import (
    DONE,
    FAILED,
    NEW_ROWS,
    OLD_ROWS,
    Job,
    Outcome,
    Watch,
    carry_out,
)


def resume(store_root: Path, name: str | None, watch: Watch) -> Outcome:
    """Finish a run as if it had never stopped.

    Args:
        store_root: The store's folder.
        name: The run's folder name; None for the newest unfinished one.
        watch: Who follows.

    Raises:
        UsageError: There is no such run, or it is finished.
        IncompatibleError: The base model is no longer the one the run began with.
    """
    run = find_run(store_root, name, watch)
    store = Store.open(store_root)
    parent = run.record["parent"]
    chain = tuple(store.chain(store.find(parent))) if parent else ()
    kept = run.record["base"]
    info = locate_base(store, kept["name"], watch.say)
    if info.fingerprint != kept["fingerprint"]:
        raise IncompatibleError(
            f"{run.path}: began on the base {kept['fingerprint'][:12]}, {kept['name']} is now "
            f"{info.fingerprint[:12]}; train again"
        )
    new = read.load(run.read(NEW_ROWS), str(run.path / NEW_ROWS))
    old = read.load(run.read(OLD_ROWS), str(run.path / OLD_ROWS))
    _check_rows(run, read.fingerprint(new), "data_sha256", NEW_ROWS)
    _check_rows(run, read.fingerprint(old), "old_sha256", OLD_ROWS)
    tokenizer = load_tokenizer(info.folder, info.template)
    job = Job(
        name=run.record["name"],
        info=info,
        store=store,
        chain=chain,
        sizing=Sizing.from_json(run.record["sizing"]),
        new=tuple(new),
        examples=tuple(tokenise.encode([*new, *old], tokenizer)),
        run=run,
    )
    watch.say(f"going on with {run.path.name}")
    if store.head() != job.parent:
        watch.say("HEAD has moved since: the session will be a branch, and HEAD stays where it is")
    return carry_out(job, watch)


def _check_rows(run: Run, found: str, key: str, name: str) -> None:
    """Refuse rows that are not those the run began with."""
    began = str(run.record.get(key))
    if found != began:
        raise IncompatibleError(
            f"{run.path / name}: sha256 {found[:12]}…, the run began with {began[:12]}…; "
            "put the rows back, or train again"
        )


def find_run(store_root: Path, name: str | None, watch: Watch) -> Run:
    """Return the run a person means: by its folder's name, or the newest unfinished one."""
    notes: list[str] = []
    ended = (DONE, FAILED)
    unfinished = [r for r in runs(store_root, notes=notes) if r.record.get("phase") not in ended]
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
