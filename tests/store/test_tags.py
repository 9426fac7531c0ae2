"""Tags: a person's names for sessions, which never hide another session's own."""

import errno
import os

import pytest

from helpers.stores import (
    REFUSED,
    commit,
    fail_with,
    flip,
    message,
    names,
    sessions_of,
    state,
    train,
)
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, UsageError
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import check_untagged, mark_removed, tag, untag


def test_a_tag_means_its_session(store):
    first, second = train(store, "cs"), train(store, "dining")
    tag(store, "good", first)
    assert store.snapshot().tags == {"good": first.id}
    assert store.snapshot().find("good") == first
    assert store.snapshot().head() == second


def test_a_tag_moves(store):
    first, second = train(store, "cs"), train(store, "dining")
    tag(store, "good", first)
    tag(store, "good", second)
    assert store.snapshot().tags == {"good": second.id}


def test_a_session_may_have_several_tags_and_its_own_name_for_one(store):
    first = train(store, "cs")
    for name in ("cs", "good", "a-b"):
        tag(store, name, first)
    assert store.snapshot().tags == {"a-b": first.id, "cs": first.id, "good": first.id}


def test_a_tag_taken_away_leaves_its_session(store):
    first = train(store, "cs")
    tag(store, "good", first)
    untag(store, "good")
    assert store.snapshot().tags == {}
    assert sessions_of(store) == [first]


def test_tagging_changes_nothing_else(store):
    first = train(store, "cs")
    before = state(store.root)
    tag(store, "good", first)
    assert state(store.root) == {**before, "tags/": "", "tags/good": first.id.encode() + b"\n"}
    untag(store, "good")
    assert state(store.root) == {**before, "tags/": ""}


def test_an_unknown_tag_names_those_there_are(store):
    assert message(UsageError, lambda: untag(store, "good")) == 'no tag "good"; there are none'
    first = train(store, "cs")
    tag(store, "good", first)
    tag(store, "best", first)
    before = state(store.root)
    assert message(UsageError, lambda: untag(store, "../HEAD")) == (
        'no tag "../HEAD"; there are best, good'
    )
    assert state(store.root) == before


@pytest.mark.parametrize("name", ["", "Good", "a/b", "../x", ".hidden", "a\nb", "é", "x" * 41])
def test_a_tag_needs_an_allowed_name(store, name):
    first = train(store, "cs")
    line = message(UsageError, lambda: tag(store, name, first))
    assert "is not allowed; a name matches [a-z0-9][a-z0-9-]{0,39}; try" in line
    assert names(store.root / "tags") == []


@pytest.mark.parametrize(
    ("name", "means"), [("base", "the bare base model"), ("head", "the session in use")]
)
def test_what_always_means_something_else_is_no_tag(store, name, means):
    first = train(store, "cs")
    assert f"it means {means}" in message(UsageError, lambda: tag(store, name, first))


@pytest.mark.parametrize("name", ["1", "0002", "99999", "beef", "deadbeef", "0" * 40])
def test_a_tag_is_nothing_that_could_be_a_number_or_an_id(store, name):
    first = train(store, "cs")
    assert message(UsageError, lambda: tag(store, name, first)) == (
        f'tag "{name}" could be taken for a session\'s number or id; put a word to it'
    )


@pytest.mark.parametrize("name", ["bee", "2nd", "beef-2", "v1"])
def test_a_tag_may_look_a_little_like_one(store, name):
    tag(store, name, train(store, "cs"))
    assert names(store.root / "tags") == [name]


def test_a_tag_is_no_folder_of_a_session_there_is_or_will_be(store):
    first, second = train(store, "cs"), train(store, "dining")
    for name in (second.folder_name, "0003-tennis-0123abcd", "12345-x-y-0123abcd"):
        assert message(UsageError, lambda name=name: tag(store, name, first)) == (
            f'tag "{name}" could be taken for a session\'s number or id; put a word to it'
        )
    assert store.snapshot().find(second.folder_name) == second


def test_a_tag_does_not_hide_another_session_of_that_name(store):
    first, second = train(store, "cs"), train(store, "dining")
    assert message(UsageError, lambda: tag(store, "dining", first)) == (
        f'tag "dining": {second.folder_name} is called that; choose another'
    )


def test_a_session_named_like_a_tag_of_another_is_one_of_two(store):
    """As a run may be that was begun before the tag was given, or a store of an earlier version."""
    first = train(store, "cs")
    tag(store, "best", first)
    second = train(store, "best")
    assert message(UsageError, lambda: store.snapshot().find("best")) == (
        f'"best" means 2 sessions: {first.folder_name}, {second.folder_name}; give the whole of '
        "one of these"
    )
    assert store.snapshot().find(second.folder_name) == second
    untag(store, "best")
    assert store.snapshot().find("best") == second


def test_a_new_session_takes_no_name_that_a_tag_has(store):
    first = train(store, "cs")
    check_untagged(store.snapshot(), "best")
    tag(store, "best", first)
    assert message(UsageError, lambda: check_untagged(store.snapshot(), "best")) == (
        f'session name "best": a tag of {first.folder_name} is called that; choose another with '
        f"--name, or take the tag away with `mlx-tune tag --delete best --store {store.root}`"
    )
    flip(first.path / "session.json")
    assert first.id[:12] in message(UsageError, lambda: check_untagged(store.snapshot(), "best"))


def test_a_removed_session_takes_no_tag(store):
    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    assert message(UsageError, lambda: tag(store, "good", held)) == (
        f"{held.folder_name} is removed; "
        f"`mlx-tune rm --undo {held.id[:8]} --store {store.root}` keeps it"
    )


def test_a_session_that_was_collected_meanwhile_takes_no_tag(store):
    from datetime import date

    held = commit(store, "held", **REFUSED)
    mark_removed(store, held)
    collect_garbage(store, today=date(2026, 11, 23))
    assert message(DamagedStoreError, lambda: tag(store, "good", held)) == (
        f"{held.folder_name} is not, or no longer, in {store.root}; "
        f"run `mlx-tune doctor --store {store.root}`"
    )
    assert store.snapshot().tags == {}


def test_a_tag_whose_session_is_damaged_or_gone_is_said_so_and_means_no_other(store):
    first, second = train(store, "cs"), train(store, "dining")
    tag(store, "good", second)
    flip(second.path / "session.json")
    assert message(UsageError, lambda: store.snapshot().find("good")) == (
        f'tag "good" names {second.id[:12]}…, which is not among the sound sessions; there are '
        f"base, {first.folder_name}"
    )


def test_a_newer_version_may_have_upgraded_the_store_meanwhile(store):
    first = train(store, "cs")
    tag(store, "good", first)
    (store.root / "format.json").write_text('{"version": 1, "requires": ["deltas"]}')
    before = state(store.root)
    for call in (lambda: tag(store, "best", first), lambda: untag(store, "good")):
        assert "the store requires deltas" in message(IncompatibleError, call)
    assert state(store.root) == before


def test_a_full_disk_leaves_the_tag_where_it_was(store, monkeypatch):
    first, second = train(store, "cs"), train(store, "dining")
    tag(store, "good", first)
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    message(DiskError, lambda: tag(store, "good", second))
    assert store.snapshot().tags == {"good": first.id}
