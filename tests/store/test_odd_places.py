"""Odd places: paths of any bytes, links where folders belong, and what may not be touched."""

import errno
import os
import shutil
from datetime import date, timedelta
from pathlib import Path
from shlex import quote

import pytest

from helpers.stores import (
    REFUSED,
    commit,
    flip,
    message,
    names,
    sessions_of,
    start_run,
    state,
    train,
)
from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.store import snapshot
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.runs import list_runs
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

DAY = date(2026, 11, 23)


def live_a_whole_life(store: SessionStore) -> None:
    """Train, hold back, tag, remove, collect, roll back, lose HEAD: in short, everything."""
    first, second = train(store, "cs"), train(store, "dining")
    held = commit(store, "held", first, **REFUSED)
    run = start_run(store, second)
    run.log(step=1)
    run.save_checkpoint(1, {"a": b"1"})
    run.set(phase="done")
    tag(store, "good", first)
    mark_removed(store, held)
    found = collect_garbage(store, today=DAY)
    assert found.moved == (held.folder_name,)
    assert collect_garbage(store, today=DAY + timedelta(30)).deleted == (
        f"trash/2026-11-23-{held.folder_name}",
    )
    store.move_head(first, expected=second, why="rollback")
    (store.root / "HEAD").unlink()
    assert store.snapshot().head() == first == store.snapshot().find("good")
    found = verify(store.snapshot())
    assert (found.problems, found.sessions) == ([], 2)
    assert [move.why for move in snapshot.head_moves(store.root)] == [
        "train cs",
        "train dining",
        "rollback",
    ]
    assert (store.root / "latest").resolve() == first.path.resolve()


@pytest.mark.parametrize(
    "name",
    [b"a b", b"-rf", b"~", b"$HOME", b"*", "ünï".encode(), b"a\nb\x1b[2J", b"\xff\xfe", b"x" * 255],
)
def test_a_store_may_lie_under_any_name(tmp_path, name):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this disk takes no such names")
    live_a_whole_life(SessionStore.open(root))


def test_a_store_may_be_named_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    live_a_whole_life(SessionStore.open(Path("s")))
    assert names(tmp_path) == ["s"]


def test_a_store_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "s").symlink_to("real")
    live_a_whole_life(SessionStore.open(tmp_path / "s"))


def test_a_store_that_is_a_link_to_nowhere_is_said_so(tmp_path):
    (tmp_path / "s").symlink_to("nowhere")
    store = SessionStore.open(tmp_path / "s")
    assert store.snapshot().sessions == {}
    assert message(UsageError, lambda: commit(store, "cs")) == (
        f"{tmp_path / 's'} is not a folder; move it away or name another store"
    )


@pytest.mark.parametrize("name", ["sessions", "tags", "removed", "trash", ".tmp", "runs"])
def test_a_folder_of_the_store_may_be_a_link_to_elsewhere_on_the_same_disk(tmp_path, name):
    store = SessionStore.open(tmp_path / "s")
    store.root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").mkdir()
    (store.root / name).symlink_to(tmp_path / "elsewhere")
    if name in ("sessions", "runs"):  # a stranger there may be what is left of something taught
        (tmp_path / "elsewhere" / "mine").rmdir()
    live_a_whole_life(store)
    assert name in ("sessions", "runs") or (tmp_path / "elsewhere" / "mine").is_dir()


