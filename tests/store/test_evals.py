import json

import pytest

from helpers import stores
from mlx_tune.errors import DiskError, UsageError
from mlx_tune.store.runs import read_evaluations, write_evaluation


def test_what_is_written_is_read_in_order_of_time(tmp_path):
    first = write_evaluation(tmp_path, {"n": 1}, who="base")
    second = write_evaluation(tmp_path, {"n": 2}, who="base")
    notes = []
    found = read_evaluations(tmp_path, notes)
    assert list(found) == [first.name, second.name]
    assert [record["n"] for record in found.values()] == [1, 2]
    assert notes == []
    assert first.parent == tmp_path / "evals"
    assert first.name.endswith("-base.json")


def test_an_evaluation_is_never_written_again(tmp_path):
    paths = {write_evaluation(tmp_path, {"n": n}, who="base") for n in range(12)}
    assert len(paths) == 12
    assert {json.loads(path.read_text())["n"] for path in paths} == set(range(12))


def test_twelve_in_a_second_are_still_in_order(tmp_path):
    names = [write_evaluation(tmp_path, {"n": n}, who="base").name for n in range(12)]
    assert list(read_evaluations(tmp_path, [])) == names


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": NaN}'])
def test_a_damaged_evaluation_is_passed_over_with_a_note(tmp_path, damage):
    good = write_evaluation(tmp_path, {}, who="base")
    bad = tmp_path / "evals" / "bad.json"
    bad.write_bytes(damage)
    notes = []
    assert list(read_evaluations(tmp_path, notes)) == [good.name]
    assert notes == [f"{bad}: no evaluation can be read there; passed over, delete it"]


def test_an_evaluation_of_another_version_is_passed_over_with_a_note(tmp_path):
    path = write_evaluation(tmp_path, {}, who="base")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    notes = []
    assert read_evaluations(tmp_path, notes) == {}
    assert notes == [f"{path}: another version of mlx-tune wrote it; passed over"]


def test_a_store_without_evaluations_has_none(tmp_path):
    assert read_evaluations(tmp_path, []) == {}


def test_its_own_keys_cannot_be_given(tmp_path):
    line = stores.message(UsageError, lambda: write_evaluation(tmp_path, {"schema": 3}, who="base"))
    assert line == "the record of an evaluation: schema is mlx-tune's to write; leave it out"


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    write_evaluation(tmp_path, {}, who="base")
    before = stores.state(tmp_path)
    monkeypatch.setattr("os.write", stores.fail_with(28))
    line = stores.message(DiskError, lambda: write_evaluation(tmp_path, {}, who="base"))
    assert "evals" in line
    monkeypatch.undo()
    assert stores.state(tmp_path) == before
