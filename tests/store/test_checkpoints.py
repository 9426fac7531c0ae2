"""Checkpoints: the two newest whole ones and the best stay, whatever befalls the rest."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers.stores import fail_with, flip, message, names
from mlx_tune.errors import DamagedStoreError, DiskError
from mlx_tune.store import runs
from mlx_tune.store.runs import Checkpoint, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one" / "checkpoints"


def run_of(folder: Path) -> Run:
    return Run(folder.parent, {})


def newest(folder: Path) -> Checkpoint | None:
    return run_of(folder).newest_checkpoint()


def put(folder: Path, *steps: int, best: int | None = None) -> None:
    for step in steps:
        files = {"adapters.safetensors": b"weights %d" % step}
        run_of(folder).save_checkpoint(step, files, best=best)


def steps(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(folder)]


def spoil(folder: Path, step: int) -> None:
    flip(folder / f"step-{step:06d}" / "adapters.safetensors")


def test_the_best_is_kept_besides_the_two_newest(folder):
    put(folder, 1, 2)
    put(folder, 3, 4, 5, best=2)
    assert steps(folder) == [2, 4, 5]
    put(folder, 6, best=5)
    assert steps(folder) == [5, 6]
    put(folder, 7, 8, best=5)
    assert steps(folder) == [5, 7, 8]


def test_a_best_one_among_the_two_newest_makes_room_for_no_third(folder):
    put(folder, 1, 2)
    put(folder, 3, best=2)
    assert steps(folder) == [2, 3]
    put(folder, 4, best=4)
    assert steps(folder) == [3, 4]


def test_a_best_one_that_is_damaged_does_not_count_as_whole(folder):
    put(folder, 1, 2, 3)
    spoil(folder, 3)
    put(folder, 4, best=3)
    assert steps(folder) == [2, 3, 4]
    assert newest(folder).step == 4


def test_a_best_one_that_is_not_there_keeps_none_more(folder):
    put(folder, 1, 2, 3, best=77)
    assert steps(folder) == [2, 3]


def test_the_checkpoint_of_a_step_is_read_whole_or_not_at_all(folder):
    put(folder, 1, 2)
    assert run_of(folder).checkpoint(1).read("adapters.safetensors") == b"weights 1"
    assert message(DamagedStoreError, lambda: run_of(folder).checkpoint(3)) == (
        f"{folder / 'step-000003'}: not a folder; run `mlx-tune doctor`"
    )
    spoil(folder, 1)
    assert "changed after it was written" in message(
        DamagedStoreError, lambda: run_of(folder).checkpoint(1)
    )


def test_a_run_keeps_its_best_checkpoint_and_finds_it_by_its_step(tmp_path):
    run = Run.create(tmp_path, name="cs", record={"phase": "train"}, files={})
    for step in (1, 2, 3, 4):
        run.save_checkpoint(step, {"a": b"%d" % step}, best=1)
    assert steps(run.path / "checkpoints") == [1, 3, 4]
    assert run.checkpoint(1).read("a") == b"1"
    assert run.newest_checkpoint().step == 4


def test_the_very_same_checkpoint_again_is_left_as_it_is(folder, monkeypatch):
    """A signal may ask for one right after an epoch's end has saved it."""
    put(folder, 1)
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    put(folder, 1)
    monkeypatch.setattr(runs, "write_folder", None)
    put(folder, 1)
    assert newest(folder).step == 1


def test_a_full_disk_does_not_cost_the_checkpoint_that_is_being_replaced(folder, monkeypatch):
    put(folder, 1)
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    other = {"adapters.safetensors": b"other weights"}
    message(DiskError, lambda: run_of(folder).save_checkpoint(1, other))
    assert newest(folder).read("adapters.safetensors") == b"weights 1"


def test_a_checkpoint_replaced_by_another_of_its_step_is_the_other(folder):
    put(folder, 1)
    run_of(folder).save_checkpoint(1, {"adapters.safetensors": b"other"})
    assert newest(folder).read("adapters.safetensors") == b"other"
    assert names(folder.parents[2] / ".tmp") == []


@pytest.mark.parametrize("put_there", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_checkpoint_in_its_place_makes_way(folder, put_there):
    folder.mkdir(parents=True)
    put_there(folder / "step-000001")
    assert newest(folder) is None
    put(folder, 1)
    assert newest(folder).step == 1


def test_a_persons_folder_beside_the_checkpoints_stays(folder):
    put(folder, 1)
    shutil.copytree(folder / "step-000001", folder / "step-000001-copy")
    (folder / "notes").mkdir()
    put(folder, 2, 3)
    assert names(folder) == ["notes", "step-000001-copy", "step-000002", "step-000003"]
