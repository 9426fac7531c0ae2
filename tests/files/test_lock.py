"""Locks: two writers take turns, a dead holder holds nothing, and nothing rests on it."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.stores import commit, fail_with, message, names, sessions_of, train, unlock
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, LockedError
from mlx_tune.files import lock
from mlx_tune.files.lock import hold
from mlx_tune.store import store as store_module
from mlx_tune.store.store import SessionStore

HOLDER = """
import sys
from pathlib import Path
from mlx_tune.files.lock import hold
with hold(Path(sys.argv[1]), what=sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other_process(path: Path, what: str = "train cs") -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock until its input ends."""
    words = [sys.executable, "-c", HOLDER, str(path), what]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.stdin.close()
            process.wait()


def attempt(path: Path) -> str:
    """Return what a second holder is told."""

    def take() -> None:
        with hold(path, what="gc"):
            raise AssertionError("both hold it")

    return message(LockedError, take)


def is_free(path: Path) -> bool:
    with hold(path, what="a look"):
        return True


def test_a_lock_held_elsewhere_is_refused_with_who_holds_it_since_when_and_for_what(tmp_path):
    with other_process(tmp_path / "lock") as holder:
        line = attempt(tmp_path / "lock")
    assert re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", line) == (
        f"{tmp_path / 'lock'}: held for train cs by process {holder.pid} on "
        f"{socket.gethostname()} since TIME; nothing was changed, try again when it has ended"
    )


def test_a_refused_attempt_does_not_wipe_out_the_holders_name(tmp_path):
    with other_process(tmp_path / "lock"):
        assert attempt(tmp_path / "lock") == attempt(tmp_path / "lock")


def test_a_lock_ends_with_its_holder_however_that_ends(tmp_path):
    with other_process(tmp_path / "lock") as holder:
        attempt(tmp_path / "lock")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert is_free(tmp_path / "lock")


def test_the_name_a_killed_holder_left_behind_is_replaced_by_the_next(tmp_path):
    with other_process(tmp_path / "lock", "train a very long name indeed") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert json.loads((tmp_path / "lock").read_bytes())["pid"] == holder.pid
    with hold(tmp_path / "lock", what="gc"):
        signed = json.loads((tmp_path / "lock").read_bytes())
    assert (signed["pid"], signed["what"]) == (os.getpid(), "gc")


def test_a_lock_given_back_names_nobody_and_its_file_stays_the_same(tmp_path):
    with hold(tmp_path / "lock", what="gc"):
        number = (tmp_path / "lock").stat().st_ino
    assert (tmp_path / "lock").read_bytes() == b""
    with hold(tmp_path / "lock", what="gc"):
        assert (tmp_path / "lock").stat().st_ino == number
    assert names(tmp_path) == ["lock"]


def test_a_lock_is_given_back_when_its_block_fails(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "lock", what="gc"):
        raise KeyError
    assert is_free(tmp_path / "lock")


def test_one_who_waits_gets_the_lock_when_the_holder_leaves(tmp_path, monkeypatch):
    with other_process(tmp_path / "lock") as holder:
        pauses = []

        def pause(_seconds: float) -> None:
            pauses.append(1)
            if len(pauses) == 3:
                holder.stdin.close()
                holder.wait()

        monkeypatch.setattr(lock.time, "sleep", pause)
        with hold(tmp_path / "lock", what="gc", wait_seconds=1e9):
            assert len(pauses) == 3


def test_one_who_waits_gives_up_when_the_time_is_over(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lock.time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))

    def wait() -> None:
        with hold(tmp_path / "lock", what="gc", wait_seconds=20):
            raise AssertionError("both hold it")

    with other_process(tmp_path / "lock"):
        assert "held for train cs" in message(LockedError, wait)
    assert clock == [20.0]


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP], ids=errno.errorcode.get
)
def test_a_file_system_without_locks_is_gone_on_with(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", fail_with(code))
    with hold(tmp_path / "lock", what="a"), hold(tmp_path / "lock", what="b"):
        assert json.loads((tmp_path / "lock").read_bytes())["what"] == "b"


def test_a_disk_that_fails_at_locking_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
    assert message(DiskError, lambda: is_free(tmp_path / "lock")) == (
        f"cannot lock {tmp_path / 'lock'}: input/output error; HEAD, sessions and the last "
        "checkpoint are as they were; check the disk, then run the command again"
    )


def test_a_full_disk_does_not_stop_the_one_who_would_make_room(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()
    monkeypatch.setattr(os, "pwrite", fail_with(errno.ENOSPC))
    assert is_free(tmp_path / "lock")


@pytest.mark.parametrize(
    "left",
    [b"", b"\xff", b"[]", b'"x"', b"7", b"{}", b'{"pid": 1}', b"[" * 4096, b'{"pid":' * 600],
)
def test_a_holder_who_did_not_sign_is_another_process(tmp_path, left):
    with other_process(tmp_path / "lock"):
        (tmp_path / "lock").write_bytes(left)
        assert attempt(tmp_path / "lock") == (
            f"{tmp_path / 'lock'}: held by another process; nothing was changed, try again when it "
            "has ended"
        )


def test_what_a_lock_is_held_for_cannot_break_the_line_or_steer_a_terminal(tmp_path):
    with other_process(tmp_path / "lock", "a\nb\x1b[2J"):
        line = attempt(tmp_path / "lock")
    assert "held for a b·[2J by process" in line
    assert line.isprintable()


def put_a_link(path: Path) -> None:
    (path.parent / "victim").write_bytes(b"precious")
    path.symlink_to("victim")


def put_a_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("put", [Path.mkdir, put_a_link, put_a_fifo])
def test_what_is_no_file_in_place_of_a_lock_is_refused(tmp_path, put):
    put(tmp_path / "lock")
    assert message(DamagedStoreError, lambda: is_free(tmp_path / "lock")) == (
        f"{tmp_path / 'lock'}: a link, FIFO, device or folder where the lock's file belongs; "
        "delete it"
    )
    assert not (tmp_path / "victim").exists() or (tmp_path / "victim").read_bytes() == b"precious"


# A store's locks


def test_blocks_of_one_store_may_be_nested(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    with store.locked("outer"):
        with store.locked("inner"):
            session = commit(store, "cs")
        assert "held for outer" in attempt(store.root / "lock")  # the inner did not give it back
        store.move_head(session, expected=None, why="test")
    assert is_free(store.root / "lock")
    assert store.snapshot().head() == session


def test_a_block_that_failed_leaves_the_store_unlocked(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    with pytest.raises(KeyError), store.locked("outer"):
        raise KeyError
    assert is_free(store.root / "lock")
    with store.locked("again"):
        assert "held for again" in attempt(store.root / "lock")


def test_every_write_waits_for_the_lock_and_is_refused_without_change(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.0)
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    with other_process(store.root / "lock"):
        for call in (
            lambda: commit(store, "dining", first),
            lambda: store.move_head(None, expected=first, why="rollback"),
            lambda: store.leave_damaged_head(None, why="rollback"),
        ):
            assert "held for train cs" in message(LockedError, call)
    assert sessions_of(store) == [first]
    assert store.snapshot().head() == first


def test_a_write_waits_for_anothers(tmp_path, monkeypatch):
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    with other_process(store.root / "lock") as holder:

        def pause(_seconds: float) -> None:
            holder.stdin.close()
            holder.wait()

        monkeypatch.setattr(lock.time, "sleep", pause)
        second = commit(store, "dining", first)
    assert store.snapshot().chain(second) == [first, second]


def test_a_training_does_not_keep_others_from_writing(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    with store.training("train cs"):
        train(store, "dining")
        assert "held for train cs" in attempt(store.root / "training.lock")


def test_two_trainings_at_once_are_refused_at_once(tmp_path):
    first, second = SessionStore.open(tmp_path / "s"), SessionStore.open(tmp_path / "s")

    def also() -> None:
        with second.training("train dining"):
            raise AssertionError("both train")

    with first.training("train cs"):
        assert f"held for train cs by process {os.getpid()}" in message(LockedError, also)


def test_a_store_that_was_upgraded_while_somebody_waited_is_not_written(tmp_path, monkeypatch):
    store = SessionStore.open(tmp_path / "s")
    train(store, "cs")
    (store.root / "format.json").write_text('{"version": 2, "requires": []}')

    def write() -> None:
        with store.locked("tag"):
            raise AssertionError("a newer store is written")

    assert message(IncompatibleError, write) == (
        f"{store.root / 'format.json'}: the store has version 2, this mlx-tune reads up to 1; "
        "upgrade mlx-tune"
    )
    assert is_free(store.root / "lock")


def test_without_locks_two_writers_fork_and_lose_nothing(tmp_path, monkeypatch):
    unlock(monkeypatch)
    ours, theirs = SessionStore.open(tmp_path / "s"), SessionStore.open(tmp_path / "s")
    start = train(ours, "start")
    with ours.locked("train mine"):
        other = train(theirs, "other")
        mine = commit(ours, "mine", start)
        moved = lambda: ours.move_head(mine, expected=start, why="mine")  # noqa: E731 one call, named for the next line
        assert f"{mine.folder_name} is committed and safe" in message(LockedError, moved)
    assert sessions_of(ours) == [start, *sorted([mine, other], key=lambda s: s.id)]
    assert ours.snapshot().head() == other
