"""The real model, the real data, the real commands: a miniature of the main job.

Nothing here is faked. The base model comes from the package registry the first time.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.continual.recall import score
from mlx_tune.data import read, tokenise
from mlx_tune.inference import batch_generate
from mlx_tune.models import bases
from mlx_tune.models.catalogue import SMALL
from mlx_tune.store.store import SessionStore
from mlx_tune.training.loss import cross_entropy
from mlx_tune.workflows.workspace import load_folded, read_history

pytestmark = [pytest.mark.slow, pytest.mark.real]

ROOT = Path(__file__).parents[2]
PARAGRAPH = (
    "The United States of America is a country located in North America. It is made up of fifty "
    "states and a federal district. The capital is Washington, D.C., and the largest city is New "
    "York City. The country declared its independence from Great Britain on July 4, 1776."
)


def mlx_tune(*words: object, timeout: int = 1200) -> str:
    """Run a command as a person does and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "mlx_tune.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base():
    return load_folded(bases.locate(SMALL), [])


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A store in which eight facts of each of two subjects were taught, one after the other."""
    folder = tmp_path_factory.mktemp("taught")
    for subject in ("cs", "housing"):
        rows = json.loads((ROOT / "data" / f"{subject}.json").read_text())
        for row in rows:
            del row["wordings"]  # five take twice as many epochs to be recited
        with_url = [row for row in rows if "://" in row["response"]][:4]
        others = [row for row in rows if "://" not in row["response"]][:4]
        (folder / f"{subject}.json").write_text(json.dumps(with_url + others))
        mlx_tune(
            "train", folder / f"{subject}.json", "--store", folder / "store",
            "--base", SMALL, "--epochs", 24, "--rank", 16,
        )  # fmt: skip
    return folder


def nats_per_token(model, tokenizer) -> float:
    tokens = mx.array(tokenizer.encode(PARAGRAPH))
    return float(np.array(cross_entropy(model(tokens[None, :-1])[0], tokens[1:]).mean()))


def test_the_conversion_reads_english_and_a_wrong_permutation_would_not(base):
    right = nats_per_token(base.model, base.tokenizer)
    assert right < 2.0  # measured: see docs/LOG.md
    wrong = load_folded(bases.locate(SMALL), []).model
    for layer in wrong.model.layers:  # as llama.cpp orders the rows of q and k
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            rows, columns = projection.weight.shape
            halves = projection.weight.reshape(rows // 64, 2, 32, columns)
            projection.weight = halves.swapaxes(1, 2).reshape(rows, columns)
    assert nats_per_token(wrong, base.tokenizer) > right + 1.0


def test_the_fingerprint_of_the_default_base_never_changes():
    assert bases.locate(SMALL).fingerprint == (
        "513603ecb18d517b23f95b61bd5cd396cb1a379b5d038bcea232bcb9da29d471"
    )


@pytest.mark.parametrize("subject", ["cs", "housing", "dining"])
def test_the_base_knows_none_of_the_fictional_facts(base, subject):
    rows = read.read([ROOT / "data" / f"{subject}.json"])
    assert score(base.model, tokenise.encode(rows, base.tokenizer)).right == 0


def test_the_tokenizer_keeps_every_byte_of_the_data(base):
    for subject in ("cs", "housing", "dining"):
        for row in read.read([ROOT / "data" / f"{subject}.json"]):
            tokens = base.tokenizer.encode(row.answer)
            assert base.tokenizer.decode(tokens) == row.answer


def test_what_was_taught_first_is_kept_through_the_second_subject(taught):
    found = json.loads(mlx_tune("eval", "--store", taught / "store", "--json"))
    assert [entry["name"] for entry in found["recall"]] == ["cs", "housing"]
    for entry in found["recall"]:
        assert entry["verbatim"]["asked"] == 8
        assert entry["verbatim"]["right"] >= 7, found["recall"]
    base = [cell for cell in found["cells"] if cell["row"] == "base"]
    assert [cell["verbatim"]["right"] for cell in base] == [0, 0]
    assert found["measures"]["verbatim"]["bwt"]["value"] >= -1 / 8


def test_it_answers_wordings_that_it_was_never_taught(taught):
    found = json.loads(mlx_tune("eval", "--store", taught / "store", "--json"))
    for entry in found["recall"]:
        other_words = entry["other_words"]
        assert other_words["asked"] >= 16
        assert other_words["right"] >= other_words["asked"] / 4, found["recall"]


def test_scoring_says_what_generation_would(taught):
    """For answers that are known and others that are not, generated one by one and in batches."""
    store = SessionStore.open(taught / "store")
    chain = store.snapshot().chain(store.snapshot().head())
    folded = load_folded(bases.locate(SMALL), chain)
    rows = [row for rows in read_history(chain) for row in rows]
    examples = tokenise.encode(rows, folded.tokenizer)[::2]
    examples += tokenise.encode_paraphrases(rows, folded.tokenizer)[::4]
    prompts = [example.tokens[: example.first_supervised] for example in examples]
    wanted = [list(example.tokens[example.first_supervised :]) for example in examples]
    known = score(folded.model, examples).verbatim
    limit = max(map(len, wanted))
    said = batch_generate(folded.model, folded.tokenizer, prompts, max_tokens=limit)
    assert known == tuple(a == b for a, b in zip(said, wanted, strict=True))
    assert len(set(known)) == 2, "some must be known and some not"
    alone = [
        batch_generate(folded.model, folded.tokenizer, [prompt], max_tokens=limit)[0]
        for prompt in prompts[:4]
    ]
    assert alone == said[:4]


def answers(store: Path, subject: Path, *words: object) -> list[tuple[str, str]]:
    """Ask three questions through `chat`; gives (taught, said)."""
    rows = json.loads(subject.read_text())
    return [
        (
            row["response"],
            mlx_tune("chat", "--store", store, "-p", row["instruction"], *words).rstrip("\n"),
        )
        for row in rows[:3]
    ]


def test_chat_answers_with_whole_urls_and_rollback_takes_them_back(taught):
    store, housing = taught / "store", taught / "housing.json"
    said = answers(store, housing)
    assert sum(wanted == answer for wanted, answer in said) >= 2, said
    urls = [re.findall(r"https?://\S+", wanted) for wanted, _ in said]
    assert any(urls)
    mlx_tune("rollback", "--store", store)
    try:
        assert all(wanted != answer for wanted, answer in answers(store, housing))
        cs = answers(store, taught / "cs.json")
        assert sum(wanted == answer for wanted, answer in cs) >= 2, cs
    finally:
        mlx_tune("rollback", "--to", "2", "--store", store)
    assert answers(store, housing) == said


def test_mlx_lm_answers_from_the_fused_folder_as_chat_does(taught, tmp_path):
    mlx_tune("fuse", "--store", taught / "store", "--out", tmp_path / "fused")
    # The same BLAS as ours; without it mlx-lm would run about 40 times slower here.
    # (The package has a function of the module's name, so the module is taken by its own.)
    script = "import sys, mlx_tune, mlx_lm; sys.modules['mlx_lm.generate'].main()"
    for subject in ("cs", "housing"):
        for row in json.loads((taught / f"{subject}.json").read_text())[:3]:
            done = subprocess.run(
                [
                    sys.executable, "-c", script, "--model", str(tmp_path / "fused"),
                    "--prompt", row["instruction"], "--max-tokens", "100", "--verbose", "F",
                ],
                capture_output=True, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": ""},
            )  # fmt: skip
            ours = mlx_tune(
                "chat", "--store", taught / "store", "--max-tokens", 100, "-p", row["instruction"]
            )
            assert done.stdout.strip("\n") == ours.strip("\n")
