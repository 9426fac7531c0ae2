"""Removal, first half: what is needed is not marked, and a mark can be taken away."""

import errno
import json
import os
from datetime import date

from helpers.stores import (
    REFUSED,
    commit,
    fail_with,
    flip,
    message,
    names,
    sessions_of,
    start_run,
    state,
    train,
)
from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed, tag, unmark_removed, untag
from mlx_tune.store.store import SessionStore

DAY = date(2026, 11, 23)


def refusal(store: SessionStore, session) -> str:
    before = state(store.root)
    line = message(UsageError, lambda: mark_removed(store, session))
    assert state(store.root) == before
    return line


def test_a_removed_session_is_marked_and_stays_where_it_is(store):
    first, held = train(store, "cs"), commit(store, "held", **REFUSED)
    before = state(store.root)
    mark_removed(store, held)
    assert store.snapshot().removed == {held.id}
    assert sessions_of(store) == sorted([first, held], key=lambda s: s.id)
    after = state(store.root)
    assert json.loads(after.pop("format.json")) == {"version": 1, "requires": ["removal"]}
    assert json.loads(before.pop("format.json")) == {"version": 1, "requires": []}
    mark = {"removed/": "", f"removed/{held.folder_name}": held.id.encode() + b"\n"}
    assert after == {**before, **mark}