@pytest.mark.parametrize("name", ["sessions", "tags", "removed", "trash", ".tmp", "runs"])
@pytest.mark.parametrize("put", [Path.touch, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_is_no_folder_where_one_belongs_is_named_and_costs_nothing(tmp_path, name, put):
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    held = commit(store, "held", first, **REFUSED)
    if (store.root / name).exists():
        (store.root / name).rename(tmp_path / "aside")
    put(store.root / name)
    calls = {
        "sessions": lambda: commit(store, "dining"),
        "tags": lambda: tag(store, "good", first),
        "removed": lambda: mark_removed(store, held),
        "trash": lambda: (mark_removed(store, held), collect_garbage(store, today=DAY)),
        ".tmp": lambda: commit(store, "dining", first),
        "runs": lambda: start_run(store, None),
    }
    assert message(UsageError, calls[name]) == (
        f"{store.root / name} is not a folder; move it away or name another store"
    )
    (store.root / name).unlink()
    if (tmp_path / "aside").exists():
        (tmp_path / "aside").rename(store.root / name)
    assert verify(store.snapshot()).problems == []
    assert store.snapshot().head() == first
    assert {session.id for session in store.snapshot().sessions.values()} == {first.id, held.id}


def test_names_that_are_no_text_are_passed_over_or_named(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    odd = os.fsdecode(b"\xff\xfe")
    for name in ("tags", "removed", "trash", "runs", "sessions"):
        (store.root / name).mkdir(exist_ok=True)
        try:
            (store.root / name / odd).mkdir()
        except OSError:
            pytest.skip("this disk takes no such names")
    found = verify(store.snapshot())
    assert found.problems == [
        f"{store.root / 'sessions' / odd / 'MANIFEST.sha256'}: missing; run `mlx-tune doctor`",
        f"run skipped: {store.root / 'runs' / odd / 'run.json'}: missing; run `mlx-tune doctor`; "
        "put it back, or give the run up with "
        f"`mlx-tune resume --discard {quote(odd)} --store {store.root}`",
    ]
    assert [
        str(store.root / name / odd) in note
        for name, note in zip(("tags", "removed"), found.notes, strict=True)
    ] == [True] * 2
    for line in (*found.problems, *found.notes):
        line.encode("utf-8", "replace")  # as the command line prints it
    assert (
        sessions_of(store),
        store.snapshot().tags,
        store.snapshot().removed,
        list_runs(store.root),
    ) == (
        [first],
        {},
        set(),
        [],
    )
    for name in ("sessions", "runs"):
        (store.root / name / odd).rmdir()
    collect_garbage(store, today=DAY + timedelta(10**4))
    assert names(store.root / "trash") == [odd]


def test_a_full_stop_of_permissions_is_one_line_and_changes_nothing(tmp_path, monkeypatch):
    """Root may do everything, so the system's refusals are played."""
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    held = commit(store, "held", first, **REFUSED)
    before = state(store.root)
    refused = {
        "open": lambda: store.move_head(None, expected=first, why="rollback"),
        "mkdir": lambda: commit(store, "dining", first),
        "replace": lambda: store.move_head(None, expected=first, why="rollback"),
    }
    for call, action in refused.items():
        real = getattr(os, call)

        def denied(path, *args, call=call, real=real, **kwargs):
            writes = call != "open" or args[0] & os.O_CREAT
            if writes and not str(path).endswith("lock"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, denied)
            line = message(DiskError, action)
        assert "permission denied; " in line
        assert line.endswith("name another store, then run the command again")
        assert state(store.root) == before
    assert held in store.snapshot().sessions.values()


def test_a_lock_that_may_not_be_written_is_one_line(tmp_path, monkeypatch):
    store = SessionStore.open(tmp_path / "s")
    train(store, "cs")
    real = os.open

    def denied(path, *args, **kwargs):
        if str(path).endswith("lock"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    assert message(DiskError, lambda: commit(store, "dining")) == (
        f"cannot lock {store.root / 'lock'}: permission denied; HEAD, sessions and the last "
        "checkpoint are as they were; give yourself the permission or name another store, then run "
        "the command again"
    )
    assert len(store.snapshot().sessions) == 1


def test_a_session_copied_from_another_store_by_hand_is_a_session(tmp_path):
    ours, theirs = SessionStore.open(tmp_path / "a"), SessionStore.open(tmp_path / "b")
    first, other = train(ours, "cs"), train(theirs, "dining")
    shutil.copytree(other.path, ours.root / "sessions" / other.folder_name)
    assert {session.id for session in ours.snapshot().sessions.values()} == {first.id, other.id}
    child = train(theirs, "tennis")
    shutil.copytree(child.path, ours.root / "sessions" / child.folder_name)
    shutil.rmtree(ours.root / "sessions" / other.folder_name)
    place = ours.root / "sessions" / child.folder_name
    assert verify(ours.snapshot()).problems == [
        f"{place}: its parent {other.id[:12]}… is missing from the store; "
        f"run `mlx-tune doctor --store {ours.root}`"
    ]


def test_damage_in_the_trash_stops_nothing(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    collect_garbage(store, today=DAY)
    flip(store.root / "trash" / f"2026-11-23-{held.folder_name}" / "data.jsonl")
    assert verify(store.snapshot()).problems == []
    collect_garbage(store, today=DAY + timedelta(30))
    assert names(store.root / "trash") == []


def test_a_head_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    store = SessionStore.open(tmp_path / "s")
    first = train(store, "cs")
    (store.root / "HEAD").rename(tmp_path / "HEAD")
    (store.root / "HEAD").symlink_to(tmp_path / "HEAD")
    with pytest.raises(DamagedStoreError, match="HEAD is missing or holds no session's id"):
        collect_garbage(store, today=DAY)
    store.move_head(None, expected=first, why="rollback")
    assert (tmp_path / "HEAD").read_text() == f"{first.id}\n"
    assert not (store.root / "HEAD").is_symlink()
