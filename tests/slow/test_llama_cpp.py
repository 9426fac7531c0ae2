"""llama.cpp itself loads what is exported, splits text as we do, and answers as we do.

It runs in an environment of its own (`scripts/clients.sh`), with the template it finds in the file.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from helpers import tiny
from helpers.gguf_tokenizers import TEXTS, pieces
from mlx_tune import Store
from mlx_tune.models import bases
from mlx_tune.models.catalogue import SMALL
from mlx_tune.models.gguf_export import write_gguf
from mlx_tune.models.load import load

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "llama-cpp" / "bin" / "python"
PROGRAM = ROOT / "tests" / "helpers" / "llama_cpp_program.py"
GENERAL = ["What is the capital of France?", "Write one sentence about the sea."]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON.exists(), reason="llama.cpp could not be installed"),
]


def llama_cpp(folder: Path, what: str, given: list[Any], *files: Path) -> list[Any]:
    """Return what llama.cpp says of texts or tokens, of a model and an adapter beside it."""
    (folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        [PYTHON, PROGRAM, what, folder / "given.json", *files],
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
    assert llama_cpp(tmp_path, "answers", asked, whole.path) == ours
    base = store.export_gguf(tmp_path / "base.gguf", session="base", kind="f32")
    adapter = store.export_lora_gguf(tmp_path / "lora.gguf", session=name)
    assert llama_cpp(tmp_path, "answers", asked, base.path, adapter.path) == ours


def opened(name: str):
    return load(bases.locate(name, say=lambda line: None))


def test_a_file_splits_text_and_costs_what_it_does_here_and_read_back(tmp_path):
    base = opened(SMALL)
    path = tmp_path / "base.gguf"
    write_gguf(path, base, dict(base.info.config), "f32")
    ours = [base.tokenizer.encode(text) for text in TEXTS]
    assert llama_cpp(tmp_path, "tokens", TEXTS, path) == ours
    rows = json.loads((ROOT / "data" / "cs.json").read_text())[:4]
    tokens = base.tokenizer.encode(" ".join(row["response"] for row in rows))[:64]
    (costs,) = llama_cpp(tmp_path, "nats", [tokens], path)
    theirs = sum(costs) / len(costs)
    assert len(costs) == len(tokens) - 1
    back = opened(str(path))
    assert [back.tokenizer.encode(text) for text in TEXTS] == ours
    for model in (base.model, back.model):
        logits = model(mx.array([tokens]))[0, :-1]
        losses = mx.logsumexp(logits, axis=-1) - logits[mx.arange(len(costs)), mx.array(tokens[1:])]
        assert losses.mean().item() == pytest.approx(
            theirs, abs=0.005
        )  # half a percent of perplexity


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentence_piece_tokenizer_splits_text_as_it_does_here(tmp_path, prefix):
    raw = pieces(prefix=prefix)
    folder = tiny.base_folder(tmp_path / "base", vocab_size=raw.get_vocab_size() + 5)
    raw.save(str(folder / "tokenizer.json"))
    base = opened(str(folder))
    write_gguf(tmp_path / "base.gguf", base, dict(base.info.config), "f32")
    theirs = llama_cpp(tmp_path, "tokens", TEXTS, tmp_path / "base.gguf")
    assert theirs == [base.tokenizer.encode(text) for text in TEXTS]
    back = opened(str(tmp_path / "base.gguf"))
    assert theirs == [back.tokenizer.encode(text) for text in TEXTS]
