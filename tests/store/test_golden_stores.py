"""Golden stores: what any version ever wrote is read, gone on with, and kept."""

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest

from helpers.stores import commit, message, state
from mlx_tune.errors import IncompatibleError, UsageError
from mlx_tune.store import format as store_format
from mlx_tune.store import snapshot
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed, tag, unmark_removed
from mlx_tune.store.runs import Run, list_runs
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

GOLDEN = Path(__file__).parent.parent / "golden"
STORES = sorted(path for path in GOLDEN.glob("store-*") if path.is_dir())
UNKNOWN = {"of_a_newer_minor_version": {"kept": ["as it is", 1, 0.5, None, True]}}


@pytest.fixture(params=STORES, ids=lambda path: path.name)
def golden(request) -> Path:
    return request.param


@pytest.fixture
def copy(golden, tmp_path) -> SessionStore:
    shutil.copytree(golden, tmp_path / golden.name, symlinks=True)
    return SessionStore.open(tmp_path / golden.name)


def unfinished(root: Path) -> Run:
    (run,) = [run for run in list_runs(root) if run.is_unfinished]
    return run


def test_there_are_golden_stores():
    assert [path.name for path in STORES] == ["store-v1", "store-v1-removal"]


def test_a_golden_store_is_sound_and_reading_it_changes_nothing(golden):
    before = state(golden)
    store = SessionStore.open(golden)
    found = verify(store.snapshot())
    assert (found.sessions, found.files, found.problems, found.notes) == (3, 15, [], [])
    assert state(golden) == before


def test_a_golden_stores_chain_head_and_log_are_read(golden):
    store = SessionStore.open(golden)
    first, dining, tennis = (store.snapshot().find(name) for name in ("cs", "dining", "tennis"))
    assert store.snapshot().head() == dining
    assert store.snapshot().chain(dining) == [first, dining]
    assert store.snapshot().chain(tennis) == [first, tennis]
    assert [(move.old, move.new, move.why) for move in snapshot.head_moves(golden)] == [
        ("base", first.id, "train cs"),
        (first.id, dining.id, "train dining"),
    ]
    assert store.snapshot().base() == {"name": "tiny", "fingerprint": "5" * 64}
    assert (golden / "latest").readlink() == Path("sessions") / dining.folder_name
    assert (golden / "previous").readlink() == Path("sessions") / first.folder_name
    assert store.snapshot().notes == ()


def test_every_file_of_a_golden_session_is_read(golden):
    for session in SessionStore.open(golden).snapshot().sessions.values():
        files = {name: session.read(name) for name in session.hashes}
        assert sorted(files) == [
            "adapter_config.json",
            "adapters.safetensors",
            "data.jsonl",
            "session.json",
        ]
        assert json.loads(files["data.jsonl"])["question"] == f"Where is {session.name}?"
        assert session.record["of_a_newer_minor_version"] == UNKNOWN["of_a_newer_minor_version"]


def test_a_golden_run_and_its_checkpoints_are_read(golden):
    run = unfinished(golden)
    assert run.record["parent"] == SessionStore.open(golden).snapshot().head().id
    assert run.read("new.jsonl") == b'{"text": "a"}\n'
    assert [line["number"] for line in run.metrics()] == [1, 2, 3, 4]
    assert run.newest_checkpoint().step == 4
    assert run.checkpoint(2).read("state.json") == b'{"steps_done": 2}\n'
    assert run.notes == []


def test_a_golden_store_is_gone_on_with_and_all_that_was_there_stays(copy):
    before = state(copy.root)
    parent = copy.snapshot().head()
    session = commit(copy, "new", parent)
    copy.move_head(session, expected=parent, why="train new")
    tag(copy, "newest", session)
    unfinished(copy.root).set(phase="score")
    after = state(copy.root)
    changed = {path for path, data in before.items() if after.get(path) != data}
    run = unfinished(copy.root)
    place = str((run.path / "run.json").relative_to(copy.root))
    assert changed == {"HEAD", "HEAD.log", "latest", "previous", place}
    assert after["HEAD.log"].startswith(before["HEAD.log"])
    assert json.loads(after[place]) == {**json.loads(before[place]), "phase": "score"}
    assert copy.snapshot().chain(session)[:-1] == copy.snapshot().chain(parent)
    assert verify(copy.snapshot()).problems == []


def test_a_demand_made_of_a_golden_store_keeps_what_is_not_known(copy):
    before = json.loads((copy.root / "format.json").read_bytes())
    session = commit(copy, "new", copy.snapshot().head())
    mark_removed(copy, session)
    after = json.loads((copy.root / "format.json").read_bytes())
    assert after == {**before, "requires": ["removal"]}
    assert UNKNOWN.items() <= after.items()


def test_a_golden_store_is_collected(copy):
    for session in copy.snapshot().sessions.values():
        if session.id in copy.snapshot().removed:
            unmark_removed(copy, session)
    mark_removed(copy, copy.snapshot().find("tennis"))
    found = collect_garbage(copy, today=date(2026, 11, 23))
    assert [name[:12] for name in found.moved] == ["0002-tennis-"]
    assert [Path(place).name for place in found.deleted] == ["checkpoints"]
    assert verify(copy.snapshot()).problems == []


# The store with a mark and a tag


@pytest.fixture
def removal(tmp_path) -> SessionStore:
    shutil.copytree(GOLDEN / "store-v1-removal", tmp_path / "s", symlinks=True)
    return SessionStore.open(tmp_path / "s")


def test_the_golden_mark_and_tag_are_read(removal):
    tennis, first = removal.snapshot().find("tennis"), removal.snapshot().find("cs")
    assert removal.snapshot().removed == {tennis.id}
    assert removal.snapshot().tags == {"good": first.id}
    assert removal.snapshot().find("good") == first
    line = (
        f"{tennis.folder_name} is removed; "
        f"`mlx-tune rm --undo {tennis.id[:8]} --store {removal.root}` keeps it"
    )
    moved = lambda: removal.move_head(tennis, expected=removal.snapshot().head(), why="")  # noqa: E731 one call, named for the next line
    assert message(UsageError, moved) == line
    unmark_removed(removal, tennis)
    assert removal.snapshot().removed == set()


def test_a_version_that_knows_no_marks_refuses_the_golden_store_that_has_one(monkeypatch):
    monkeypatch.setattr(store_format, "FEATURES", frozenset())
    SessionStore.open(GOLDEN / "store-v1")
    assert "the store requires removal, unknown here" in message(
        IncompatibleError, lambda: SessionStore.open(GOLDEN / "store-v1-removal")
    )


@pytest.mark.parametrize("name", ["store-v1", "store-v1-removal"])
def test_todays_code_writes_the_newest_golden_stores_byte_for_byte(name, tmp_path, monkeypatch):
    """When it no longer does, the layout changed: make new ones beside these, and keep these."""
    monkeypatch.syspath_prepend(str(GOLDEN))
    import make_store

    written = state(make_store.write(tmp_path, name))
    monkeypatch.delitem(sys.modules, "make_store")
    assert written == state(GOLDEN / name)
