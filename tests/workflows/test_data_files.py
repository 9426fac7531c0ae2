"""Data written again has every row as it was; splits share no question."""

import json
from collections import Counter

import pytest

from mlx_tune.data import read
from mlx_tune.errors import InputError, UsageError
from mlx_tune.workflows.data_files import convert_data, split_data

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SHAPES = [
    {"instruction": "Q 1?\n", "response": " A é 1.", "paraphrases": ["P 1?"], "wordings": ["W?"]},
    {"prompt": "Q 2?", "completion": "A 2.", "id": 7},
    {"question": "Q 3?", "answer": "A 3.", "source": "book", "id": 8},
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"text": "Plain  text\n\twith \u2028 spaces."},
    {"system": "Be short.", "instruction": "Q 4?", "output": "A 4."},
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "weight": 0},
            {"role": "user", "content": "Q 5?"},
            {"role": "assistant", "content": "A 5."},
        ]
    },
    {"conversations": [{"from": "human", "value": "Q 6?"}, {"from": "gpt", "value": "A 6."}]},
    {
        "messages": [
            {"role": "user", "content": "Add one."},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": "Two."},
        ],
        "tools": TOOLS,
    },
    {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
     "tools": TOOLS},
]  # fmt: skip


@pytest.fixture
def given(tmp_path):
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SHAPES))
    return tmp_path / "given.jsonl"


@pytest.mark.parametrize("name", ["new.json", "new.jsonl", "NEW.JSON"])
def test_every_row_comes_back_as_it_was(given, tmp_path, name):
    made = convert_data([given], tmp_path / name)
    assert read.read([tmp_path / name]) == read.read([given])
    assert (made.rows, made.passed_over) == (len(SHAPES), {"id": 2, "source": 1})


def test_a_table_becomes_rows_that_a_person_can_edit(tmp_path):
    (tmp_path / "t.csv").write_text("question;answer\nWhere is X?;In A.\nWo ist Y?;Grün.\n")
    convert_data([tmp_path / "t.csv"], tmp_path / "t.json")
    assert (tmp_path / "t.json").read_text() == (
        '[\n {\n  "instruction": "Where is X?",\n  "response": "In A."\n },\n'
        ' {\n  "instruction": "Wo ist Y?",\n  "response": "Grün."\n }\n]\n'
    )


def test_nothing_is_written_over_nor_under_another_ending(given, tmp_path):
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(UsageError, match="exists, and nothing is overwritten"):
        convert_data([given], tmp_path / "there.json")
    with pytest.raises(UsageError, match=r"expected a name that ends with \.json or \.jsonl"):
        convert_data([given], tmp_path / "new.csv")
    (tmp_path / "bad.json").write_text('[{"instruction": "Q?"}]')
    with pytest.raises(InputError):
        convert_data([tmp_path / "bad.json"], tmp_path / "new.json")
    assert (tmp_path / "there.json").read_text() == "mine"
    assert not (tmp_path / "new.json").exists()


def rows(count, alike=()):
    return [{"instruction": f"Where is {i}?", "response": f"In {i}."} for i in range(count)] + [
        {"instruction": f"where is {i}", "response": f"In room {i}."} for i in alike
    ]


@pytest.fixture
def data(tmp_path):
    def write(*words, **options):
        (tmp_path / "rows.json").write_text(json.dumps(rows(*words, **options)))
        return tmp_path / "rows.json"

    return write


def test_splits_hold_every_row_once_and_a_training_knows_them(data, tmp_path):
    path = data(40)
    made = split_data([path], tmp_path / "parts", valid=0.1, test=0.2, seed=0)
    assert made.rows == {"train": 28, "valid": 4, "test": 8}
    found = read.read_set([tmp_path / "parts"])
    assert [(file.path.name, file.rows, file.use) for file in found.files] == [
        ("test.json", 8, "leave"), ("train.json", 28, "train"), ("valid.json", 4, "hold out"),
    ]  # fmt: skip
    every = Counter(
        row.key for name in made.rows for row in read.read([tmp_path / f"parts/{name}.json"])
    )
    assert every == Counter(row.key for row in read.read([path]))
    assert [row.key for row in found.rows] == [
        row.key for row in read.read([path]) if row in found.rows
    ]  # in their order


def test_rows_that_ask_alike_stay_together(data, tmp_path):
    path = data(20, alike=range(20))
    split_data([path], tmp_path / "parts", valid=0.3, test=0.3, seed=1)
    of = {
        name: {row.likeness for row in read.read([tmp_path / f"parts/{name}.json"])}
        for name in ("train", "valid", "test")
    }
    assert sum(map(len, of.values())) == 20 == len(set.union(*of.values()))


def test_the_seed_chooses_and_no_share_is_no_file(data, tmp_path):
    path, held_out = data(40), []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        split_data([path], out, valid=0.1, test=0.0, seed=seed)
        assert sorted(file.name for file in out.iterdir()) == ["train.json", "valid.json"]
        held_out.append((out / "valid.json").read_text())
    assert held_out[0] == held_out[1] != held_out[2]


@pytest.mark.parametrize(
    ("valid", "test"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)]
)
def test_shares_that_are_none_are_refused(data, tmp_path, valid, test):
    with pytest.raises(UsageError, match="shares of the rows: together above 0 and below 1"):
        split_data([data(4)], tmp_path / "parts", valid=valid, test=test, seed=0)


def test_something_is_left_to_train_on(data, tmp_path):
    with pytest.raises(UsageError, match="none is left to train on"):
        split_data([data(1)], tmp_path / "parts", valid=0.5, test=0.0, seed=0)
    assert not (tmp_path / "parts").exists()
