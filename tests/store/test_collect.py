"""Removal, second half: what is marked goes to the trash, and nothing goes while in doubt."""

import errno
import os
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from helpers.stores import (
    REFUSED,
    commit,
    contents,
    fail_with,
    flip,
    message,
    names,
    needs_linux,
    recorded,
    sessions_of,
    start_run,
    state,
    train,
    unlock,
)
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, LockedError
from mlx_tune.files import lock
from mlx_tune.store import gc as collect_module
from mlx_tune.store import labels
from mlx_tune.store.gc import Collected, collect_garbage
from mlx_tune.store.labels import mark_removed, tag, unmark_removed
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

DAY = date(2026, 11, 23)
NOTHING = Collected(moved=(), deleted=(), freed_bytes=0)


@pytest.fixture
def branch(store) -> list[Session]:
    """A branch of three held-back sessions on the one in use."""
    made = [train(store, "cs")]
    for name in ("dining", "tennis", "chess"):
        made.append(commit(store, name, made[-1], **REFUSED))
    return made[1:]


def remove_all(store: SessionStore, sessions: list[Session]) -> None:
    for session in reversed(sessions):
        mark_removed(store, session)


def trash(store: SessionStore) -> list[str]:
    return names(store.root / "trash")


# What moves


def test_a_marked_session_moves_to_the_trash_whole_and_its_mark_goes(store, branch):
    last, kept = branch[-1], branch[:-1]
    before = contents(last.path)
    mark_removed(store, last)
    assert collect_garbage(store, today=DAY) == Collected(
        moved=(last.folder_name,), deleted=(), freed_bytes=0
    )
    assert trash(store) == [f"2026-11-23-{last.folder_name}"]
    assert contents(store.root / "trash" / f"2026-11-23-{last.folder_name}") == before
    assert store.snapshot().removed == set()
    assert sessions_of(store)[1:] == kept
    assert store.snapshot().notes == ()
    assert verify(store.snapshot()).problems == []


@needs_linux
def test_a_move_to_the_trash_is_on_the_disk_under_its_new_name_first(store, branch, monkeypatch):
    mark_removed(store, branch[2])
    (store.root / "trash").mkdir()
    calls = recorded(monkeypatch)
    collect_garbage(store, today=DAY)
    place = store.root / "trash" / f"2026-11-23-{branch[2].folder_name}"
    mark = store.root / "removed" / branch[2].folder_name
    assert calls == [
        ("rename", str(place)),
        ("flush", str(place.parent)),
        ("flush", str(store.root / "sessions")),
        ("unlink", str(mark)),
        ("flush", str(mark.parent)),
    ]


def test_with_nothing_marked_nothing_changes(store, branch):
    tag(store, "good", branch[0])
    before = state(store.root)
    assert collect_garbage(store, today=DAY) == NOTHING
    assert state(store.root) == before


def test_a_session_that_was_held_back_and_not_removed_stays_for_ever(store, branch):
    for years in range(3):
        collect_garbage(store, today=DAY + timedelta(365 * years))
    assert sessions_of(store)[1:] == branch


def test_children_move_before_their_parents(store, branch, monkeypatch):
    remove_all(store, branch)
    order, real = [], Path.rename

    def rename(self: Path, target: Path) -> Path:
        order.append(self.name)
        # At each moment, what is left has its chain.
        assert verify(SessionStore.open(store.root).snapshot()).problems == []
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    moved = collect_garbage(store, today=DAY).moved
    assert order == list(moved) == [session.folder_name for session in reversed(branch)]


def test_what_comes_back_from_the_trash_by_hand_is_a_session_again(store, branch):
    remove_all(store, branch)
    collect_garbage(store, today=DAY)
    for session in branch:
        (store.root / "trash" / f"2026-11-23-{session.folder_name}").rename(session.path)
    assert sessions_of(store)[1:] == branch
    assert verify(store.snapshot()).problems == []
    assert collect_garbage(store, today=DAY) == NOTHING


