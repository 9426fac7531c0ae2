"""Broken twins of the operations: what a kill, an error or a power cut must bring to light."""

import itertools
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from helpers.faults.operations import OPERATIONS, Operation, a_run, commit, two_sessions
from mlx_tune.errors import DamagedStoreError, DiskError
from mlx_tune.files.durable import disk_errors
from mlx_tune.store.runs import list_runs
from mlx_tune.store.store import SessionStore


def a_session_ready(root: Path) -> None:
    """The session that ``commit`` makes lies beside the sessions, for twins that put it there."""
    two_sessions(root)
    (root / "ready").mkdir()
    path = root / "sessions" / commit(root)
    path.rename(root / "ready" / path.name)


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
    to = SessionStore.open(root).snapshot().find("two")
    assert to is not None
    with (root / "HEAD").open("w") as file:
        file.write(to.id)
    return to.id


def head_logged_before_it_moves(root: Path) -> str:
    to, head = SessionStore.open(root).snapshot().find("two"), (root / "HEAD").read_text().strip()
    assert to is not None
    with (root / "HEAD.log").open("a") as file:
        file.write(f"2026-01-01T00:00:00Z {head} {to.id} promote\n")
    (root / "HEAD.new").write_text(to.id)
    (root / "HEAD.new").replace(root / "HEAD")
    return to.id


def checkpoint_in_place(root: Path) -> str:
    newest = list_runs(root)[0].newest_checkpoint()
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
MOST_FILES = 12  # an operation flushes at most so many
UNFLUSHED_FILES = {
    f"{name}, file {number} not flushed": Operation(
        whole.prepare, without_flushing_file(number, whole.act)
    )
    for name, whole in OPERATIONS.items()
    for number in range(MOST_FILES)
}

ALL = {**OPERATIONS, **BROKEN, **UNFLUSHED_FOLDERS, **UNFLUSHED_LOG, **UNFLUSHED_FILES}
