"""A snapshot of a store, while others come and go."""

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from helpers.stores import REFUSED, commit, fail_with, flip, message, start_run, train
from mlx_tune.errors import DamagedStoreError, DiskError
from mlx_tune.files.records import to_json
from mlx_tune.files.sealed import seal, sha256
from mlx_tune.store import session, snapshot
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.session import Session, folder_name, read_session
from mlx_tune.store.snapshot import StoreSnapshot
from mlx_tune.store.verify import verify


def deep(root: Path, count: int) -> list[Session]:
    """Return a chain, written by hand: the store would look through all of it at each commit."""
    chain: list[Session] = []
    for number in range(1, count + 1):
        record = {
            "schema": 1,
            "number": number,
            "name": "cs",
            "parent": chain[-1].id if chain else None,
            "verdict": "promote",
            "created": f"{number:09d}",
        }
        files = seal({"session.json": to_json(record, Path("session.json"))})
        path = root / "sessions" / folder_name(number, "cs", sha256(files["MANIFEST.sha256"]))
        path.mkdir(parents=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
        chain.append(read_session(path))
    return chain


@pytest.mark.parametrize(
    "moment", ["before its manifest", "before its listing", "before its record"]
)
def test_a_session_that_leaves_while_it_is_read_is_not_taken_for_damage(
    store, tmp_path, monkeypatch, moment
):
    """As a collection by another process would do; readers hold no lock."""
    first, held = train(store, "cs"), commit(store, "held", **REFUSED)
    opened, listed = os.open, os.scandir

    def leave() -> None:
        if held.path.exists():
            held.path.rename(tmp_path / "trash")

    def open_(path, *args, **kwargs):
        name = {"before its manifest": "MANIFEST.sha256", "before its record": "session.json"}
        if Path(path) == held.path / name.get(moment, "-"):
            leave()
        return opened(path, *args, **kwargs)

    def scandir(path):
        if Path(path) == held.path and moment == "before its listing":
            leave()
        return listed(path)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)
    found = store.snapshot()
    assert (list(found.sessions.values()), found.notes) == ([first], ())
    assert (tmp_path / "trash").is_dir()


def test_a_session_that_cannot_be_read_is_not_taken_for_damage(store, monkeypatch):
    first = train(store, "cs")
    monkeypatch.setattr(os, "scandir", fail_with(errno.EIO))
    assert message(DiskError, store.snapshot) == (
        f"cannot read {first.path}: input/output error; reading changes nothing; check the disk, "
        "then run the command again"
    )


def test_a_chain_of_ten_thousand_needs_no_deep_stack():
    ids = [f"{number:064x}" for number in range(10_000)]
    chain = [
        Session(
            path=Path(identity),
            id=identity,
            hashes={},
            number=1,
            name="cs",
            parent=parent,
            record={},
        )
        for identity, parent in zip(ids, [None, *ids], strict=False)
    ]
    found = StoreSnapshot(
        root=Path("s"), sessions={session.id: session for session in chain}, damaged={}
    )
    assert found.chain(chain[-1]) == chain


def test_a_long_chain_is_read_a_few_times_to_be_checked_however_long(store, monkeypatch):
    chain = deep(store.root, 60)
    (store.root / "HEAD").write_text(chain[-1].id)
    calls = []
    monkeypatch.setattr(
        session, "read_session", lambda path: (calls.append(1), read_session(path))[1]
    )
    assert store.snapshot().chain(chain[-1]) == chain
    assert len(calls) == 60
    calls.clear()
    found = verify(store.snapshot())
    assert (found.sessions, found.problems) == (60, [])
    assert len(calls) == 60


def test_the_way_back_from_a_long_damaged_chain_reads_each_session_once(store, monkeypatch):
    chain = deep(store.root, 60)
    root = store.root
    for before, after in itertools.pairwise(chain):
        with (root / "HEAD.log").open("a") as log:
            log.write(f"2026-01-01T00:00:00Z {before.id} {after.id} train\n")
    (root / "HEAD").write_text(chain[-1].id)
    damaged = seal({"session.json": b"{}"})  # sound by its manifest, and no session
    shutil.rmtree(chain[-1].path)
    chain[-1].path.mkdir()
    for name, data in damaged.items():
        (chain[-1].path / name).write_bytes(data)
    checked = []
    real = Session.verify
    monkeypatch.setattr(Session, "verify", lambda self: (checked.append(self.id), real(self))[1])
    assert f"go back to {chain[-2].folder_name} with" in message(
        DamagedStoreError, lambda: store.snapshot().head()
    )
    assert len(checked) == len(set(checked)) == 59


def test_a_damaged_session_is_noted_by_its_folder(store):
    first, second = train(store, "cs"), train(store, "dining")
    flip(first.path / "session.json")
    found = store.snapshot()
    assert found.sessions == {second.id: second}
    assert [str(first.path) in str(error) for error in found.damaged.values()] == [True]
    assert found.holds(first.id)
    assert not found.holds("0" * 64)


@pytest.mark.parametrize("folder", ["tags", "removed"])
def test_labels_that_cannot_be_read_fail_only_what_needs_them(store, monkeypatch, folder):
    first = train(store, "cs")
    held = commit(store, "held", first, **REFUSED)
    tag(store, "good", first)
    mark_removed(store, held)
    real = os.open

    def denied(path, *args, **kwargs):
        if Path(path).parent.name == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    found = store.snapshot()
    assert (found.head(), found.chain(first), found.notes) == (first, [first], ())
    needs = {"tags": lambda: found.find("cs"), "removed": lambda: found.is_removed(held)}
    assert f"cannot read {store.root / folder}" in message(DiskError, needs[folder])


def test_a_damaged_head_is_raised_when_it_is_asked_for(store):
    train(store, "cs")
    second = train(store, "dining")
    flip(second.path / "session.json")
    found = store.snapshot()
    assert found.head_id == second.id
    assert [session.name for session in found.sessions.values()] == ["cs"]
    assert str(found.head_error) == message(DamagedStoreError, found.head)
    assert len(found.notes) == 1  # the damage
    assert (found.head_notes, found.in_use) == ((), frozenset())


def test_a_snapshot_stays_as_it_was(store):
    first = train(store, "cs")
    found = store.snapshot()
    second = train(store, "dining")
    assert (found.head(), list(found.sessions)) == (first, [first.id])
    assert store.snapshot().head() == second


@pytest.mark.parametrize("folder", ["runs", "sessions"])
def test_a_folder_of_another_program_is_no_store(tmp_path, folder):
    (tmp_path / folder / "2026-lightning").mkdir(parents=True)
    (tmp_path / folder / "events.out").touch()
    assert f"{tmp_path}: no store is there" in message(
        DamagedStoreError, lambda: snapshot.read_store(tmp_path)
    )


def test_a_store_that_lost_all_but_one_kind_of_file_is_one(store):
    train(store, "cs")
    start_run(store, None)
    for name in ("format.json", "HEAD", "HEAD.log", "sessions", "runs"):
        copy = store.root.parent / name
        copy.mkdir()
        (store.root / name).rename(copy / name)
        assert snapshot.read_store(copy) is not None
