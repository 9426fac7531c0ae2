"""`verify --deep`: the base model is hashed anew, whatever its files' times say."""

import os
import re
import shutil

import pytest

from helpers.training_lab import TrainingLab, facts
from mlx_tune.errors import DamagedStoreError, IncompatibleError
from mlx_tune.workflows.store_commands import verify


@pytest.fixture
def own(tmp_path, tiny_base) -> TrainingLab:
    """A lab with a base of its own to spoil, and one session."""
    lab = TrainingLab(root=tmp_path, base=shutil.copytree(tiny_base, tmp_path / "base"))
    lab.train(lab.data("cs", facts("Lab", 2)), epochs=1)
    return lab


def flip(path, *, quietly: bool) -> None:
    """Change a weight; quietly: as a failing disk does, with the file's time as it was."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if quietly:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_sound_base_is_found_sound_and_the_wait_is_explained(own):
    said = []
    found = verify(own.store, deep=True, say=said.append)
    assert (found.error, found.notes, found.sessions) == (None, [], 1)
    assert said == [f"hashing the base model {own.base}…"]


def test_a_weight_that_changed_under_an_old_time_is_found_by_deep_alone(own):
    flip(own.base / "model.safetensors", quietly=True)
    assert verify(own.store, deep=False, say=lambda _: None).error is None
    found = verify(own.store, deep=True, say=lambda _: None)
    assert isinstance(found.error, DamagedStoreError)
    (problem,) = found.problems
    assert problem.startswith(f"{own.base}: its fingerprint is ")
    assert re.search(
        "is [0-9a-f]{12}…, the recorded one [0-9a-f]{12}…; fetch the folder again$", problem
    )
    assert found.sessions == 1  # what was read of the store is still told


def test_a_base_that_was_replaced_is_another_one(own):
    flip(own.base / "model.safetensors", quietly=False)
    found = verify(own.store, deep=True, say=lambda _: None)
    assert isinstance(found.error, IncompatibleError)
    assert f"{own.store}: its sessions stand on the base {own.base} (" in found.problems[0]


def test_a_base_that_is_not_here_is_noted_and_not_fetched(own):
    own.base.rename(own.base.with_name("away"))
    found = verify(own.store, deep=True, say=lambda _: None)
    assert found.error is None
    assert found.notes == [
        f"the base {own.base} is not here and was not checked; put its folder back"
    ]
