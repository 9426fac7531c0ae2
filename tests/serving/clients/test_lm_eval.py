"""`lm-eval` scores a small task of our own, and finds what we find without a server."""

import json
from pathlib import Path

import pytest
import yaml

from helpers.client_programs import FACTS, LATER, Server, python_with
from mlx_tune.continual.recall import Recall, score
from mlx_tune.data.tokenise import Example
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.workspace import load_folded

pytestmark = pytest.mark.slow

QUESTIONS = {**FACTS, **LATER}
CHOICES = list(QUESTIONS.values())
CLOSENESS_NATS = 1e-4
"""Both are float32; one reads a prompt at a time, the other a batch behind a shared prefix."""

TASK = {
    "task": "taught",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    # No space at its end: lm-eval would score that with the answer.
    "doc_to_text": "<|im_start|>user\n{{question}}<|im_end|>\n<|im_start|>assistant",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "target_delimiter": "\n",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def scored(request, tmp_path_factory):
    """Score the task with a model; gives what lm-eval found: its samples by question."""
    client = python_with("lm_eval")
    server: Server = request.getfixturevalue("server")  # not started where the test is skipped
    home = tmp_path_factory.mktemp("lm_eval")
    rows = [
        {"question": question, "choices": CHOICES, "label": label}
        for label, question in enumerate(QUESTIONS)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(home / "rows.jsonl")}}
    (home / "taught.yaml").write_text(yaml.safe_dump({**TASK, "dataset_kwargs": data}))

    def run(model: str, *, batch: int, as_tokens: bool) -> dict[str, list[tuple[float, bool]]]:
        out = home / f"{model}-{batch}-{as_tokens}"
        arguments = {
            "model": model,
            "base_url": f"{server.url}/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": server.lab.base,
            "tokenized_requests": as_tokens,
        }
        given = ",".join(f"{name}={value}" for name, value in arguments.items())
        client.run(
            "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", given,
            "--tasks", "taught", "--include_path", home, "--batch_size", batch,
            "--log_samples", "--output_path", out, HF_HOME=str(home / "cache"),
        )  # fmt: skip
        return samples(out)

    return run


def samples(out: Path) -> dict[str, list[tuple[float, bool]]]:
    """Each question's choices, with their log-likelihood and whether they are the likeliest."""
    (path,) = out.rglob("samples_*.jsonl")
    found = map(json.loads, path.read_text().splitlines())
    return {
        one["doc"]["question"]: [(float(v), g == "True") for ((v, g),) in one["resps"]]
        for one in found
    }


def offline(server: Server, names: int, question: str) -> Recall:
    """What we find with so many of the sessions: the choices of a question, each after it."""
    info = bases.locate(str(server.lab.base))
    store = SessionStore.open(server.lab.store)
    folded = load_folded(info, store.snapshot().chain(store.snapshot().find("later"))[:names])
    context = folded.tokenizer.encode(TASK["doc_to_text"].replace("{{question}}", question))
    examples = []
    for choice in CHOICES:
        tokens = folded.tokenizer.encode("\n" + choice)
        flags = [False] * len(context) + [True] * len(tokens)
        examples.append(Example(tokens=(*context, *tokens), supervised=tuple(flags)))
    return score(folded.model, examples)


@pytest.mark.parametrize(
    ("model", "sessions", "batch", "as_tokens"),
    [("head", 2, 1, True), ("0001", 1, 4, False)],
)
def test_likelihoods_are_those_found_without_a_server_also_where_the_text_would_end_there(
    scored, request, model, sessions, batch, as_tokens, monkeypatch
):
    server = request.getfixturevalue("server")
    monkeypatch.setenv("MLX_TUNE_CACHE", str(server.lab.root / "cache"))
    if model == "0001":
        (model,) = (p.name for p in (server.lab.store / "sessions").iterdir() if "0001" in p.name)
    found = scored(model, batch=batch, as_tokens=as_tokens)
    assert found.keys() == QUESTIONS.keys()
    for question, choices in found.items():
        ours = offline(server, sessions, question)
        assert [-value for value, _ in choices] == pytest.approx(ours.losses, abs=CLOSENESS_NATS)
        assert tuple(greedy for _, greedy in choices) == ours.verbatim
