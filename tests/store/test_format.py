"""format.json: what it demands of a reader grows, and what it holds besides is kept."""

import errno
import json
import os
from pathlib import Path

import pytest

from helpers.stores import fail_with, message, names
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError
from mlx_tune.store import format as store_format
from mlx_tune.store.format import REMOVAL, check, require, write


def held(root: Path) -> dict:
    return json.loads((root / "format.json").read_bytes())


def put(root: Path, record: object) -> None:
    (root / "format.json").write_text(json.dumps(record))


def test_a_feature_is_demanded_once_and_all_else_is_kept(tmp_path):
    put(tmp_path, {"version": 1, "requires": [], "made by": {"a newer": ["minor", 1]}})
    for _ in range(2):
        require(tmp_path, REMOVAL)
        assert held(tmp_path) == {
            "version": 1,
            "requires": [REMOVAL],
            "made by": {"a newer": ["minor", 1]},
        }
    check(tmp_path)


def test_a_feature_can_be_demanded_of_a_new_store(tmp_path):
    require(tmp_path, REMOVAL)
    assert held(tmp_path) == {"version": 1, "requires": [REMOVAL]}


def test_what_is_there_is_not_written_again(tmp_path):
    put(tmp_path, {"version": 1, "requires": [REMOVAL], "x": 1})
    before = (tmp_path / "format.json").stat()
    write(tmp_path)
    require(tmp_path, REMOVAL)
    after = (tmp_path / "format.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_full_disk_leaves_the_demands_as_they_were(tmp_path, monkeypatch):
    put(tmp_path, {"version": 1, "requires": []})
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    message(DiskError, lambda: require(tmp_path, REMOVAL))
    assert held(tmp_path) == {"version": 1, "requires": []}
    assert names(tmp_path) == ["format.json"]


def test_a_reader_that_cannot_do_what_is_demanded_refuses(tmp_path, monkeypatch):
    require(tmp_path, REMOVAL)
    monkeypatch.setattr(store_format, "FEATURES", frozenset())  # as a version before it
    assert message(IncompatibleError, lambda: check(tmp_path)) == (
        f"{tmp_path / 'format.json'}: the store requires removal, unknown here; upgrade mlx-tune"
    )


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"version": 1},
        {"version": True, "requires": []},
        {"version": 0, "requires": []},
        {"version": 1.0, "requires": []},
        {"version": 1, "requires": {}},
    ],
    ids=json.dumps,
)
def test_a_malformed_format_is_said_so(tmp_path, record):
    put(tmp_path, record)
    assert message(DamagedStoreError, lambda: check(tmp_path)) == (
        f'{tmp_path / "format.json"}: expected {{"version": 1, "requires": []}}; '
        "run `mlx-tune doctor`"
    )


@pytest.mark.parametrize("demand", [7, {"removal": 2}, ["removal"]], ids=json.dumps)
def test_a_demand_that_is_no_word_is_one_that_is_unknown(tmp_path, demand):
    put(tmp_path, {"version": 1, "requires": ["removal", demand]})
    assert message(IncompatibleError, lambda: check(tmp_path)) == (
        f"{tmp_path / 'format.json'}: the store requires {demand}, unknown here; upgrade mlx-tune"
    )


def test_a_demand_cannot_break_the_line_or_steer_a_terminal(tmp_path):
    put(tmp_path, {"version": 1, "requires": ["a\nb\x1b[2J"]})
    line = message(IncompatibleError, lambda: check(tmp_path))
    assert line.endswith("format.json: the store requires a b·[2J, unknown here; upgrade mlx-tune")


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "stat", fail_with(errno.EACCES))
    line = message(DiskError, lambda: check(tmp_path / "s"))
    monkeypatch.undo()
    assert line == (
        f"cannot read {tmp_path / 's'}: permission denied; reading changes nothing; give yourself "
        "the permission or name another store, then run the command again"
    )
