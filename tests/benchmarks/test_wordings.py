import json
from pathlib import Path

import pytest

from benchmarks import cells, open_book, wordings, wordings_report
from benchmarks.cells import CellError, Chain
from benchmarks.retention_cell import Task
from benchmarks.wordings import ARMS, OPEN_BOOK, Setup
from mlx_tune.data import read

SETUP = Setup(base="tiny", sessions=2, rows=4, epochs=None, until_learned=True)


def recall(name, verbatim=3, other=2, confused=1, found=5):
    """What a record keeps of a session with 4 questions, asked in 8 other words."""
    words = {"right": other, "confused": confused, "asked": 8, "facts_found": found}
    return {
        "number": 1, "name": name, "verbatim": {"right": verbatim, "asked": 4},
        "as_taught": words, "other_words": {**words, "facts_asked": 10},
    }  # fmt: skip


def result(number=1, **changes):
    gate = {
        "general": {"nats_per_token": 0.06},
        "sessions": [{"now": 3, "learned": 4}],
        "other_words": {"sessions": [{"now": 4, "learned": 4}, {"now": 1, "learned": 2}]},
    }
    return {
        "recall": [recall("cs"), recall("housing", verbatim=4, other=8, found=9)][:number],
        "gate": gate,
        "training": {"seconds": 90.0, "epochs": 10, "is_learned": False},
    } | changes


@pytest.fixture
def children(monkeypatch):
    """Answer for the processes of cells; gives what they were asked, and may fail some."""
    asked, failing = [], set()

    def child(module, task):
        asked.append((module.rpartition(".")[2], task.label))
        if task.label in failing:
            raise CellError(task.label)
        return result(len(task.taught))

    monkeypatch.setattr(cells, "child", child)
    return asked, failing


WORDS = ("--arms", "two", "noise", OPEN_BOOK, "--rows", "4", "--base", "tiny", "--sessions", "2")


def test_finished_cells_are_not_done_again_and_the_open_book_has_no_seeds(tmp_path, children):
    asked, _ = children
    words = ["--out", str(tmp_path), *WORDS]
    assert wordings.main(words) == 0
    assert asked == [
        ("retention_cell", "two-0 1/2"), ("retention_cell", "two-0 2/2"),
        ("retention_cell", "noise-0 1/2"), ("retention_cell", "noise-0 2/2"),
        ("open_book", "open-book-0 2/2"),
        ("retention_cell", "two-1 1/2"), ("retention_cell", "two-1 2/2"),
        ("retention_cell", "noise-1 1/2"), ("retention_cell", "noise-1 2/2"),
    ]  # fmt: skip
    (tmp_path / "two-1" / "cell-2.json").unlink()
    del asked[:]
    assert wordings.main(words) == 0
    assert asked == [("retention_cell", "two-1 2/2")]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["command"] == words
    assert len(report["text"]) == 2 + 9 + 1  # a line a cell, no verdicts without the defaults


def test_a_cell_that_fails_ends_its_chain_and_no_other(tmp_path, children, capsys):
    asked, failing = children
    failing.add("two-0 1/2")
    assert wordings.main(["--out", str(tmp_path), *WORDS, "--seeds", "0"]) == 1
    assert [label for _, label in asked] == [
        "two-0 1/2", "noise-0 1/2", "noise-0 2/2", "open-book-0 2/2",
    ]  # fmt: skip
    assert "two-0 1/2; the rest of this chain is left out" in capsys.readouterr().err


def test_a_task_trains_the_rows_in_as_many_wordings_as_the_arm_has(tmp_path):
    task = wordings.task_of(tmp_path, SETUP, Chain(arm="two", seed=3), 2)
    taught = read.read(task.data)
    assert task.name == "housing"
    assert task.flags == {"until_learned": True, **ARMS["two"].settings, "seed": 3}
    assert [len(row.wordings) for row in taught] == [1] * 4
    assert all(len(row.paraphrases) >= 2 for row in taught)
    plain = wordings.task_of(tmp_path, SETUP, Chain(arm="one", seed=3), 2)
    assert [row.wordings for row in read.read(plain.data)] == [()] * 4
    assert [row.question for row in read.read(plain.data)] == [row.question for row in taught]