def test_a_session_trained_and_removed_again_gets_a_place_of_its_own(store):
    parent = train(store, "cs")
    for _ in range(3):
        held = commit(store, "held", parent, **REFUSED)
        mark_removed(store, held)
        collect_garbage(store, today=DAY)
    stem = f"2026-11-23-{held.folder_name}"
    assert trash(store) == [stem, f"{stem}~2", f"{stem}~3"]
    assert collect_garbage(store, today=DAY + timedelta(30)).deleted == (
        f"trash/{stem}",
        f"trash/{stem}~2",
        f"trash/{stem}~3",
    )
    assert trash(store) == []


# What does not move


def test_a_marked_session_that_an_unmarked_one_stands_on_stays(store, branch):
    """Without locks, somebody may train on a session while another removes it."""
    remove_all(store, branch)
    late = commit(store, "late", branch[1], **REFUSED)
    assert collect_garbage(store, today=DAY).moved == (branch[2].folder_name,)
    assert store.snapshot().chain(late)[1:] == [branch[0], branch[1], late]
    assert store.snapshot().removed == {branch[0].id, branch[1].id}
    mark_removed(store, late)
    assert collect_garbage(store, today=DAY).moved == tuple(
        session.folder_name for session in (late, branch[1], branch[0])
    )


def mark(store: SessionStore, session: Session) -> None:
    """Mark a session as another process might, that saw the store a moment earlier."""
    labels.put_label(store.root / "removed", session.folder_name, session.id)


def test_a_marked_session_that_a_tag_names_stays(store, branch):
    tag(store, "good", branch[2])
    mark(store, branch[2])
    assert collect_garbage(store, today=DAY) == NOTHING


def test_a_marked_session_that_is_in_use_stays(store, branch):
    store.move_head(branch[2], expected=store.snapshot().head(), why="promote")
    mark(store, branch[2])
    mark(store, branch[1])
    assert collect_garbage(store, today=DAY) == NOTHING
    assert store.snapshot().head() == branch[2]


def test_a_marked_session_that_an_unfinished_run_stands_on_stays(store, branch):
    run = start_run(store, branch[2])
    mark(store, branch[2])
    assert collect_garbage(store, today=DAY) == NOTHING
    run.set(phase="failed")
    assert collect_garbage(store, today=DAY).moved == (branch[2].folder_name,)


@pytest.mark.parametrize("parent", [[], {}, 7, None])
def test_a_run_whose_parent_is_no_id_keeps_nothing_and_stops_nothing(store, branch, parent):
    mark_removed(store, branch[2])
    start_run(store, None).set(parent=parent)
    assert collect_garbage(store, today=DAY).moved == (branch[2].folder_name,)


def test_a_mark_taken_away_in_time_keeps_the_session(store, branch):
    mark_removed(store, branch[2])
    unmark_removed(store, branch[2])
    assert collect_garbage(store, today=DAY) == NOTHING


# What is deleted


@pytest.mark.parametrize(("days", "gone"), [(0, False), (29, False), (30, True), (31, True)])
def test_the_trash_is_kept_for_thirty_days(store, branch, days, gone):
    mark_removed(store, branch[2])
    collect_garbage(store, today=DAY)
    name = f"2026-11-23-{branch[2].folder_name}"
    size = sum(path.stat().st_size for path in (store.root / "trash" / name).iterdir())
    found = collect_garbage(store, today=DAY + timedelta(days))
    assert found == (
        Collected(moved=(), deleted=(f"trash/{name}",), freed_bytes=size) if gone else NOTHING
    )
    assert trash(store) == ([] if gone else [name])


def test_a_clock_that_was_set_back_deletes_nothing(store, branch):
    mark_removed(store, branch[2])
    collect_garbage(store, today=DAY)
    assert collect_garbage(store, today=DAY - timedelta(3650)) == NOTHING


@pytest.mark.parametrize(
    "name",
    [
        "notes",
        "2020-01-01",
        "2020-01-01-",
        "2020-01-01-my-notes",
        "2020-02-31-0001-cs-0123abcd",
        "2020-1-1-0001-cs-0123abcd",
        "٢٠٢٠-01-01-0001-cs-0123abcd",
        "2020-01-01-٠٠٠١-cs-0123abcd",
        "2020-01-01-0001-cs-0123abcd.bak",
        "2020-01-01-0001-cs-0123abcd\n",
        "x2020-01-01-0001-cs-0123abcd",
        "9999-12-31-0001-cs-0123abcd",
    ],
)
def test_what_the_trash_did_not_get_from_a_collection_stays_for_ever(store, branch, name):
    (store.root / "trash" / name).mkdir(parents=True)
    (store.root / "trash" / name / "mine").write_bytes(b"x")
    assert collect_garbage(store, today=DAY) == NOTHING
    assert (store.root / "trash" / name / "mine").read_bytes() == b"x"


