"""llama.cpp itself loads what is exported, and answers as we do.

It runs in an environment of its own (`scripts/clients.sh`), with the template it finds in the file.
"""

import json
import subprocess
from pathlib import Path

import pytest

from mlx_tune import Store
from mlx_tune.models.catalogue import SMALL

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "llama-cpp" / "bin" / "python"
PROGRAM = ROOT / "tests" / "helpers" / "llama_cpp_program.py"
GENERAL = ["What is the capital of France?", "Write one sentence about the sea."]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON.exists(), reason="llama.cpp could not be installed"),
]


def answers(folder: Path, asked: list[str], *files: Path) -> list[str]:
    """Return what llama.cpp answers with a model, and an adapter beside it."""
    (folder / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [PYTHON, PROGRAM, folder / "asked.json", *files],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_its_greedy_answers_are_ours(tmp_path):
    rows = json.loads((ROOT / "data" / "cs.json").read_text())[:4]
    plain = [{key: row[key] for key in ("instruction", "response")} for row in rows]
    store = Store(tmp_path / "store", base=SMALL)
    alone = {"until_learned": False, "general_replay": 0.0, "question_noise": 0}
    name = store.train(plain, name="cs", epochs=25, **alone).session.name
    asked = [row["instruction"] for row in rows] + GENERAL
    ours = [store.chat(session=name, max_tokens=80).ask(question) for question in asked]
    assert sum(a == row["response"] for a, row in zip(ours, rows, strict=False)) >= 2

    whole = store.export_gguf(tmp_path / "cs.gguf", session=name, kind="f32")
    assert answers(tmp_path, asked, whole.path) == ours
    base = store.export_gguf(tmp_path / "base.gguf", session="base", kind="f32")
    adapter = store.export_lora_gguf(tmp_path / "lora.gguf", session=name)
    assert answers(tmp_path, asked, base.path, adapter.path) == ours
