"""Races: readers hold no lock, and where there are none, writers overtake each other too."""

import errno
import json
import os
from datetime import date

import pytest

from helpers.stores import BASE, REFUSED, commit, fail_with, names, train, unlock
from mlx_tune.files import durable
from mlx_tune.files.durable import create_file
from mlx_tune.store import format as store_format
from mlx_tune.store import snapshot
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed
from mlx_tune.store.store import SessionStore, start_head, write_head
from mlx_tune.store.verify import verify


def after_a_scan(monkeypatch: pytest.MonkeyPatch, act) -> None:
    """Let something happen once, right after the next look at the sessions."""
    real = snapshot.scan_sessions

    def scan(root):
        found = real(root)
        monkeypatch.setattr(snapshot, "scan_sessions", real)
        act()
        return found

    monkeypatch.setattr(snapshot, "scan_sessions", scan)


def test_a_training_that_ends_while_somebody_looks_does_not_look_like_a_lost_head(
    store, monkeypatch
):
    train(store, "cs")
    made = []
    after_a_scan(monkeypatch, lambda: made.append(train(SessionStore.open(store.root), "dining")))
    found = store.snapshot()
    assert len(made) == 1  # it ended while the snapshot was read
    assert found.head() in store.snapshot().chain(made[0])
    assert found.notes == ()
    assert store.snapshot().head() == made[0]


def test_a_first_training_that_ends_while_somebody_looks_is_no_lost_head_either(store, monkeypatch):
    after_a_scan(monkeypatch, lambda: train(SessionStore.open(store.root), "cs"))
    found = store.snapshot()
    assert (found.head().name, found.notes) == ("cs", ())


def test_the_base_is_found_while_a_training_ends(store, monkeypatch):
    train(store, "cs")
    after_a_scan(monkeypatch, lambda: train(SessionStore.open(store.root), "dining"))
    found = store.snapshot()
    assert (found.base(), found.notes) == (BASE, ())


def test_a_collection_that_ends_while_somebody_looks_is_no_damage(store, monkeypatch):
    train(store, "cs")
    held = commit(store, "held", store.snapshot().head(), **REFUSED)
    mark_removed(store, held)

    def gc() -> None:
        collect_garbage(SessionStore.open(store.root), today=date(2026, 11, 23))

    after_a_scan(monkeypatch, gc)
    found = verify(store.snapshot())
    assert (found.problems, found.notes, found.sessions) == ([], [], 1)


def test_a_head_that_is_left_and_collected_while_somebody_looks_is_no_damage(store, monkeypatch):
    first, second = train(store, "cs"), train(store, "dining")

    def leave() -> None:
        other = SessionStore.open(store.root)
        other.move_head(first, expected=second, why="rollback")
        mark_removed(other, second)
        collect_garbage(other, today=date(2026, 11, 23))

    after_a_scan(monkeypatch, leave)
    found = verify(store.snapshot())
    assert not second.path.exists()
    assert (found.problems, found.notes, found.sessions) == ([], [], 1)


@pytest.mark.parametrize("name", ["HEAD", "format.json"])
def test_two_first_commits_at_once_do_not_undo_each_other(store, monkeypatch, name):
    """One is about to put a file of the store in place when the other has gone on."""
    unlock(monkeypatch)
    other = SessionStore.open(store.root)
    real = durable._write_file
    made = []

    def write_file(path, *args):
        real(path, *args)
        if path.name.startswith(f".{name}.") and not made:
            made.append(None)
            made[0] = train(other, "theirs")
            held = commit(other, "held", **REFUSED)
            mark_removed(other, held)

    monkeypatch.setattr(durable, "_write_file", write_file)
    commit(store, "ours")
    assert store.snapshot().head() == made[0]
    assert json.loads((store.root / "format.json").read_bytes())["requires"] == ["removal"]
    assert [path for path in names(store.root) if path.startswith((".HEAD", ".format"))] == []
    assert store.snapshot().notes == ()


def test_a_file_is_created_once(tmp_path):
    create_file(tmp_path / "f", b"first")
    create_file(tmp_path / "f", b"second")
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_on_a_disk_without_hard_links_a_file_is_created_nonetheless(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", fail_with(code))
    create_file(tmp_path / "f", b"first")
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


def test_a_link_to_nowhere_is_something_that_is_there(tmp_path):
    (tmp_path / "f").symlink_to("nowhere")
    create_file(tmp_path / "f", b"first")
    assert names(tmp_path) == ["f"]
    assert not (tmp_path / "nowhere").exists()


def test_the_stores_own_files_are_created_so(tmp_path):
    start_head(tmp_path)
    store_format.write(tmp_path)
    write_head(tmp_path, "0" * 64)
    start_head(tmp_path)
    assert snapshot.read_head(tmp_path) == "0" * 64
