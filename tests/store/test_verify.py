"""A check of a whole store: it counts what is whole, and finds every kind of damage."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers.stores import REFUSED, commit, fail_with, flip, message, start_run, state, train
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import Findings, verify

DOCTOR = "run `mlx-tune doctor`"


@pytest.fixture
def three(store) -> list[Session]:
    """A chain of three sessions, HEAD on the last."""
    return [train(store, name) for name in ("cs", "dining", "tennis")]


def check(store: SessionStore) -> Findings:
    """Verify with a store just opened, which has no notes yet; nothing may change by it."""
    before = state(store.root)
    found = verify(SessionStore.open(store.root).snapshot())
    assert state(store.root) == before
    return found


def test_a_sound_store_is_counted_and_nothing_is_said(store, three):
    commit(store, "held", three[0], **REFUSED)
    found = check(store)
    files = [p for p in (store.root / "sessions").rglob("*") if p.is_file()]
    assert (found.problems, found.notes, found.error) == ([], [], None)
    assert (found.sessions, found.files) == (4, len(files)) == (4, 20)
    assert found.size_bytes == sum(path.stat().st_size for path in files)


def test_a_store_that_is_not_there_is_sound_and_is_not_made(tmp_path):
    found = verify(SessionStore.open(tmp_path / "s").snapshot())
    assert (found.sessions, found.files, found.problems, found.notes) == (0, 0, [], [])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["adapters.safetensors", "data.jsonl"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_flipped_byte_is_located_and_what_stands_on_it_is_not_counted(store, three, name, at):
    place = three[at].path / name
    flip(place)
    found = check(store)
    problem, way_back = found.problems
    good = (
        f"{three[at - 1].folder_name} with "
        f"`mlx-tune rollback --to {three[at - 1].id[:8]} --store {store.root}`"
    )
    good = good if at else f"base with `mlx-tune rollback --to base --store {store.root}`"
    assert way_back == f"HEAD stands on that; go back to {good}"
    assert problem.startswith(f"{place}: changed after it was written: sha256 is ")
    assert (found.sessions, found.files) == (at, 5 * at)
    assert str(found.error) == problem
    assert isinstance(found.error, DamagedStoreError)


@pytest.mark.parametrize("name", ["session.json", "MANIFEST.sha256"])
def test_a_flipped_byte_of_the_record_or_the_manifest_is_located(store, three, name):
    flip(three[1].path / name)
    found = check(store)
    assert all(str(three[1].path) in problem for problem in found.problems)
    assert found.sessions == 1


def test_damage_is_said_once_however_many_stand_on_it(store, three):
    flip(three[0].path / "session.json")
    found = check(store)
    assert len(found.problems) == 1
    assert found.sessions == 0


def test_a_damaged_head_is_a_problem_with_the_way_back(store, three):
    flip(three[2].path / "session.json")
    found = check(store)
    (damage,) = found.problems
    assert damage.startswith(f"{three[2].path}/session.json: changed after it was written")
    assert damage.endswith(
        f"; HEAD names it, so go back to {three[1].folder_name} with "
        f"`mlx-tune rollback --to {three[1].id[:8]} --store {store.root}`"
    )


def test_a_missing_parent_is_a_problem(store, three):
    shutil.rmtree(three[1].path)
    assert check(store).problems == [
        f"{three[2].path}: its parent {three[1].id[:12]}… is missing from the store; "
        f"run `mlx-tune doctor --store {store.root}`; "
        f"go back to {three[0].folder_name} with "
        f"`mlx-tune rollback --to {three[0].id[:8]} --store {store.root}`"
    ]


@pytest.mark.parametrize("kept", [2, 0])
def test_a_missing_head_is_a_problem_with_the_way_back(store, three, kept):
    for session in three[kept:]:
        shutil.rmtree(session.path)
    good = three[kept - 1] if kept else None
    name, ref = (good.folder_name, good.id[:8]) if good else ("base", "base")
    found = check(store)
    assert found.problems == [
        f"{store.root / 'sessions'}: {three[2].id[:12]}… is missing; HEAD names it, so go back to "
        f"{name} with `mlx-tune rollback --to {ref} --store {store.root}`"
    ]
    assert (found.sessions, found.notes) == (kept, [])
    assert isinstance(found.error, DamagedStoreError)


def missing(session: Session) -> str:
    (session.path / "data.jsonl").unlink()
    return f"{session.path}: data.jsonl is missing; {DOCTOR}"


def unnamed(session: Session) -> str:
    (session.path / "extra").write_bytes(b"")
    return f"{session.path}: 'extra' is not in MANIFEST.sha256; {DOCTOR}"


def linked(session: Session) -> str:
    (session.path / "data.jsonl").rename(session.path.parent.parent / "data.jsonl")
    (session.path / "data.jsonl").symlink_to("../../data.jsonl")
    return f"{session.path}: 'data.jsonl' is not a regular file; {DOCTOR}"


def piped(session: Session) -> str:
    (session.path / "data.jsonl").unlink()
    os.mkfifo(session.path / "data.jsonl")
    return f"{session.path}: 'data.jsonl' is not a regular file; {DOCTOR}"


def renamed(session: Session) -> str:
    path = session.path.with_name(f"0009-other-{session.id[:8]}")
    session.path.rename(path)
    return (
        f"{path}: its MANIFEST.sha256 and session.json belong to {session.folder_name}, so one of "
        f"them or the folder's name was changed; {DOCTOR}"
    )


def emptied(session: Session) -> str:
    shutil.rmtree(session.path)
    session.path.mkdir()
    return f"{session.path / 'MANIFEST.sha256'}: missing; {DOCTOR}"


def flattened(session: Session) -> str:
    shutil.rmtree(session.path)
    session.path.write_bytes(b"")
    return f"{session.path}: not a folder; {DOCTOR}"


@pytest.mark.parametrize("damage", [missing, unnamed, linked, piped, renamed, emptied, flattened])
def test_every_kind_of_damage_is_a_problem_in_one_line(store, three, damage):
    held = commit(store, "held", three[0], **REFUSED)
    line = damage(held)
    found = check(store)
    assert found.problems == [line]
    assert found.sessions == 3


def test_what_is_no_session_among_the_sessions_is_a_problem(store, three):
    (store.root / "sessions" / "notes.txt").write_text("mine")
    (store.root / "sessions" / ".DS_Store").write_text("the Finder's")
    place = store.root / "sessions" / "notes.txt"
    assert check(store).problems == [f"{place}: not a folder; {DOCTOR}"]


def test_two_damaged_folders_that_end_alike_are_both_found(store, three):
    for name in ("0008-copy", "0009-copy"):
        shutil.copytree(three[0].path, three[0].path.with_name(f"{name}-{three[0].id[:8]}"))
    assert len(check(store).problems) == 2
    flip(three[0].path / "session.json")
    assert len(check(store).problems) == 3


def test_a_rebuilt_head_torn_lines_and_stray_labels_are_notes(store, three):
    tag(store, "good", three[0])
    (store.root / "HEAD").unlink()
    with (store.root / "HEAD.log").open("a") as log:
        log.write("torn\n\ntorn again")
    (store.root / "tags" / "stray").write_text("0" * 64)
    (store.root / "tags" / "garbage").write_text("x")
    (store.root / "removed").mkdir()
    (store.root / "removed" / "0001-gone-11111111").write_text("1" * 64)
    found = check(store)
    assert found.problems == []
    assert found.notes == [
        f"{store.root / 'HEAD'} is missing or holds no session's id; going on from "
        f"{three[2].folder_name}, by the last sound line of HEAD.log; if that is wrong, "
        f"`mlx-tune rollback --to SESSION --store {store.root}`",
        f"{store.root / 'HEAD.log'}: torn lines skipped: 4, 6",
        f"{store.root / 'tags' / 'garbage'}: holds no session's id and is passed over; delete it",
        f"{store.root / 'tags' / 'stray'}: names 000000000000…, which is not in the store",
        f"{store.root / 'removed' / '0001-gone-11111111'}: names 111111111111…, which is not in "
        "the store",
    ]


def test_a_runs_damaged_record_is_a_problem_for_nobody_knows_what_it_stands_on(store, three):
    broken = start_run(store, three[0])
    (broken.path / "run.json").write_bytes(b"{}")
    (problem,) = check(store).problems
    assert problem.startswith(f"run skipped: {broken.path / 'run.json'}: ")
    assert problem.endswith(
        "; put it back, or give the run up with "
        f"`mlx-tune resume --discard {broken.path.name} --store {store.root}`"
    )


def test_damaged_checkpoints_of_unfinished_runs_are_notes(store, three):
    unfinished, done = (start_run(store, three[0]) for _ in range(2))
    for run in (unfinished, done):
        run.save_checkpoint(1, {"a": b"1"})
        flip(run.path / "checkpoints" / "step-000001" / "a")
    done.set(phase="done")
    found = check(store)
    assert found.problems == []
    (note,) = found.notes
    assert note.startswith("checkpoint skipped: ")
    assert str(unfinished.path / "checkpoints" / "step-000001" / "a") in note


def test_a_removed_session_is_checked_like_any_other(store, three):
    held = commit(store, "held", three[0], **REFUSED)
    mark_removed(store, held)
    assert check(store).sessions == 4
    flip(held.path / "data.jsonl")
    assert str(held.path / "data.jsonl") in check(store).problems[0]


def test_a_file_that_cannot_be_read_is_no_damage(store, three, monkeypatch):
    real_open = os.open

    def denied(path, *args, **kwargs):
        if Path(path) == three[0].path / "data.jsonl":
            raise OSError(errno.EIO, "Input/output error")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    assert message(DiskError, lambda: verify(store.snapshot())) == (
        f"cannot read {three[0].path / 'data.jsonl'}: input/output error; reading changes nothing; "
        "check the disk, then run the command again"
    )


def test_a_newer_store_is_not_judged(store, three):
    (store.root / "format.json").write_text('{"version": 1, "requires": ["deltas"]}')
    assert "upgrade mlx-tune" in message(IncompatibleError, lambda: verify(store.snapshot()))


def test_sessions_that_may_not_be_listed_are_one_line(store, three, monkeypatch):
    monkeypatch.setattr(os, "listdir", fail_with(errno.EACCES))
    assert message(DiskError, lambda: verify(store.snapshot())).startswith(
        f"cannot read {store.root / 'sessions'}: permission denied; "
    )