def test_a_link_in_the_trash_is_not_followed(store, branch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"x")
    (store.root / "trash").mkdir()
    (store.root / "trash" / "2020-01-01-0001-cs-0123abcd").symlink_to(tmp_path / "mine")
    collect_garbage(store, today=DAY)
    assert trash(store) == []
    assert (tmp_path / "mine" / "file").read_bytes() == b"x"


def test_only_checkpoints_of_runs_that_became_sessions_go(store, branch):
    runs = {phase: start_run(store, branch[0], phase) for phase in ("train", "score", "commit")}
    runs |= {phase: start_run(store, branch[0], phase) for phase in ("failed", "done")}
    for run in runs.values():
        run.log(step=1)
        run.save_checkpoint(1, {"a": b"12345"})
    kept = contents_of_runs(store)
    found = collect_garbage(store, today=DAY)
    place = f"runs/{runs['done'].path.name}/checkpoints"
    assert found.deleted == (place,)
    assert found.freed_bytes == sum(len(d) for path, d in kept.items() if path.startswith(place))
    assert contents_of_runs(store) == {
        path: data for path, data in kept.items() if not path.startswith(place)
    }
    assert collect_garbage(store, today=DAY) == NOTHING


def contents_of_runs(store: SessionStore) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in (store.root / "runs").rglob("*")
        if path.is_file()
    }


def test_unfinished_writes_go_and_what_else_lies_there_stays(store, branch):
    scratch = store.root / ".tmp"
    (scratch / "0123456789abcdef").mkdir()
    (scratch / "0123456789abcdef" / "half").write_bytes(b"12345")
    (scratch / "mine").mkdir()
    (scratch / "notes.txt").write_bytes(b"x")
    assert collect_garbage(store, today=DAY) == Collected(
        moved=(), deleted=(".tmp/0123456789abcdef",), freed_bytes=5
    )
    assert names(scratch) == ["mine", "notes.txt"]


def test_what_killed_writers_left_beside_the_files_goes(store, branch):
    run = start_run(store, branch[0])
    tag(store, "best", branch[0])
    left = [
        store.root / ".HEAD.0123456789abcdef",
        store.root / "tags" / ".best.0123456789abcdef",
        run.path / ".run.json.0123456789abcdef",
    ]
    for path in left:
        path.write_bytes(b"torn")
    (store.root / ".latest.0123456789abcdef").symlink_to("sessions/gone")
    stays = store.root / ".DS_Store"
    stays.write_bytes(b"the Finder's")
    found = collect_garbage(store, today=DAY)
    assert len(found.deleted) == 4
    assert not any(os.path.lexists(path) for path in left)
    assert stays.exists()
    assert collect_garbage(store, today=DAY) == NOTHING


def test_scratch_that_is_a_link_is_not_emptied(store, branch, tmp_path):
    (tmp_path / "mine" / "0123456789abcdef").mkdir(parents=True)
    shutil.rmtree(store.root / ".tmp")
    (store.root / ".tmp").symlink_to(tmp_path / "mine")
    assert collect_garbage(store, today=DAY) == NOTHING
    assert names(tmp_path / "mine") == ["0123456789abcdef"]


