"""data check, convert, split and reword; no model here writes but one that was given words."""

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


def lines_of(path, rows):
    """Write a row a line, so that its place is its number."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_check_shows_counts_lengths_problems_and_a_row_as_trained(lab, mlx_tune_command):
    rows = [
        {"instruction": "Where is A?", "response": "In 1.", "wordings": ["A is where?"], "id": 3},
        {"instruction": "Where is B?", "response": "In 22.", "paraphrases": ["Whither B?"]},
        {"instruction": "Where is B?", "response": "In 22."},
    ]
    path = lines_of(lab.root / "rows.jsonl", rows)
    options = ("--base", lab.base, "--store", lab.root / "none")
    code, out, error = mlx_tune_command("data", "check", path, "--row", 2, *options)
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0] == "rows      3 rows, 1 other wording to train on, 1 paraphrase to ask in"
    shortest = 4 + len("user\nWhere is A?") + 1 + len("assistant\nIn 1.")  # 4 special tokens
    assert lines[1] == f"tokens    {shortest} to {shortest + 1} a row, median {shortest + 1}"
    assert [line.split()[-1] for line in lines[2:4]] == ["1", "2"]
    assert any("passed over: id (1 row)" in line for line in lines)
    assert any("standing more than once in the data" in line for line in lines)
    assert lines[-3].split() == ["row", "2", f"{path}:2"]
    given = "<|im_start|>user↵Where is B?<|im_end|>↵<|im_start|>assistant↵"
    assert lines[-2:] == [f"given     {given}", "taught    In 22.<|im_end|>"]
    assert not (lab.root / "none").exists()


def test_check_compares_with_what_was_taught(fork, tmp_path, mlx_tune_command):
    path = lines_of(tmp_path / "rows.jsonl", [{"instruction": "Where is A?", "response": "In 7."}])
    code, out, _ = mlx_tune_command("data", "check", path, "--store", fork.store)
    assert code == 0
    assert "1 row replacing an earlier answer" in out
    found = json.loads(mlx_tune_command("data", "check", path, "--store", fork.store, "--json")[1])
    assert found["rows"] == 1
    assert found["tokens"]["histogram"] == [[found["tokens"]["least"]] * 2 + [1]]
    assert [one["is_taught"] for one in found["shown"]["segments"]] == [False, True]
    assert found["plan"]["changed"][0][1] == "In 1."


def test_check_refuses_what_a_training_would(lab, mlx_tune_command):
    leak = {"instruction": "Where is A?", "response": "In 1.", "paraphrases": ["Where is B?"]}
    path = lines_of(
        lab.root / "rows.jsonl", [leak, {"instruction": "Where is B?", "response": "In 2."}]
    )
    options = ("--base", lab.base, "--store", lab.root / "none")
    code, _, error = mlx_tune_command("data", "check", path, *options)
    assert code == 3
    assert f"{path}:1" in error
    assert f"{path}:2" in error
    lines_of(path, [leak])
    code, _, error = mlx_tune_command("data", "check", path, "--row", 2, *options)
    assert (code, error) == (2, "error: --row 2: there are rows 1 to 1\n")


def test_data_is_converted_and_split(file, mlx_tune_command):
    rows = [{"question": f"Where is {i}?", "answer": f"In {i}.", "id": i} for i in range(10)]
    file.write_text(json.dumps(rows))
    code, out, _ = mlx_tune_command("data", "convert", file, "--out", "new.json")
    assert (code, out.splitlines()) == (
        0, ["✓ new.json: 10 rows", 'left out, because they teach nothing: "id" in 10 rows'],
    )  # fmt: skip
    code, out, _ = mlx_tune_command("data", "split", "new.json", "--out", "parts", "--test", 0.2)
    assert (code, out) == (0, "✓ parts: train 7 rows, valid 1 row, test 2 rows\n")
    code, out, _ = mlx_tune_command("data", "split", "new.json", "--out", "again", "--json")
    assert json.loads(out)["rows"] == {"train": 9, "valid": 1, "test": 0}
    code, _, error = mlx_tune_command("data", "convert", file, "--out", "new.json")
    assert (code, "nothing is overwritten" in error) == (2, True)
