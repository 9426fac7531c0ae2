"""What is done to a store while something fails, and broken twins that the proof must catch.

A new operation is one line in ``OPERATIONS``: its name, what prepares the store, what is done.
"""

import itertools
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from mlx_tune.errors import DamagedStoreError, DiskError
from mlx_tune.lineage.atomic import disk_errors
from mlx_tune.lineage.runs import Run, runs
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store

RECORD = {"verdict": "promote", "base": {"name": "small", "fingerprint": "f" * 64}}


@dataclass(frozen=True)
class Operation:
    """One change of a store.

    Attributes:
        prepare: Makes the store as it is before; the folder given does not exist yet.
        act: Makes the change, and returns the word that announces it: the same whenever the same
            change is made to the same store, or made again.
    """

    prepare: Callable[[Path], object]
    act: Callable[[Path], str]


def nothing(root: Path) -> None:
    """No store at all."""


def two_sessions(root: Path) -> None:
    """HEAD on the first session; the second, a child of it, was held back."""
    store = Store.open(root)
    first = _commit(store, "one", None)
    store.move_head(first, expected=None, why="train one")
    _commit(store, "two", first)


def a_run(root: Path) -> None:
    """Saved three times, so that the next save has a checkpoint to discard."""
    two_sessions(root)
    run = Run.create(root, name="three", record={"phase": "train"}, files={"rows.jsonl": b"{}\n"})
    for step in (1, 2, 3):
        run.log(step=step, loss=1.0 / step)
        run.save_checkpoint(step, _state(step))


def a_run_with_a_damaged_checkpoint(root: Path) -> None:
    a_run(root)
    checkpoint = runs(root)[0].newest_checkpoint()
    assert checkpoint is not None
    (checkpoint.path / "state.safetensors").write_bytes(b"torn")


def a_session_ready(root: Path) -> None:
    """The session that ``commit`` makes lies beside the sessions, for twins that put it there."""
    two_sessions(root)
    (root / "ready").mkdir()
    path = root / "sessions" / commit(root)
    path.rename(root / "ready" / path.name)


def commit(root: Path) -> str:
    store = Store.open(root)
    return _commit(store, "three", store.head()).folder_name


def move_head(root: Path) -> str:
    store = Store.open(root)
    to = store.find("two")
    store.move_head(to, expected=store.head(), why="promote")
    return to.id if to else "base"


def roll_back(root: Path) -> str:
    store = Store.open(root)
    store.move_head(None, expected=store.head(), why="rollback")
    return "base"


def save_the_third_step(root: Path) -> str:
    return _save(root, 3)


def save_the_fourth_step(root: Path) -> str:
    return _save(root, 4)


def start_a_run(root: Path) -> str:
    files = {"rows.jsonl": b"{}\n"}
    run = Run.create(root, name="four", record={"phase": "train"}, files=files)
    return str(run.record["name"])


def enter_a_phase(root: Path) -> str:
    run = runs(root)[0]
    run.set(phase="score")
    return str(run.record["phase"])


OPERATIONS = {
    "first commit": Operation(nothing, commit),
    "commit": Operation(two_sessions, commit),
    "HEAD move": Operation(two_sessions, move_head),
    "HEAD to the base": Operation(two_sessions, roll_back),
    "checkpoint": Operation(a_run, save_the_fourth_step),
    "checkpoint over a damaged one": Operation(
        a_run_with_a_damaged_checkpoint, save_the_third_step
    ),
    "checkpoint of the same step": Operation(a_run, save_the_third_step),
    "start of a run": Operation(a_run, start_a_run),
    "record of a run": Operation(a_run, enter_a_phase),
}


# Broken twins: what a kill, an error or a power cut must bring to light.


def commit_in_place(root: Path) -> str:
    ready = next((root / "ready").iterdir())
    target = root / "sessions" / ready.name
    target.mkdir(exist_ok=True)
    for file in sorted(ready.iterdir()):
        (target / file.name).write_bytes(file.read_bytes())
    return target.name


def commit_that_swallows_errors(root: Path) -> str:
    with suppress(DiskError):
        commit(root)
    return next((root / "ready").iterdir()).name


def commit_that_blames_the_store(root: Path) -> str:
    try:
        return commit(root)
    except DiskError as error:
        raise DamagedStoreError(str(error)) from error