def test_removing_twice_changes_nothing_more(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    before = state(store.root)
    mark_removed(store, held)
    assert state(store.root) == before


def test_a_mark_can_be_taken_away(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    unmark_removed(store, held)
    assert store.snapshot().removed == set()
    assert collect_garbage(store, today=DAY).moved == ()
    assert message(UsageError, lambda: unmark_removed(store, held)) == (
        f"{held.folder_name} is not removed; nothing to undo"
    )


def test_the_session_in_use_is_not_removed(store):
    first = train(store, "cs")
    assert refusal(store, first) == (
        f"{first.folder_name} was not removed: HEAD is there, "
        f"`mlx-tune rollback --store {store.root}` first"
    )


def test_a_session_that_others_were_trained_on_is_not_removed(store):
    first = train(store, "cs")
    second, third = commit(store, "dining", first), commit(store, "tennis", first)
    store.move_head(None, expected=first, why="rollback")
    by_id = sorted([second, third], key=lambda s: s.id)
    without = f"mlx-tune consolidate --without {first.id[:8]} --store {store.root}"
    anew = f", or teach the rest anew without it: `{without}`"
    assert refusal(store, first) == (
        f"{first.folder_name} was not removed: {by_id[0].folder_name}, {by_id[1].folder_name} was "
        f"trained on it, remove that first{anew}"
    )
    mark_removed(store, second)
    assert refusal(store, first) == (
        f"{first.folder_name} was not removed: {third.folder_name} was trained on it, remove that "
        f"first{anew}"
    )
    mark_removed(store, third)
    mark_removed(store, first)
    assert store.snapshot().removed == {first.id, second.id, third.id}


def test_a_tagged_session_is_not_removed(store):
    held = commit(store, "held", **REFUSED)
    tag(store, "good", held)
    tag(store, "best", held)
    assert refusal(store, held) == (
        f"{held.folder_name} was not removed: the tag best names it, "
        f"`mlx-tune tag --delete best --store {store.root}` "
        f"first; the tag good names it, `mlx-tune tag --delete good --store {store.root}` first"
    )
    untag(store, "good")
    untag(store, "best")
    mark_removed(store, held)


def test_a_session_that_an_unfinished_run_stands_on_is_not_removed(store):
    held = commit(store, "held", **REFUSED)
    run = start_run(store, held)
    other = start_run(store, None)
    assert refusal(store, held) == (
        f"{held.folder_name} was not removed: the unfinished run {run.path.name} stands on it, "
        f"`mlx-tune resume {run.path.name} --store {store.root}` or "
        f"`mlx-tune resume --discard {run.path.name} --store {store.root}` first"
    )
    assert other.is_unfinished
    run.set(phase="failed")
    mark_removed(store, held)


def test_all_that_needs_a_session_is_said_at_once(store):
    first = train(store, "cs")
    commit(store, "dining", first)
    tag(store, "good", first)
    start_run(store, first)
    assert refusal(store, first).count("; ") == 3


def test_the_parent_of_a_removed_session_comes_back_first(store):
    first = commit(store, "cs")
    second = commit(store, "dining", first)
    mark_removed(store, second)
    mark_removed(store, first)
    assert message(UsageError, lambda: unmark_removed(store, second)) == (
        f"{second.folder_name}: its parent {first.id[:8]} is removed too; first "
        f"`mlx-tune rm --undo {first.id[:8]} --store {store.root}`"
    )
    unmark_removed(store, first)
    unmark_removed(store, second)
    assert store.snapshot().removed == set()


def test_a_removed_session_cannot_become_head(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    before = state(store.root)
    move = lambda: store.move_head(held, expected=None, why="promote")  # noqa: E731 one call, named for the next line
    line = (
        f"{held.folder_name} is removed; "
        f"`mlx-tune rm --undo {held.id[:8]} --store {store.root}` keeps it"
    )
    assert message(UsageError, move) == line
    assert state(store.root) == before
    unmark_removed(store, held)
    store.move_head(held, expected=None, why="promote")
    assert store.snapshot().head() == held


def test_a_damaged_head_is_not_left_for_a_removed_session(store):
    first, held = train(store, "cs"), commit(store, "held", **REFUSED)
    mark_removed(store, held)
    flip(first.path / "session.json")
    leave = lambda: store.leave_damaged_head(held, why="rollback")  # noqa: E731 one call, named for the next line
    assert "is removed; `mlx-tune rm --undo" in message(UsageError, leave)
    assert (store.root / "HEAD").read_text() == f"{first.id}\n"


def test_a_lost_head_is_not_rebuilt_on_a_removed_session(store):
    first = train(store, "cs")
    second = train(store, "dining")
    store.move_head(first, expected=second, why="rollback")
    mark_removed(store, second)
    (store.root / "HEAD").unlink()
    with (store.root / "HEAD.log").open("a") as log:  # a move back from it that was not logged
        log.write(f"2026-01-01T00:00:00Z {first.id} {second.id} train\n")
    assert store.snapshot().head() == first
    (store.root / "HEAD.log").unlink()
    assert store.snapshot().head() == first


def test_a_damaged_head_is_not_sent_to_a_removed_session(store):
    first, second = train(store, "cs"), train(store, "dining")
    branch = commit(store, "tennis", first)
    store.move_head(branch, expected=second, why="promote")
    mark_removed(store, second)
    flip(branch.path / "session.json")
    line = message(DamagedStoreError, lambda: store.snapshot().head())
    assert line.endswith(
        f"so go back to {first.folder_name} with "
        f"`mlx-tune rollback --to {first.id[:8]} --store {store.root}`"
    )


def test_a_session_that_was_collected_meanwhile_is_not_marked_again(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    collect_garbage(store, today=DAY)
    before = state(store.root)
    assert message(DamagedStoreError, lambda: mark_removed(store, held)) == (
        f"{held.folder_name} is not, or no longer, in {store.root}; "
        f"run `mlx-tune doctor --store {store.root}`"
    )
    assert state(store.root) == before


def test_a_mark_of_any_name_can_be_taken_away(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    (store.root / "removed" / held.folder_name).rename(store.root / "removed" / "by-hand")
    unmark_removed(store, held)
    assert store.snapshot().removed == set()


def test_a_full_disk_marks_nothing(store, monkeypatch):
    held = commit(store, "held", **REFUSED)
    for moment in (1, 2):
        calls, real = [], os.write

        def write(descriptor, data, calls=calls, real=real, moment=moment):
            calls.append(1)
            if len(calls) == moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            message(DiskError, lambda: mark_removed(store, held))
        assert store.snapshot().removed == set()
    assert json.loads((store.root / "format.json").read_bytes())["requires"] == ["removal"]
    assert names(store.root / "removed") == []


def test_a_damaged_run_does_not_hide_the_others(store):
    held = commit(store, "held", **REFUSED)
    start_run(store, None).path.joinpath("run.json").write_bytes(b"{}")
    run = start_run(store, held)
    assert run.path.name in refusal(store, held)


def test_a_mark_that_cannot_be_deleted_stays(store, monkeypatch):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    monkeypatch.setattr(os, "unlink", fail_with(errno.EROFS))
    message(DiskError, lambda: unmark_removed(store, held))
    assert store.snapshot().removed == {held.id}
