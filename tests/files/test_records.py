"""Records: JSON read as strictly as it is written, and what a newer version added is kept."""

import json
from pathlib import Path

import pytest

from helpers.stores import message, train
from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.records import from_json, to_json
from mlx_tune.store.runs import Run
from mlx_tune.store.session import read_session
from mlx_tune.store.store import SessionStore

UNKNOWN = {"by a newer version": {"deep": ["er", 1, None, 0.5, True]}}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_a_number_that_could_not_be_written_is_not_read(number):
    assert message(DamagedStoreError, lambda: from_json(b'{"a": [%s]}' % number.encode(), "f")) == (
        f"f: not valid JSON ({number} is not a finite number); run `mlx-tune doctor`"
    )


def test_a_key_given_twice_is_not_read():
    assert message(DamagedStoreError, lambda: from_json(b'{"a": {"b": 1, "b": 2}}', "f")) == (
        'f: not valid JSON (duplicate key "b"); run `mlx-tune doctor`'
    )


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_object_is_not_read(text):
    line = "f: not a JSON object; run `mlx-tune doctor`"
    assert message(DamagedStoreError, lambda: from_json(text, "f")) == line


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_is_not_read_however_deep(text):
    line = message(DamagedStoreError, lambda: from_json(text, "f"))
    assert line.startswith("f: not valid JSON (")
    assert "\n" not in line


def test_a_record_reads_back_as_it_was_written():
    record = {"ü": [1, 0.1, 1e308, -0.0, None, True, {"a": "\u2028\n"}]}
    assert from_json(to_json(record, Path("f")), "f") == record


def test_unknown_keys_of_a_run_are_kept(tmp_path):
    run = Run.create(tmp_path, name="cs", record={"phase": "train"}, files={})
    place = run.path / "run.json"
    place.write_text(json.dumps({**run.record, **UNKNOWN}))
    Run.open(run.path).set(phase="score")
    found = json.loads(place.read_bytes())
    assert found == {**run.record, **UNKNOWN, "phase": "score"}


def test_unknown_keys_of_a_session_are_read_with_it(tmp_path):
    session = train(SessionStore.open(tmp_path / "s"), "cs", verdict="promote", **UNKNOWN)
    again = read_session(session.path)
    assert again.record["by a newer version"] == UNKNOWN["by a newer version"]
    again.verify()
