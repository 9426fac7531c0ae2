"""The store: what was committed stays, and HEAD says which of it is in use."""

import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.stores import (
    BASE,
    REFUSED,
    commit,
    make_huge,
    message,
    sessions_of,
    state,
    train,
)
from mlx_tune.errors import (
    DamagedStoreError,
    DiskError,
    IncompatibleError,
    LockedError,
    UsageError,
)
from mlx_tune.files.durable import UNTOUCHED
from mlx_tune.store import snapshot
from mlx_tune.store.store import SessionStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def store(root: Path) -> SessionStore:
    return SessionStore.open(root)


def moves(root: Path) -> list[tuple[str, str, str]]:
    return [(move.old, move.new, move.why) for move in snapshot.head_moves(root)]


# A new store


def test_looking_at_a_store_that_is_not_there_creates_nothing(store, root):
    found = store.snapshot()
    assert (found.head(), found.sessions, found.base(), found.chain(None)) == (None, {}, None, [])
    assert found.find("base") is None
    assert found.notes == ()
    assert not root.exists()


def test_the_first_commit_writes_the_format_and_a_head_on_the_base(store, root):
    session = commit(store, "cs")
    assert json.loads((root / "format.json").read_bytes()) == {"version": 1, "requires": []}
    assert (root / "HEAD").read_bytes() == b"base\n"
    assert (store.snapshot().head(), store.snapshot().notes) == (None, ())
    assert sessions_of(store) == [session]


def test_a_session_is_stored_with_all_that_was_given_and_its_place_in_the_lineage(store, root):
    first = train(store, "cs")
    second = store.commit(
        name="dining", parent=first, record={"verdict": "promote", "x": "ü"}, files={"a": b"1"}
    )
    assert second.path == root / "sessions" / f"0002-dining-{second.id[:8]}"
    assert second.record == {
        "schema": 1,
        "number": 2,
        "name": "dining",
        "parent": first.id,
        "verdict": "promote",
        "x": "ü",
    }
    assert (second.number, second.name, second.parent) == (2, "dining", first.id)
    assert sorted(path.name for path in second.path.iterdir()) == [
        "MANIFEST.sha256",
        "a",
        "session.json",
    ]
    assert second.read("session.json").decode() == (
        '{\n  "name": "dining",\n  "number": 2,\n  "parent": "' + first.id + '",\n'
        '  "schema": 1,\n  "verdict": "promote",\n  "x": "ü"\n}\n'
    )
    second.verify()


def test_a_sessions_id_covers_its_parents_id(store):
    left, right = train(store, "left"), commit(store, "right")
    on_left, on_right = commit(store, "same", left), commit(store, "same", right)
    assert on_left.hashes["data.jsonl"] == on_right.hashes["data.jsonl"]
    assert on_left.id != on_right.id


def test_the_very_same_commit_again_gives_the_session_already_there(store, root):
    first = commit(store, "cs")
    before = state(root)
    assert commit(store, "cs") == first
    assert state(root) == before


def test_the_same_commit_again_is_refused_where_the_first_is_damaged(store):
    first = commit(store, "cs")
    (first.path / "data.jsonl").write_bytes(b"other")
    assert str(first.path / "data.jsonl") in message(DamagedStoreError, lambda: commit(store, "cs"))


def test_a_bad_name_is_refused_before_anything_is_written(store, root):
    assert message(UsageError, lambda: commit(store, "../x")) == (
        'session name "../x" is not allowed; a name matches [a-z0-9][a-z0-9-]{0,39}; try "x"'
    )
    assert not root.exists()


@pytest.mark.parametrize(
    ("record", "files", "line"),
    [
        ({"parent": None, "name": "x"}, {}, "the record of a session: name, parent"),
        ({}, {"session.json": b"{}"}, "the files of a session: session.json"),
        ({}, {"MANIFEST.sha256": b""}, "the files of a session: MANIFEST.sha256"),
    ],
)
def test_what_the_store_writes_itself_cannot_be_given(store, root, record, files, line):
    call = lambda: store.commit(name="cs", parent=None, record=record, files=files)  # noqa: E731 one call, named for the next line
    assert message(UsageError, call) == f"{line} is mlx-tune's to write; leave it out"
    assert not root.exists()