def commit_that_denies_it(root: Path) -> str:
    name = commit(root)
    with disk_errors("read", root, safe="nothing was changed"):
        (root / "format.json").read_bytes()
    return name


def head_in_place(root: Path) -> str:
    to = Store.open(root).find("two")
    assert to is not None
    with (root / "HEAD").open("w") as file:
        file.write(to.id)
    return to.id


def head_logged_before_it_moves(root: Path) -> str:
    to, head = Store.open(root).find("two"), (root / "HEAD").read_text().strip()
    assert to is not None
    with (root / "HEAD.log").open("a") as file:
        file.write(f"2026-01-01T00:00:00Z {head} {to.id} promote\n")
    (root / "HEAD.new").write_text(to.id)
    (root / "HEAD.new").replace(root / "HEAD")
    return to.id


def checkpoint_in_place(root: Path) -> str:
    newest = runs(root)[0].newest_checkpoint()
    assert newest is not None
    for name in newest.hashes:
        (newest.path / name).write_bytes(newest.read(name))
    return newest.id


def without_flushing(skip: Callable[[int], bool], act: Callable[[Path], str]) -> Callable:
    """Return an operation that leaves out the flushes of some descriptors."""
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if not skip(descriptor):
            real_fsync(descriptor)

    def unflushed(root: Path) -> str:
        with patch.object(os, "fsync", fsync):
            return act(root)

    return unflushed


def without_flushing_file(number: int, act: Callable[[Path], str]) -> Callable:
    """Return an operation that leaves out the flush of one file, counted from 0."""

    def unflushed(root: Path) -> str:
        count = itertools.count()
        skip = lambda descriptor: is_file(descriptor) and next(count) == number  # noqa: E731 closes over the count of one call
        return without_flushing(skip, act)(root)

    return unflushed


def flushed_files(operation: str, root: Path) -> list[str]:
    """Return the files that an operation flushes, by name, in order."""
    names = []

    def note(descriptor: int) -> bool:
        if is_file(descriptor):
            names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        return False

    without_flushing(note, OPERATIONS[operation].act)(root)
    return names


def is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def is_folder(descriptor: int) -> bool:
    return not is_file(descriptor)


def is_folder_or_log(descriptor: int) -> bool:
    name = Path(f"/proc/self/fd/{descriptor}").readlink().name
    return is_folder(descriptor) or name == "HEAD.log"


BROKEN = {
    "commit in place": Operation(a_session_ready, commit_in_place),
    "commit that swallows errors": Operation(a_session_ready, commit_that_swallows_errors),
    "commit that blames the store": Operation(two_sessions, commit_that_blames_the_store),
    "commit that denies it": Operation(two_sessions, commit_that_denies_it),
    "HEAD in place": Operation(two_sessions, head_in_place),
    "HEAD logged before it moves": Operation(two_sessions, head_logged_before_it_moves),
    "checkpoint in place": Operation(a_run, checkpoint_in_place),
}
UNFLUSHED_FOLDERS = {
    f"{name}, folders not flushed": Operation(whole.prepare, without_flushing(is_folder, whole.act))
    for name, whole in OPERATIONS.items()
}
UNFLUSHED_LOG = {
    f"{name}, neither folders nor HEAD.log flushed": Operation(
        OPERATIONS[name].prepare, without_flushing(is_folder_or_log, OPERATIONS[name].act)
    )
    for name in ("HEAD move", "HEAD to the base")
}
MOST_FILES = 12
UNFLUSHED_FILES = {
    f"{name}, file {number} not flushed": Operation(
        whole.prepare, without_flushing_file(number, whole.act)
    )
    for name, whole in OPERATIONS.items()
    for number in range(MOST_FILES)
}

ALL = {**OPERATIONS, **BROKEN, **UNFLUSHED_FOLDERS, **UNFLUSHED_LOG, **UNFLUSHED_FILES}


def _commit(store: Store, name: str, parent: Session | None) -> Session:
    files = {"adapters.safetensors": name.encode() * 3000, "data.jsonl": b"{}\n"}
    return store.commit(name=name, parent=parent, record=RECORD, files=files)


def _save(root: Path, step: int) -> str:
    run = runs(root)[0]
    run.log(step=step, loss=1.0 / step)
    return run.save_checkpoint(step, _state(step)).id


def _state(seed: int) -> dict[str, bytes]:
    return {"state.safetensors": bytes([seed]) * 9000, "step.json": b"{}\n"}