def test_rows_are_spread_over_the_file_and_hold_five_wordings_at_most():
    every = wordings.rows("cs", 106, 5)
    assert [len(row["wordings"]) for row in every] == [4] * 106
    assert wordings.rows("cs", 53, 5) == every[::2]


def test_the_report_says_what_is_met_and_what_is_missed(tmp_path):
    for arm in ("default-1", "default-5"):
        (tmp_path / arm).mkdir()
        for number in (1, 2):
            cell = {"arm": arm, "seed": 0, "number": number, **result(number)}
            (tmp_path / arm / f"cell-{number}.json").write_text(json.dumps(cell))
    text = wordings_report.text(tmp_path)
    assert text[3] == (
        "| default-1, 0 | 2 | 3/4, 4/4 | 2/8, 8/8 | 12 % | 70 % | 75 % | 50 % | 0.060 "
        "| 10 (cap) | 1.5 |"
    )
    assert text[7:13] == [
        "missed  default-5, 0, session 2: word for word as taught 0.875 (target: ≥ 0.98)",
        "missed  default-5, 0, session 2: facts in other words 0.700 (target: ≥ 0.8)",
        "missed  default-5, 0, session 2: confused 0.125 (target: ≤ 0.05)",
        "missed  default-5, 0, session 2: worst kept, word for word 0.750 (target: ≥ 0.95)",
        "missed  default-5, 0, session 2: worst kept, in other words 0.500 (target: ≥ 0.95)",
        "met     default-5, 0, session 2: ΔG, nats a token 0.060 (target: ≤ 0.1)",
    ]
    assert text[14] == (
        "met     default-1, 0, session 2: facts in other words 0.700 (target: ≥ 0.4)"
    )


def test_an_open_book_cell_has_no_training_to_tell_of(tmp_path):
    (tmp_path / "open-book-0").mkdir()
    cell = {"arm": OPEN_BOOK, "seed": 0, "number": 1, "recall": [recall("cs")]}
    (tmp_path / "open-book-0" / "cell-1.json").write_text(json.dumps(cell))
    (line,) = wordings_report.text(tmp_path)[2:-1]
    assert line == "| open-book, 0 | 1 | 3/4 | 2/8 | 12 % | 50 % | - | - | - | - | - |"


def test_the_nearest_rows_share_the_rarest_words():
    rows = read.from_values(
        [
            {"instruction": "Where is the office?", "response": "The office is room 104."},
            {"instruction": "Where is the bakery?", "response": "The bakery is in Mill Lane."},
            {"instruction": "Who runs the bakery?", "response": "Ada Holt runs the bakery."},
            {"instruction": "When is the pool open?", "response": "The pool opens at 8:00."},
        ]
    )
    index = open_book.Index(rows)
    assert index.nearest("whereabouts is room 104?", 1) == [rows[0]]
    assert index.nearest("who manages the bakery?") == [rows[2], rows[1], rows[0]]
    text = open_book.prompt("Who bakes?", index.nearest("who manages the bakery?", 2))
    assert text == (
        "- Who runs the bakery? Ada Holt runs the bakery.\n"
        "- Where is the bakery? The bakery is in Mill Lane.\n\n"
        "Answer in one sentence, by what stands above: Who bakes?"
    )


def test_the_open_book_asks_every_question_of_every_subject(tiny_base, tmp_path):
    task = wordings.task_of(
        tmp_path, Setup(**{**vars(SETUP), "base": str(tiny_base)}), Chain(arm=OPEN_BOOK, seed=0), 2
    )
    found = open_book.carry_out(Task(**vars(task)))["recall"]
    assert [(entry["name"], entry["verbatim"]) for entry in found] == [
        ("cs", None), ("housing", None),
    ]  # fmt: skip
    for entry, path in zip(found, task.subjects, strict=True):
        rows = json.loads(Path(path).read_text())
        assert entry["as_taught"]["asked"] == len(rows) == 4
        assert entry["other_words"]["asked"] == sum(len(row["paraphrases"]) for row in rows)
        assert entry["other_words"]["right"] == 0, "a tiny base of random weights knows nothing"
