"""What a training does with every row grows with the rows, not with their square.

The work is the number of lines that the package executes, a loop in one line once a turn, which
nothing else on the machine changes. Each set of rows has something in common, so that whatever
compares all with all takes four times as long for twice as many.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mlx_tune
from helpers import tiny
from mlx_tune.continual.answers import AnswerKey
from mlx_tune.continual.in_force import current_rows
from mlx_tune.continual.rehearse import learnable, mixture, rehearse, replacing
from mlx_tune.continual.retention import (
    QuestionHistory,
    best_outcomes,
    lowest_losses,
    questions,
)
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.wordings import check_wordings
from mlx_tune.training.batches import Batches
from mlx_tune.training.shapes import Shape, few_shapes

PACKAGE = str(Path(mlx_tune.__file__).parent)
ROWS = 120
SESSIONS = 4
MOST = 2.15
"""Times the work of half as many rows: twice, and a little for a sort or for longer numbers."""

WORDS = [a + b + c for a in "BDFGKLMN" for b in ("ar", "el", "or", "un") for c in "dfklmnst"]


def lines(call: Callable[[], object]) -> int:
    """Return how many lines of the package a call executes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def pair(question: str, answer: str, **more) -> dict:
    return {"instruction": question, "response": answer, **more}


def of_many_subjects(count: int) -> list[dict]:
    """Twenty rows each, with the same four words in other orders in all of them."""
    parts = [(a, b) for a in ("upper", "lower", "old", "new", "red") for b in ("hall", "inn")]
    asked = [
        (f"What is the {what} of the {a} {b} in", f"room {n}")
        for n, (a, b) in enumerate(parts)
        for what in ("number", "name")
    ]
    return [
        pair(
            f"{asked[i % 20][0]} {WORDS[i // 20]}?", f"It is {asked[i % 20][1]}, {WORDS[i // 20]}."
        )
        for i in range(count)
    ]


def of_one_question(count: int) -> list[dict]:
    return [pair("Tell me a joke.", f"The joke about cat number {i}.") for i in range(count)]


def of_nearly_one_question(count: int) -> list[dict]:
    return [pair("Tell me a joke" + "." * (i % 2), f"Joke {i}.") for i in range(count)]


def of_one_row(count: int) -> list[dict]:
    return [pair("Where is it?", "In 1.", wordings=["Where do I find it?"]) for _ in range(count)]


def of_names_that_open_a_sentence(count: int) -> list[dict]:
    return [
        pair(f"When is {WORDS[i]} open?", f"{WORDS[i]} Hall is open from {i} on.")
        for i in range(count)
    ]


SETS = (
    of_many_subjects,
    of_one_question,
    of_nearly_one_question,
    of_one_row,
    of_names_that_open_a_sentence,
)


def in_sessions(rows: list[Row], count: int) -> list[list[Row]]:
    size = len(rows) // count
    return [rows[i * size : (i + 1) * size] for i in range(count)]


def records_of(history: list[list[Row]]) -> list[dict]:
    """Return what sessions' records keep of their questions and of those before them."""
    records = []
    for last in range(len(history)):
        asked = [len(questions(own)) for own in current_rows(history[: last + 1])]
        scores = [{"outcomes": [1] * count, "losses": [1.0] * count} for count in asked]
        records.append({"recall": [{"verbatim": score} for score in scores]})
    return records


def compare(records: list[dict], history: list[list[Row]]) -> None:
    asked = QuestionHistory(history)
    best_outcomes(records, asked)
    lowest_losses(records, asked)


def work_of_rows(values: list[dict], folder: Path) -> dict[str, int]:
    """Return the work of all that is done with rows before the first step and at the gate."""
    (folder / "d.json").write_text(json.dumps(values, indent=1))
    rows = read.read([folder / "d.json"])
    half = len(rows) // 2
    new, history = rows[half:], in_sessions(rows[:half], SESSIONS)
    records = records_of(history)
    tokenizer = tiny.tokenizer()
    examples = tokenise.encode(rows, tokenizer)
    grade, said = AnswerKey(rows).grade, f"It is so. {rows[-1].answer}"

    def plan_batches() -> None:
        rows_of_epoch = mixture(
            new=half, old=half, general=0, epochs=6, replay="0.5", general_replay=0.0
        )
        batches = Batches(
            examples=examples, epochs=6, batch_size=4, effective_batch=8, seed=0,
            mixture=rows_of_epoch,
        )  # fmt: skip
        assert batches.shapes

    return {
        name: lines(call)
        for name, call in {
            "read": lambda: read.read([folder / "d.json"]),
            "check wordings": lambda: check_wordings(new, rows[:half]),
            "rehearse": lambda: rehearse(new, history),
            "replace": lambda: replacing(new, history),
            "learnable": lambda: learnable(rows),
            "tokenise": lambda: tokenise.encode_variants(rows, tokenizer),
            "noise": lambda: tokenise.encode_noised(rows, tokenizer, 2, seed=0),
            "batches": plan_batches,
            "records": lambda: compare(records, [*history, new]),
            "answers": lambda: AnswerKey(rows),
            "grade": lambda: [grade(row, str(row.question), said) for row in rows[:20]],
        }.items()
    }


@pytest.mark.parametrize("rows", SETS, ids=lambda rows: rows.__name__)
def test_twice_the_rows_are_twice_the_work(rows, tmp_path):
    once, twice = (work_of_rows(rows(count), tmp_path) for count in (ROWS, 2 * ROWS))
    growth = {name: twice[name] / once[name] for name in once}
    assert {name: times for name, times in growth.items() if times > MOST} == {}


def test_twice_the_sessions_are_four_times_the_work_for_each_is_on_record_after_each():
    values = of_many_subjects(2 * ROWS)
    rows = read.from_values(values)
    work = []
    for count in (6, 12):
        history = in_sessions(rows[: 20 * count], count)
        records = records_of(history)
        work.append(lines(lambda r=records, h=history: compare(r, h)))
    assert work[1] < 4 * work[0]


def test_twice_the_shapes_are_at_most_twice_the_work(monkeypatch):
    looked_at = []
    argmin = np.argmin
    monkeypatch.setattr(
        np, "argmin", lambda costs: (looked_at.append(len(costs)), argmin(costs))[1]
    )
    work = []
    for count in (1000, 2000):
        looked_at.clear()
        few_shapes(
            {
                Shape(rows=2, prefix=0, flat=2 * n, width=n + n % 3, supervised=n % 7 + 1): 1
                for n in range(4, 4 + count)
            }
        )
        work.append(sum(looked_at))
    assert 0 < work[1] <= 2 * work[0]