def test_a_record_with_a_nan_is_refused_and_the_number_located(store, root):
    call = lambda: commit(store, "cs", scores={"loss": [1.0, float("nan")]})  # noqa: E731 as above
    assert message(UsageError, call) == (
        'session.json: "scores.loss[1]" is nan, which JSON cannot hold; leave it out'
    )
    assert not root.exists()


def test_a_parent_from_another_store_is_refused(store, tmp_path):
    stranger = commit(SessionStore.open(tmp_path / "other"), "cs")
    line = (
        f"{stranger.folder_name} is not, or no longer, in {store.root}; "
        f"run `mlx-tune doctor --store {store.root}`"
    )
    assert message(DamagedStoreError, lambda: commit(store, "dining", stranger)) == line
    assert store.snapshot().sessions == {}


# The format


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        (
            '{"version": 2, "requires": []}',
            IncompatibleError,
            "the store has version 2, this mlx-tune reads up to 1; upgrade mlx-tune",
        ),
        (
            '{"version": 1, "requires": ["deltas", "zstd"]}',
            IncompatibleError,
            "the store requires deltas, zstd, unknown here; upgrade mlx-tune",
        ),
        (
            '{"version": "1"}',
            DamagedStoreError,
            'expected {"version": 1, "requires": []}; run `mlx-tune doctor`',
        ),
        (
            "",
            DamagedStoreError,
            "not valid JSON (Expecting value: line 1 column 1 (char 0)); run `mlx-tune doctor`",
        ),
    ],
)
def test_a_store_of_another_format_is_neither_opened_nor_read_nor_written(
    store, root, text, error, line
):
    session = commit(store, "cs")
    (root / "format.json").write_text(text)
    for call in (
        lambda: SessionStore.open(root),
        store.snapshot,
        lambda: commit(store, "dining"),
        lambda: store.move_head(session, expected=None, why=""),
    ):
        assert message(error, call) == f"{root / 'format.json'}: {line}"
    assert len(list((root / "sessions").iterdir())) == 1


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "data.json").write_bytes(b"[]")
    assert message(UsageError, lambda: SessionStore.open(tmp_path / "data.json")) == (
        f"{tmp_path / 'data.json'} is not a folder, so no store can be there; name another"
    )


# HEAD