@pytest.mark.parametrize("step", ["before it is deleted", "while it is deleted"])
def test_without_locks_a_collection_does_not_take_files_from_a_session_being_written(
    store, branch, monkeypatch, step
):
    """It deletes unfinished writes; one of them may become a session while it does."""
    unlock(monkeypatch)
    draft = store.root / ".tmp" / "0123456789abcdef"
    files = contents(branch[2].path)
    shutil.rmtree(branch[2].path)
    draft.mkdir()
    for name, data in files.items():
        (draft / name).write_bytes(data)
    real = os.unlink

    def unlink(*args, **kwargs):
        """At the first deletion, the other process puts its draft in place."""
        monkeypatch.setattr(os, "unlink", real)
        if draft.exists():
            draft.rename(branch[2].path)
        return real(*args, **kwargs)

    if step == "while it is deleted":
        monkeypatch.setattr(os, "unlink", unlink)
    else:
        listed = collect_module._deletable
        monkeypatch.setattr(
            collect_module,
            "_deletable",
            lambda *args: (listed(*args), draft.rename(branch[2].path))[0],
        )
    collect_garbage(store, today=DAY)
    assert verify(store.snapshot()).problems == []  # it is there whole, or was not announced
    if step == "before it is deleted":
        assert branch[2] in store.snapshot().sessions.values()


# A dry run


def test_a_dry_run_says_the_same_and_changes_nothing(store, branch):
    remove_all(store, branch)
    collect_garbage(store, today=DAY - timedelta(40))
    fresh = [commit(store, name, store.snapshot().head(), **REFUSED) for name in ("a", "b")]
    remove_all(store, fresh)
    (store.root / ".tmp" / "0123456789abcdef").mkdir()
    run = start_run(store, None, "done")
    run.save_checkpoint(1, {"a": b"1"})
    before = state(store.root)
    would = collect_garbage(store, today=DAY, dry_run=True)
    assert state(store.root) == before
    assert collect_garbage(store, today=DAY) == would
    assert (len(would.moved), len(would.deleted)) == (2, 5)


# Damage


def flip_a_byte(store: SessionStore, sessions: list[Session]) -> Path:
    flip(sessions[0].path / "data.jsonl")
    return sessions[0].path / "data.jsonl"


def flip_the_manifest(store: SessionStore, sessions: list[Session]) -> Path:
    flip(sessions[0].path / "MANIFEST.sha256")
    return sessions[0].path


def lose_a_file(store: SessionStore, sessions: list[Session]) -> Path:
    (sessions[2].path / "data.jsonl").unlink()
    return sessions[2].path


def lose_a_parent(store: SessionStore, sessions: list[Session]) -> Path:
    shutil.rmtree(sessions[0].path)
    return sessions[1].path


def leave_a_stranger(store: SessionStore, sessions: list[Session]) -> Path:
    (store.root / "sessions" / "copy").mkdir()
    return store.root / "sessions" / "copy" / "MANIFEST.sha256"


def damage_what_is_in_use(store: SessionStore, sessions: list[Session]) -> Path:
    flip(store.snapshot().head().path / "session.json")
    return store.root / "sessions"


def lose_head(store: SessionStore, sessions: list[Session]) -> Path:
    (store.root / "HEAD").unlink()
    return store.root / "HEAD"


def garble_head(store: SessionStore, sessions: list[Session]) -> Path:
    (store.root / "HEAD").write_bytes(b"garbage")
    return store.root / "HEAD"


def tear_a_runs_record(store: SessionStore, sessions: list[Session]) -> str:
    """Nobody can tell any more which session it stands on."""
    run = start_run(store, sessions[2])
    (run.path / "run.json").write_bytes(b"torn")
    return f"run skipped: {run.path / 'run.json'}"


def let_head_name_a_stranger(store: SessionStore, sessions: list[Session]) -> Path:
    (store.root / "HEAD").write_text("0" * 64)
    return store.root / "sessions"


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        flip_the_manifest,
        lose_a_file,
        lose_a_parent,
        leave_a_stranger,
        damage_what_is_in_use,
        lose_head,
        garble_head,
        let_head_name_a_stranger,
        tear_a_runs_record,
    ],
)
def test_nothing_moves_and_nothing_is_deleted_while_anything_is_damaged(
    store, branch, damage, dry_run
):
    old = commit(store, "old", store.snapshot().head(), **REFUSED)
    mark_removed(store, old)
    collect_garbage(store, today=DAY - timedelta(40))
    mark_removed(store, branch[2])
    (store.root / ".tmp" / "0123456789abcdef").mkdir()
    place = damage(store, branch)
    before = state(store.root)
    line = message(DamagedStoreError, lambda: collect_garbage(store, today=DAY, dry_run=dry_run))
    assert line.startswith(f"gc moved nothing, for something is damaged: {place}")
    assert state(store.root) == before


