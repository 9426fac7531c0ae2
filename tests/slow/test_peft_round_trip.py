"""From PyTorch to here and back: an adapter of PEFT comes, is taught more, and goes.

The other side is PEFT itself, in an environment of its own (`scripts/clients.sh`).
"""

import json
import os
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune import Store
from mlx_tune.models import bases
from mlx_tune.models.catalogue import SMALL
from mlx_tune.store.session import PROMOTE
from mlx_tune.workflows.workspace import load_folded

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "peft" / "bin" / "python"
PROGRAM = ROOT / "tests" / "helpers" / "peft_program.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON.exists(), reason="PEFT could not be installed"),
]


def elsewhere(*words: object) -> None:
    """Run the program of the other side."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, PROGRAM, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def rows_of(subject: str, count: int, folder: Path) -> Path:
    """Write the first rows of a subject, each in one wording."""
    rows = json.loads((ROOT / "data" / f"{subject}.json").read_text())[:count]
    path = folder / f"{subject}.json"
    path.write_text(
        json.dumps([{key: row[key] for key in ("instruction", "response")} for row in rows])
    )
    return path


def test_an_adapter_comes_from_peft_is_taught_more_and_goes_back(tmp_path):
    info = bases.locate(SMALL)
    first, second = (rows_of(subject, 4, tmp_path) for subject in ("cs", "housing"))
    elsewhere("train", info.folder, first, tmp_path / "colab")
    store = Store(tmp_path / "store", base=SMALL)
    imported = store.import_adapter(tmp_path / "colab", data=[first])
    verbatim = imported.recall[0].verbatim
    assert (verbatim.right, verbatim.asked) == (4, 4)

    tokens = [load_folded(info, []).tokenizer.encode("The opening hours of the library are")]
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))

    def compare(chain, *adapters) -> None:
        elsewhere("logits", info.folder, tmp_path / "tokens.json", tmp_path / "out.npy", *adapters)
        ours = np.array(load_folded(info, chain).model(mx.array(tokens))[0])
        theirs = np.load(tmp_path / "out.npy")
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()

    compare([imported.session], tmp_path / "colab")
    if imported.session.record["verdict"] != PROMOTE:
        store.promote(imported.session.name)
    outcome = store.train([second], epochs=2, until_learned=False)
    chain = [imported.session, outcome.session]
    assert outcome.session.parent == imported.session.id
    name = outcome.session.id[:8]
    store.export_peft(tmp_path / "whole", session=name)
    compare(chain, tmp_path / "whole")
    apart = store.export_peft(tmp_path / "apart", session=name, separate=True)
    compare(chain, *(one.path for one in apart))