def test_head_moves_are_logged_and_shown_by_links(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    assert (root / "HEAD").read_text() == f"{second.id}\n"
    assert store.snapshot().head() == second
    assert moves(root) == [
        ("base", first.id, "train cs"),
        (first.id, second.id, "train dining"),
    ]
    assert str((root / "latest").readlink()) == f"sessions/{second.folder_name}"
    assert str((root / "previous").readlink()) == f"sessions/{first.folder_name}"


def test_a_line_of_the_log_has_its_time_in_utc_and_one_line_of_reason(store, root):
    first = commit(store, "cs")
    store.move_head(first, expected=None, why="why\n not\x1b[2J")
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ base {first.id} why not·\[2J\n",
        (root / "HEAD.log").read_text(),
    )


def test_rolling_back_goes_to_the_parent_then_to_the_base_and_deletes_nothing(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    store.move_head(first, expected=second, why="rollback")
    assert store.snapshot().head() == first
    store.move_head(None, expected=first, why="rollback")
    assert store.snapshot().head() is None
    assert (root / "HEAD").read_text() == "base\n"
    assert not (root / "latest").is_symlink()
    assert (root / "previous").resolve() == first.path.resolve()
    assert sessions_of(store) == [first, second]
    assert [new for _, new, _ in moves(root)] == [first.id, second.id, first.id, "base"]


def test_training_after_a_rollback_starts_a_branch(store):
    first, second = train(store, "cs"), train(store, "dining")
    store.move_head(first, expected=second, why="rollback")
    branch = train(store, "tennis")
    assert (branch.number, branch.parent) == (2, first.id)
    assert store.snapshot().chain(branch) == [first, branch]
    assert store.snapshot().chain(second) == [first, second]
    assert sessions_of(store) == [first, *sorted([second, branch], key=lambda s: s.id)]


def test_sessions_are_listed_by_number_then_id(store):
    first = train(store, "zebra")
    branches = [commit(store, name, first) for name in ("a", "b", "c", "d", "e")]
    assert sessions_of(store) == [first, *sorted(branches, key=lambda session: session.id)]


def test_a_second_writers_move_is_refused_and_both_sessions_exist(root):
    ours, theirs = SessionStore.open(root), SessionStore.open(root)
    start = train(ours, "start")
    mine, other = commit(ours, "mine", start), commit(theirs, "other", start)
    theirs.move_head(other, expected=start, why="theirs")
    assert message(LockedError, lambda: ours.move_head(mine, expected=start, why="ours")) == (
        f"HEAD moved meanwhile from {start.folder_name} to {other.folder_name}, so it was not "
        f"moved to {mine.folder_name}; {mine.folder_name} is committed and safe; "
        f"look at `mlx-tune log --store {root}` and decide again"
    )
    assert ours.snapshot().head() == other
    assert {session.name for session in ours.snapshot().sessions.values()} == {
        "start",
        "mine",
        "other",
    }
    assert [why for _, _, why in moves(root)] == ["train start", "theirs"]


def test_head_cannot_move_to_a_session_of_another_store(store, tmp_path):
    train(store, "cs")
    stranger = commit(SessionStore.open(tmp_path / "other"), "dining")
    before = state(store.root)
    call = lambda: store.move_head(stranger, expected=store.snapshot().head(), why="")  # noqa: E731 as above
    assert f"{stranger.folder_name} is not, or no longer, in" in message(DamagedStoreError, call)
    assert state(store.root) == before


def test_head_cannot_move_onto_a_broken_chain(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    third = commit(store, "tennis", second)
    shutil.rmtree(first.path)
    before = state(root)
    call = lambda: store.move_head(third, expected=second, why="")  # noqa: E731 as above
    assert "its parent" in message(DamagedStoreError, call)
    assert state(root) == before


def test_a_persons_file_called_latest_is_not_removed(store, root):
    first = train(store, "cs")
    (root / "latest").unlink()
    (root / "latest").write_bytes(b"mine")
    store.move_head(None, expected=first, why="rollback")
    assert (root / "latest").read_bytes() == b"mine"


def test_leaving_a_damaged_head_does_not_undo_anothers_way_out(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    whole = (second.path / "session.json").read_bytes()
    (second.path / "session.json").write_bytes(b"{}")
    SessionStore.open(root).leave_damaged_head(None, why="theirs")
    (second.path / "session.json").write_bytes(whole)
    assert message(LockedError, lambda: store.leave_damaged_head(first, why="ours")) == (
        f"HEAD is on base by now, which is sound, so it was not moved to {first.folder_name}; "
        f"look at `mlx-tune log --store {store.root}` and decide again"
    )
    assert store.snapshot().head() is None
    assert moves(root)[-1] == (second.id, "base", "theirs")


def test_links_are_never_trusted_and_their_failure_is_ignored(store, root):
    first = train(store, "cs")
    (root / "latest").unlink()
    (root / "latest").mkdir()
    (root / "latest" / "mine").write_bytes(b"a person's file")
    second = train(store, "dining")
    assert store.snapshot().head() == second
    assert (root / "latest" / "mine").read_bytes() == b"a person's file"
    assert (root / "previous").resolve() == first.path.resolve()
    assert not list(root.glob(".latest*"))


def test_head_may_lack_its_line_break(store, root):
    first = train(store, "cs")
    (root / "HEAD").write_text(first.id)
    assert (store.snapshot().head(), store.snapshot().notes) == (first, ())


# A HEAD that is lost


def lose(root: Path) -> None:
    (root / "HEAD").unlink()


def empty(root: Path) -> None:
    (root / "HEAD").write_bytes(b"")


def garble(root: Path) -> None:
    (root / "HEAD").write_bytes(b"\xff\x00garbage")


def put_a_folder(root: Path) -> None:
    (root / "HEAD").unlink()
    (root / "HEAD").mkdir()


def link_elsewhere(root: Path) -> None:
    word = (root / "HEAD").read_text()
    (root / "HEAD").unlink()
    (root / "word").write_text(word)
    (root / "HEAD").symlink_to("word")


def fill(root: Path) -> None:
    make_huge(root / "HEAD")


@pytest.mark.parametrize("spoil", [lose, empty, garble, put_a_folder, link_elsewhere, fill])
def test_a_lost_head_is_rebuilt_from_the_log_and_said_aloud(store, root, spoil):
    first, second = train(store, "cs"), train(store, "dining")
    store.move_head(first, expected=second, why="rollback")
    spoil(root)
    assert store.snapshot().head() == first
    assert store.snapshot().head() == first  # and is noted once
    assert store.snapshot().notes == (
        f"{root / 'HEAD'} is missing or holds no session's id; going on from {first.folder_name}, "
        f"by the last sound line of HEAD.log; if that is wrong, "
        f"`mlx-tune rollback --to SESSION --store {store.root}`",
    )


def test_a_head_whose_session_is_gone_is_damage_and_nothing_answers_in_its_place(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    shutil.rmtree(second.path)
    found = store.snapshot()
    assert message(DamagedStoreError, found.head) == (
        f"{root / 'sessions'}: {second.id[:12]}… is missing; HEAD names it, so go back to "
        f"{first.folder_name} with `mlx-tune rollback --to {first.id[:8]} --store {root}`"
    )
    assert (found.head_id, found.notes, found.in_use) == (second.id, (), frozenset())
    store.leave_damaged_head(first, why="rollback")
    assert store.snapshot().head() == first
    assert moves(root)[-1] == (second.id, first.id, "rollback")


@pytest.mark.parametrize("spoil", [lambda root: None, lose, garble])
def test_where_every_session_is_gone_the_base_is_taken_by_name_alone(store, root, spoil):
    train(store, "cs")
    store.move_head(None, expected=store.snapshot().head(), why="rollback")
    last = train(store, "dining")
    shutil.rmtree(root / "sessions")
    spoil(root)
    said = message(DamagedStoreError, store.snapshot().head)
    assert last.id[:12] in said
    assert f"go back to base with `mlx-tune rollback --to base --store {root}`" in said
    assert ("HEAD names it" in said) == (spoil not in (lose, garble))
    assert store.snapshot().notes == ()
    store.leave_damaged_head(None, why="rollback")
    assert (store.snapshot().head(), store.snapshot().notes) == (None, ())


def test_the_way_back_from_a_missing_head_without_a_log_is_the_newest_promoted(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    shutil.rmtree(second.path)
    (root / "HEAD.log").unlink()
    said = message(DamagedStoreError, store.snapshot().head)
    assert f"go back to {first.folder_name} with" in said


def test_torn_and_foreign_lines_of_the_log_are_passed_over(store, root):
    first, second = train(store, "cs"), train(store, "dining")
    with (root / "HEAD.log").open("ab") as log:
        log.write(f"2026-01-01T00:00:00Z {second.id} {'0' * 64} gone\n".encode())
        log.write(f"not a time {second.id} {first.id} why\n".encode())
        log.write(f"2026-01-01T00:00:00Z {second.id} {first.id[:9]}".encode())
    lose(root)
    assert store.snapshot().head() == second


def test_a_log_that_ends_on_the_base_rebuilds_the_base(store, root):
    first = train(store, "cs")
    store.move_head(None, expected=first, why="rollback")
    lose(root)
    assert store.snapshot().head() is None
    assert "going on from base, by the last sound line of HEAD.log" in store.snapshot().notes[0]


def test_without_a_log_the_newest_promoted_session_is_head(store, root):
    train(store, "cs")
    promoted = train(store, "dining")
    commit(store, "held", promoted, **REFUSED)
    lose(root)
    (root / "HEAD.log").unlink()
    assert store.snapshot().head() == promoted
    assert "by the newest session that was promoted" in store.snapshot().notes[0]


def test_with_nothing_promoted_a_lost_head_is_the_base(store, root):
    commit(store, "held", **REFUSED)
    lose(root)
    assert store.snapshot().head() is None
    assert "going on from base" in store.snapshot().notes[0]


def test_a_commit_does_not_paper_over_a_lost_head(store, root):
    first = train(store, "cs")
    lose(root)
    commit(store, "dining", first)
    assert not (root / "HEAD").exists()
    assert store.snapshot().head() == first


def test_moving_a_rebuilt_head_writes_it_again(store, root):
    first = train(store, "cs")
    garble(root)
    second = commit(store, "dining", first)
    store.move_head(second, expected=store.snapshot().head(), why="train")
    assert SessionStore.open(root).snapshot().head() == second
    assert (root / "HEAD").read_text() == f"{second.id}\n"


def test_a_training_writes_a_head_that_was_lost_with_its_log(store, root):
    """Its own session is then the newest promoted, where HEAD is taken to be."""
    first = train(store, "cs", verdict="promote", created="2026-01-01")
    lose(root)
    (root / "HEAD.log").unlink()
    second = train(store, "dining", verdict="promote", created="2026-01-02")
    assert (root / "HEAD").read_text() == f"{second.id}\n"
    assert moves(root) == [(first.id, second.id, "train dining")]


def test_a_move_that_was_made_already_changes_nothing(store, root):
    first = train(store, "cs")
    second = train(store, "dining")
    before = state(root)
    store.move_head(second, expected=first, why="train dining")
    assert state(root) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(garbage=st.binary(max_size=200) | st.from_regex(rb"\A[0-9a-f]{60,68}\n?\Z"))
def test_any_garbage_in_head_leads_back_to_the_session_in_use(tmp_path, garbage):
    """An id is no garbage: its session is missing."""
    store = SessionStore.open(tmp_path / "store")
    current = store.snapshot().head() or train(store, "cs")
    whole = f"{current.id}\n".encode()
    (store.root / "HEAD").write_bytes(garbage)
    found = SessionStore.open(store.root).snapshot()
    try:
        if re.fullmatch(rb"[0-9a-f]{64}\n?", garbage) and not found.holds(garbage[:64].decode()):
            message(DamagedStoreError, found.head)
        else:
            assert found.head() == (None if garbage.strip() == b"base" else current)
    finally:
        (store.root / "HEAD").write_bytes(whole)


@pytest.mark.parametrize("file", ["MANIFEST.sha256", "session.json"])
def test_a_head_on_a_damaged_session_is_an_error_and_not_a_guess(store, file):
    train(store, "cs")
    second = train(store, "dining")
    (second.path / file).write_bytes(b"x")
    assert str(second.path / file) in message(DamagedStoreError, lambda: store.snapshot().head())


def test_a_head_that_cannot_be_read_is_no_reason_to_guess(store, root, monkeypatch):
    train(store, "cs")
    real_open = os.open

    def denied(path, *args, **kwargs):
        if Path(path) == root / "HEAD":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    assert f"cannot read {root / 'HEAD'}: permission denied" in message(
        DiskError, lambda: store.snapshot().head()
    )


# Chains


def test_a_chain_runs_from_the_root_to_the_session(store):
    sessions = [train(store, name) for name in ("cs", "dining", "tennis", "chess")]
    assert store.snapshot().chain(sessions[-1]) == sessions
    assert store.snapshot().chain(sessions[1]) == sessions[:2]
    assert [session.number for session in sessions] == [1, 2, 3, 4]


def test_a_missing_parent_is_named(store):
    first, second = train(store, "cs"), train(store, "dining")
    shutil.rmtree(first.path)
    assert message(DamagedStoreError, lambda: store.snapshot().chain(second)) == (
        f"{second.path}: its parent {first.id[:12]}… is missing from the store; "
        f"run `mlx-tune doctor --store {store.root}`; go back to base with "
        f"`mlx-tune rollback --to base --store {store.root}`"
    )


def test_a_damaged_parent_is_named_with_its_damage(store):
    first, second = train(store, "cs"), train(store, "dining")
    (first.path / "session.json").write_bytes(b"{}")
    assert str(first.path / "session.json") in message(
        DamagedStoreError, lambda: store.snapshot().chain(second)
    )


def test_a_circle_of_parents_is_named_and_ends(store):
    first, second = train(store, "cs"), train(store, "dining")
    forged = dataclasses.replace(first, parent=second.id)
    assert message(DamagedStoreError, lambda: store.snapshot().chain(forged)) == (
        f"{first.path}: is its own ancestor; run `mlx-tune doctor --store {store.root}`; "
        f"go back to {second.folder_name} with "
        f"`mlx-tune rollback --to {second.id[:8]} --store {store.root}`"
    )


def test_a_damaged_session_beside_the_chain_is_noted_and_passed_over(store, root):
    first = train(store, "cs")
    aside = commit(store, "aside", first, **REFUSED)
    (aside.path / "session.json").unlink()
    (root / "sessions" / "0009-fake-00000000").symlink_to(first.path)
    assert sessions_of(store) == [first]
    assert store.snapshot().head() == first
    assert store.snapshot().notes == (
        f"{aside.path}: session.json is missing; run `mlx-tune doctor`",
        f"{root / 'sessions' / '0009-fake-00000000'}: not a folder; run `mlx-tune doctor`",
    )


def test_a_copy_of_a_session_under_another_name_is_not_taken_for_it(store, root):
    first = train(store, "cs")
    shutil.copytree(first.path, root / "sessions" / f"0007-cs-{'0' * 8}")
    assert sessions_of(store) == [first]
    assert f"belong to {first.folder_name}" in store.snapshot().notes[0]


# Finding sessions


def test_a_session_is_found_by_number_name_folder_and_piece_of_its_id(store):
    first, second = train(store, "cs"), train(store, "dining")
    for ref in ("2", "0002", "dining", second.folder_name, second.id, second.id[:12]):
        assert store.snapshot().find(ref) == second, ref
    assert store.snapshot().find(first.id[:4]) == first
    assert store.snapshot().find("base") is None


def test_three_digits_of_an_id_are_too_few(store):
    first = train(store, "cs")
    letters = next(first.id[:n] for n in range(3, 0, -1) if first.id[:n] not in {"1", "01", "001"})
    assert "no session" in message(UsageError, lambda: store.snapshot().find(letters))


def test_a_name_that_means_several_sessions_lists_them(store):
    first = train(store, "cs")
    second = train(store, "cs")
    assert message(UsageError, lambda: store.snapshot().find("cs")) == (
        f'"cs" means 2 sessions: {first.folder_name}, {second.folder_name}; '
        "give the whole of one of these"
    )


def test_a_number_that_is_also_a_name_is_not_guessed(store):
    first = train(store, "2")
    second = train(store, "dining")
    line = message(UsageError, lambda: store.snapshot().find("2"))
    assert first.folder_name in line
    assert second.folder_name in line


@pytest.mark.parametrize("ref", ["", "7", "tennis", "../cs", "0" * 64, "9" * 5000])
def test_an_unknown_session_names_those_there_are(store, ref):
    first = train(store, "cs")
    line = message(UsageError, lambda: store.snapshot().find(ref))
    assert line.startswith('no session "')
    assert line.endswith(f" in {store.root}; there are base, {first.folder_name}")


def test_a_long_store_names_its_newest_sessions_only(store):
    sessions = [train(store, f"s{index}") for index in range(12)]
    shown = ", ".join(session.folder_name for session in sessions[2:])
    assert message(UsageError, lambda: store.snapshot().find("x")) == (
        f'no session "x" in {store.root}; there are base, 2 older, {shown}'
    )


# The base


def test_the_base_is_heads_else_that_of_any_session(store):
    held = commit(store, "held", **REFUSED)
    assert store.snapshot().head() is None
    assert store.snapshot().base() == BASE
    other = commit(store, "other", held, base={"name": "b", "fingerprint": "0"})
    store.move_head(held, expected=None, why="promote")
    assert store.snapshot().base() == BASE
    store.move_head(other, expected=held, why="promote")
    assert store.snapshot().base() == {"name": "b", "fingerprint": "0"}


# Failing disks


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_moment_of_a_commit_leaves_no_session_or_a_whole_one(
    tmp_path, monkeypatch, call, code
):
    real = getattr(os, call)
    for moment in range(1, 100):
        store = SessionStore.open(tmp_path / str(moment))
        first = train(store, "cs")
        before = state(store.root)
        failed = fail_at(moment, monkeypatch, call, real, code)
        raised = raises_disk_error(lambda store=store, first=first: commit(store, "dining", first))
        assert raised == bool(failed)
        monkeypatch.setattr(os, call, real)
        after = SessionStore.open(store.root)
        assert after.snapshot().head() == first
        extra = [session for session in after.snapshot().sessions.values() if session != first]
        assert all(session.verify() is None for session in extra)
        assert after.snapshot().notes == ()
        if not failed:
            break
        if not extra:
            assert state(store.root) == before
        assert commit(after, "dining", first).parent == first.id
    assert moment > 3
    assert not failed


def raises_disk_error(call) -> bool:
    try:
        call()
    except DiskError:
        return True
    return False


def fail_at(moment, monkeypatch, call, real, code) -> list[int]:
    """Let the given system call fail once, the moment-th time; return a list that tells."""
    counted, failed = [0], []

    def counting(*args):
        counted[0] += 1
        if counted[0] == moment:
            failed.append(moment)
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, call, counting)
    return failed


def test_a_full_disk_is_told_in_one_line_and_leaves_no_session_and_head_as_it_was(
    store, root, monkeypatch
):
    first = train(store, "cs")
    before = state(root)
    fail_at(1, monkeypatch, "write", os.write, errno.ENOSPC)
    line = message(DiskError, lambda: commit(store, "dining", first))
    assert re.fullmatch(
        re.escape(f"cannot write {root / 'sessions'}/0002-dining-")
        + "[0-9a-f]{8}"
        + re.escape(
            f": no space left on device; {UNTOUCHED}; free some space, then run the command again"
        ),
        line,
    )
    assert state(root) == before
    assert list((root / ".tmp").iterdir()) == []


def test_a_full_disk_at_the_first_commit_leaves_an_empty_store(store, root, monkeypatch):
    for moment in range(1, 6):
        with monkeypatch.context() as patch:
            fail_at(moment, patch, "write", os.write, errno.ENOSPC)
            message(DiskError, lambda: commit(store, "cs"))
        found = store.snapshot()
        assert (found.head(), found.sessions, found.notes) == (None, {}, ())
        shutil.rmtree(root)
    assert commit(store, "cs").number == 1


def test_a_full_disk_while_head_moves_leaves_it_where_it_was(store, root, monkeypatch):
    first = train(store, "cs")
    second = commit(store, "dining", first)
    before = state(root)
    fail_at(1, monkeypatch, "write", os.write, errno.ENOSPC)
    message(DiskError, lambda: store.move_head(second, expected=first, why="train"))
    assert state(root) == before
    assert store.snapshot().head() == first


def test_a_full_disk_at_the_log_says_that_head_did_move(store, root, monkeypatch):
    first = train(store, "cs")
    second = commit(store, "dining", first)
    fail_at(2, monkeypatch, "write", os.write, errno.ENOSPC)
    assert message(DiskError, lambda: store.move_head(second, expected=first, why="train")) == (
        f"cannot append to {root / 'HEAD.log'}: no space left on device; HEAD did move to "
        f"{second.id[:12]}, only this line is missing; free some space, then run the command again"
    )
    assert store.snapshot().head() == second


def test_head_can_be_named(tmp_path):
    store = SessionStore.open(tmp_path / "store")
    session = store.commit(name="cs", parent=None, record={}, files={"a.txt": b"1"})
    assert store.snapshot().find("HEAD") is None
    store.move_head(session, expected=None, why="test")
    assert store.snapshot().find("HEAD") == session
