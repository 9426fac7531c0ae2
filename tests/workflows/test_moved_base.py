"""A base model's folder that was moved: named once where it is now, found from then on."""

import json
import shutil

import pytest

from helpers.training_lab import RecordingObserver, TrainingLab, facts
from mlx_tune.errors import IncompatibleError, Interrupted, UsageError
from mlx_tune.workflows.run import resume
from mlx_tune.workflows.workspace import open_workspace


@pytest.fixture
def moving(tiny_base, tmp_path, monkeypatch):
    """A lab whose base is a folder of its own, and the place that it moves to."""
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))  # knows no other copy of it
    lab = TrainingLab(root=tmp_path, base=tmp_path / "here")
    shutil.copytree(tiny_base, lab.base)
    return lab, tmp_path / "there"


def base_of(lab, **named):
    return open_workspace(lab.store, say=lambda _: None, **named).info.folder


def test_a_moved_base_is_found_by_its_fingerprint_once_its_new_place_was_named(moving):
    lab, there = moving
    lab.train(lab.data("cs", facts("Lab", 2)))
    lab.base.rename(there)
    with pytest.raises(
        UsageError, match="here: the base model's folder is not there any more; say"
    ):
        base_of(lab)
    assert base_of(lab, base=str(there)) == there
    assert base_of(lab) == there
    again = TrainingLab(root=lab.root, base=there)
    session = again.train(again.data("housing", facts("Hall", 2))).session
    assert session.record["base"]["name"] == str(there)


def test_another_model_in_the_new_place_is_refused(moving):
    lab, there = moving
    lab.train(lab.data("cs", facts("Lab", 2)))
    lab.base.rename(there)
    config = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    with pytest.raises(IncompatibleError, match="a store holds one base"):
        base_of(lab, base=str(there))
    with pytest.raises(UsageError, match="say once where it is now"):
        base_of(lab)


def test_a_run_goes_on_with_a_base_that_has_moved(moving):
    lab, there = moving
    with pytest.raises(Interrupted):
        lab.train(lab.data("cs", facts("Lab", 4)), observer=RecordingObserver(signal_after=(1, 2)))
    lab.base.rename(there)
    with pytest.raises(UsageError, match="say once where it is now"):
        resume(lab.store, None, RecordingObserver())
    base_of(lab, base=str(there))
    assert resume(lab.store, None, RecordingObserver()).is_head
