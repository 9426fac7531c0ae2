"""Each tracker's own package keeps a run that was interrupted and resumed, without any network.

They are in an environment of their own (`scripts/clients.sh`).
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"
PYTHON = ROOT / ".venv-clients" / "trackers" / "bin" / "python"
RUN = "2026-11-30T12-00-00-cs"
LOSSES = [[1, 4.0], [2, 2.0], [3, 4.0 / 3], [4, 1.0]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="the trackers could not be installed"),
]


def called(folder, program, *words):
    environment = os.environ | {
        "HOME": str(folder),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
    done = subprocess.run(
        [PYTHON, HELPERS / program, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def kept(folder, tracker):
    called(folder, "tracker_program.py", tracker, "1", "2")
    called(folder, "tracker_program.py", tracker, "3", "4", "end")
    return json.loads(called(folder, "tracker_reader.py", tracker))


def test_tensorboard(tmp_path):
    found = kept(tmp_path, "tensorboard")
    assert found["losses"] == [[step, pytest.approx(loss)] for step, loss in LOSSES]
    assert found["right"] == 0.75
    assert found["texts"] == ["settings/text_summary", "verdict/text_summary"]


def test_mlflow(tmp_path):
    found = kept(tmp_path, "mlflow")
    assert (found["losses"], found["right"]) == (LOSSES, 0.75)
    assert found["texts"] == [RUN, "FINISHED", "8", "promote"]


def test_trackio(tmp_path):
    found = kept(tmp_path, "trackio")
    assert (found["losses"], found["right"]) == (LOSSES, 0.75)
    assert found["texts"] == [RUN, "promote", "smollm2-135m"]


def test_weights_and_biases(tmp_path):
    found = kept(tmp_path, "wandb")
    assert found["texts"] == ["promote", "smollm2-135m", RUN]
    assert found["right"]
    assert {4.0, 2.0, 1.0} <= set(found["losses"])
