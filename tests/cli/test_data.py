"""data reword, on a tiny base that writes gibberish, and with a model that was given its words."""

import json

import pytest

from mlx_tune.continual.synthetic import Continuation
from mlx_tune.workflows.rewriter import ModelRewriter

ROWS = [
    {"instruction": "What does the ferry to Oban cost?", "response": "It is 12 dollars."},
    {"text": "The ferry is blue."},
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ferry.json").write_text(json.dumps(ROWS))
    return tmp_path / "ferry.json"


def given(monkeypatch, *texts):
    def write(self, orders):
        return [
            Continuation(text=texts[i] if i < len(texts) else "It is far.", is_finished=True)
            for i in range(len(orders))
        ]

    monkeypatch.setattr(ModelRewriter, "write", write)


def test_gibberish_is_thrown_away_and_said_to_be(file, tiny_base, mlx_tune_command):
    code, out, error = mlx_tune_command("data", "reword", "ferry.json", "--with", tiny_base)
    assert code == 0
    assert error.endswith("1 of 1 rows: kept 0 of 16 wordings\n")
    lines = out.splitlines()
    assert lines[0] == "✓ ferry.reworded.json: 0 new wordings for 0 of 2 rows"
    assert lines[1].startswith("kept 0 of 16; ")
    assert lines[2:] == [
        "1 row without a question, left as they are",
        "most rows got fewer than 4: a larger model writes more, --with MODEL",
        "what was thrown away and why: ferry.reworded.json.review.txt",
        "read the new wordings before you train on them: no rule sees every change of meaning",
    ]
    assert json.loads(file.with_name("ferry.reworded.json").read_text()) == ROWS
    assert file.with_name("ferry.reworded.json.review.txt").read_text().count("\n  - ") == 16


def test_wordings_that_pass_are_in_the_file_and_in_the_json(
    file, tiny_base, mlx_tune_command, monkeypatch
):
    kept = ["How dear is the Oban ferry?", "Tell me what I pay for the ferry to Oban."]
    given(monkeypatch, *kept, "What is the ferry's price?")
    words = ("data", "reword", file, "--with", tiny_base, "--out", "new.jsonl", "--wordings", 2)
    code, out, _ = mlx_tune_command(*words, "--json")
    assert code == 0
    made = json.loads(out)
    assert {name: made[name] for name in ("out", "kept", "written", "rejected")} == {
        "out": "new.jsonl",
        "kept": 2,
        "written": 8,
        "rejected": {"statement": 5, "lost": 1},
    }
    first = json.loads(file.with_name("new.jsonl").read_text().splitlines()[0])
    assert sorted(first["wordings"]) == sorted(kept)
    assert made["reworded"][0]["candidates"][2] == {
        "text": "What is the ferry's price?",
        "prompt": "request",
        "reason": "lost",
        "detail": "Oban",
    }


def test_what_is_there_is_not_overwritten(file, tiny_base, mlx_tune_command):
    file.with_name("ferry.reworded.json").write_text("mine")
    code, out, error = mlx_tune_command("data", "reword", "ferry.json", "--with", tiny_base)
    assert (code, out) == (2, "")
    assert error == (
        "error: ferry.reworded.json: exists, and nothing is overwritten; name another --out\n"
    )


@pytest.mark.parametrize(
    ("words", "wanted", "message"),
    [
        (["nowhere.json"], 3, "nowhere.json: does not exist; accepted are .json"),
        (["."], 3, ".: a folder; name one file, .json, .jsonl, .csv"),
        (["ferry.json", "--with", "nobody"], 2, "no base model 'nobody'; name one of"),
        (["ferry.json", "--wordings", "0"], 2, "Invalid value for '--wordings'"),
        (["ferry.json", "--out", "x.txt"], 2, "--out x.txt: not a data file"),
        (["ferry.json", "--out", "no/x.json"], 2, "--out no/x.json: no is no folder; make it"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    file, mlx_tune_command, words, wanted, message
):
    code, out, error = mlx_tune_command("data", "reword", *words)
    assert (code, out) == (wanted, "")
    assert error.startswith(f"error: {message}"), error
    assert len(error.splitlines()) == 1
    assert [path.name for path in file.parent.iterdir()] == ["ferry.json"]