def test_the_whole_message_of_a_head_that_names_no_session(store, branch):
    (store.root / "HEAD").unlink()
    assert message(DamagedStoreError, lambda: collect_garbage(store, today=DAY)) == (
        f"gc moved nothing, for something is damaged: {store.root / 'HEAD'} is missing or holds no "
        f"session's id; put the one in use back with "
        f"`mlx-tune rollback --to SESSION --store {store.root}`"
    )


def test_a_head_on_the_base_and_a_store_without_sessions_are_no_damage(store, tmp_path):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    assert collect_garbage(store, today=DAY).moved == (held.folder_name,)
    assert collect_garbage(store, today=DAY) == NOTHING
    assert collect_garbage(SessionStore.open(tmp_path / "new"), today=DAY) == NOTHING


def test_a_newer_store_is_not_collected(store, branch):
    (store.root / "format.json").write_text('{"version": 1, "requires": ["deltas"]}')
    before = state(store.root)
    assert "upgrade mlx-tune" in message(
        IncompatibleError, lambda: collect_garbage(store, today=DAY)
    )
    assert state(store.root) == before


# Beside others, and on failing disks


def test_nothing_is_collected_while_somebody_trains_or_writes(store, branch):
    mark_removed(store, branch[2])
    before = state(store.root)
    other = SessionStore.open(store.root)
    with other.training("train cs"):
        assert "held for train cs" in message(
            LockedError, lambda: collect_garbage(store, today=DAY)
        )
    assert state(store.root) == before
    with lock.hold(store.root / "lock", what="rm"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_tune.store.store.PATIENCE_SECONDS", 0.0)
        assert "held for rm" in message(LockedError, lambda: collect_garbage(store, today=DAY))
    assert state(store.root) == before


def test_a_disk_that_refuses_to_move_leaves_the_rest_where_it_was(store, branch, monkeypatch):
    remove_all(store, branch)
    real, calls = Path.rename, []

    def rename(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        line = message(DiskError, lambda: collect_garbage(store, today=DAY))
    assert line == (
        f"cannot move {branch[1].path}: read-only file system; it is in its place or whole in the "
        "trash; make the disk writable or name another store, then run the command again"
    )
    assert sessions_of(store)[1:] == branch[:2]
    assert store.snapshot().removed == {branch[0].id, branch[1].id}
    assert collect_garbage(store, today=DAY).moved == (branch[1].folder_name, branch[0].folder_name)


def test_a_disk_that_refuses_to_delete_is_one_line_and_is_tried_again(store, branch, monkeypatch):
    mark_removed(store, branch[2])
    collect_garbage(store, today=DAY)
    place = store.root / "trash" / f"2026-11-23-{branch[2].folder_name}"
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fail_with(errno.EIO))
        patch.setattr(os, "unlink", fail_with(errno.EIO))
        line = message(DiskError, lambda: collect_garbage(store, today=DAY + timedelta(30)))
    assert line == (
        f"cannot delete {place}: input/output error; nothing else was touched; check the disk, "
        "then run the command again"
    )
    collect_garbage(store, today=DAY + timedelta(30))
    assert trash(store) == []


def test_a_mark_left_by_a_collection_that_was_killed_goes_with_the_next(store, branch):
    mark_removed(store, branch[2])
    (store.root / "trash").mkdir()
    branch[2].path.rename(store.root / "trash" / f"2026-11-23-{branch[2].folder_name}")
    assert [n for n in verify(store.snapshot()).notes if "which is not in the store" in n]
    assert collect_garbage(store, today=DAY) == NOTHING
    assert verify(store.snapshot()).notes == []


def test_a_long_chain_is_not_read_anew_for_each_session(store, monkeypatch):
    for number in range(12):
        train(store, f"s{number}")
    scans = []
    real = SessionStore.snapshot
    monkeypatch.setattr(SessionStore, "snapshot", lambda self: (scans.append(1), real(self))[1])
    collect_garbage(store, today=DAY)
    assert len(scans) == 3  # to check it all, to choose what moves, and once that has moved
