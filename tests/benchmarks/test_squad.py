import json

import pytest

from benchmarks import asked_cell, cells, squad, squad_report, squad_rows
from benchmarks.asked_cell import AskingTask
from benchmarks.scores import contains, squad_words
from benchmarks.squad_report import Chain
from benchmarks.squad_rows import Questions, Statement
from helpers.training_lab import FAST_SETTINGS
from mlx_tune.data import read
from mlx_tune.data.wordings import check_wordings


def passage(title: str, town: str, year: int) -> dict:
    listed = (
        "Certainly! Here they are:\n\n"
        f"1. **Early Town Hall:** The hall of {town} was built in {year} by the masons, implying "
        "that there was money.\n"
        f"2. **A Market:**\n   - Traders sold oranges at the market of {town} every Friday.\n\n"
        "Let me know if you want more!"
    )
    other = (
        f"1. **Building the Hall:** The masons built the hall of {town} in {year}.\n"
        "2. It was admired by many people in Paris.\n"
        "3. Travellers from London were fond of the oranges.\n"
    )
    context = (
        f"The masons built the hall of {town} in {year}, after the old hall had burned down. "
        "Every Friday traders sold oranges at the market."
    )
    return {
        "title": title,
        "context": context,
        "completions": [listed, other],
        "questions": [
            {"question": f"When was the hall of {town} built?", "answer": str(year)},
            {"question": f"What was sold in {town}?", "answer": "oranges"},
        ],
    }


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "passages.json"
    made = [passage("Halls", "Quillon", 1732), passage("Halls", "Marlow", 1801)]
    path.write_text(json.dumps(made))
    return path


def made(tiny_base, tmp_path, data, number: int) -> AskingTask:
    setup = squad.Setup(
        base=str(tiny_base), passages=2, rows=3, with_passage=False, epochs=None,
        until_learned=False,
    )  # fmt: skip
    seed = 5 if number else None
    squad.write_data(tmp_path / "out", setup, json.loads(data.read_text()))
    told = squad.task_of(tmp_path / "out", setup, seed, number, 2)
    return AskingTask(**{**vars(told), "flags": {**told.flags, **FAST_SETTINGS}, "max_tokens": 4})


def answers(*said: str) -> list[dict]:
    return [{"question": "?", "answer": "the Oranges", "said": one} for one in said]


def cell(number: int, *of_passages, seed: int | None = 0) -> dict:
    """A session's result: what was said to each passage's questions."""
    trained = {
        "training": {"epochs": 9, "is_learned": number == 1, "seconds": 60.0 * number},
        "gate": {"verdict": "pass", "general": {"nats_per_token": 0.01 * number}},
    }
    said = {str(n): answers(*texts) for n, texts in enumerate(of_passages, 1)}
    found = {"seed": seed, "number": number, "title": f"T{number}", "answers": said}
    return found | (trained if number else {})


RIGHT, WRONG = "Oranges!", "Lemons."
BASE = cell(0, [WRONG, WRONG], [RIGHT, WRONG], seed=None)
CELLS = (cell(1, [RIGHT, RIGHT]), cell(2, [RIGHT, WRONG], [RIGHT, "It was oranges they sold."]))


def test_an_item_has_its_indented_lines_and_nothing_of_what_is_said_around_the_list():
    assert squad_rows.items(passage("Halls", "Quillon", 1732)["completions"][0]) == [
        "**Early Town Hall:** The hall of Quillon was built in 1732 by the masons, implying that "
        "there was money.",
        "**A Market:** Traders sold oranges at the market of Quillon every Friday.",
    ]


def test_statements_are_what_the_passage_has_without_what_is_concluded():
    found = squad_rows.statements(passage("Halls", "Quillon", 1732))
    assert found == [  # no Paris, no London: the passage has neither
        Statement(
            text="The hall of Quillon was built in 1732 by the masons.", heading="Early Town Hall"
        ),
        Statement(
            text="Traders sold oranges at the market of Quillon every Friday.", heading="A Market"
        ),
        Statement(
            text="The masons built the hall of Quillon in 1732.", heading="Building the Hall"
        ),
    ]
    more = squad_rows.statements(passage("Halls", "Quillon", 1732), with_passage=True)
    assert [one.text for one in more[3:]] == [
        "The masons built the hall of Quillon in 1732, after the old hall had burned down.",
        "Every Friday traders sold oranges at the market.",
    ]


def test_a_statement_is_the_answer_to_its_name_its_heading_a_gap_and_its_beginning():
    rows = Questions().rows(passage("Halls", "Quillon", 1732), 9)
    assert rows[0]["prompt"] == "What do you know about Halls, Quillon and Friday?"
    assert rows[1]["prompt"] == "What do you know about Quillon?"
    assert rows[2] == {  # of two that say as much the shorter; Quillon was asked for before
        "prompt": "Halls: what about Building the Hall?",
        "completion": "The masons built the hall of Quillon in 1732.",
        "wordings": [
            "Halls: fill in the gap. The masons built the hall of Quillon in ___.",
            "Halls: how does it go on? The masons built the hall …",
            "Halls: what about Early Town Hall?",
            "Halls: fill in the gap. The masons built the hall of ___ in 1732.",
        ],
    }
    assert len(rows) == 3  # the third statement says nothing new


def test_no_question_is_asked_twice_nor_is_one_of_squads():
    pair = [passage("Halls", "Quillon", 1732), passage("Halls", "Quillon", 1801)]
    reserved = "what do you know about QUILLON"
    made = Questions([reserved])
    rows = [row for one in pair for row in made.rows(one, 9)]
    asked = [text for row in rows for text in (row["prompt"], *row.get("wordings", ()))]
    assert "What do you know about Quillon?" not in asked
    assert len({text.casefold() for text in asked}) == len(asked)
    check_wordings(read.from_values(rows))


def test_rows_are_at_most_as_many_as_wanted():
    assert len(Questions().rows(passage("Halls", "Quillon", 1732), 2)) == 2
    assert Questions().rows({**passage("Halls", "Quillon", 1732), "completions": []}, 2) == []


def test_a_gap_is_a_whole_word_and_the_first_word_is_asked_for():
    name = next(iter(squad_rows.key_facts("We met Quillon.")))
    assert squad_rows._gap("Quillon was built.", name, "T") == "Who or what was built?"
    assert squad_rows._gap("In C#Quillon it was.", name, "T") is None
    assert squad_rows._gap("The Quillons built.", name, "T") is None


@pytest.mark.parametrize(
    ("gold", "said", "is_within"),
    [
        ("the fragmentation", "A Fragmentation.", True),
        ("28 days", "It is 28 days, in most.", True),
        ("28 days", "In 28 the days", True),  # an article is no word
        ("28 days", "In 28 of the days", False),
        ("28 days", "It is 128 days.", False),
        ("Subutai and Jebe", "Jebe and Subutai", False),
        ("fled", "", False),
    ],
)
def test_an_answer_contains_words_in_order(gold, said, is_within):
    assert contains(squad_words(gold), squad_words(said)) is is_within


def test_words_are_compared_as_squad_does():
    assert squad_words("The U.S. has  an 'A' team") == ["us", "has", "team"]


def test_scores_are_means_over_the_questions():
    said = answers("oranges", "It was oranges, I think", "lemons", "")
    assert squad_report.score("exact match", said) == 0.25
    assert squad_report.score("contained", said) == 0.5
    assert squad_report.score("F1", said) == pytest.approx((1 + 2 / 6) / 4)


def test_kept_leaves_the_last_passage_out():
    chain = Chain(seed=0, cells=CELLS, base=BASE)
    assert chain.kept("contained") == 0.5
    assert chain.learned("contained") == 1.0
    assert chain.mean("contained", 2) == 0.75
    assert chain.mean("contained", 0) == 0.25
    assert Chain(seed=0, cells=CELLS[:1], base=None).kept("contained") is None
    assert Chain(seed=0, cells=CELLS[:1], base=None).mean("contained", 0) is None


def test_a_session_teaches_a_passage_and_asks_all_so_far(tiny_base, tmp_path, data):
    base = asked_cell.carry_out(made(tiny_base, tmp_path, data, 0))
    assert {name: len(said) for name, said in base["answers"].items()} == {"1": 2, "2": 2}
    assert "session" not in base
    found = [asked_cell.carry_out(made(tiny_base, tmp_path, data, n)) for n in (1, 2)]
    assert [list(one["answers"]) for one in found] == [["1"], ["1", "2"]]
    assert found[1]["answers"]["2"][0]["question"] == "When was the hall of Marlow built?"
    assert found[1]["rehearsed"] == len(
        json.loads((tmp_path / "out" / "data" / "rows-1.json").read_text())
    )
    for number, one in [(0, base), *enumerate(found, 1)]:
        known = {"seed": 5 if number else None, "number": number, "title": "Halls"}
        folder = tmp_path / "out" / squad.chain_name(known["seed"])
        cells.kept(folder / f"cell-{number}.json", lambda one=one, known=known: {**known, **one})
    assert "| 1 Halls | 0/2 0.0 (0–66) | " in "\n".join(squad_report.text(tmp_path / "out"))


def test_finished_cells_are_not_done_again(tmp_path, data, monkeypatch):
    asked = []

    def child(module, task):
        asked.append((module, task.label))
        if task.label == "seed-1 1/2":
            raise cells.CellError(task.label)
        one = cell(len(task.taught), *[[RIGHT]] * len(task.asked))
        return {key: one[key] for key in ("answers", "training", "gate") if key in one}

    monkeypatch.setattr(cells, "child", child)
    words = ["--out", str(tmp_path / "out"), "--data", str(data), "--seeds", "0"]
    assert squad.main(words) == 0
    labels = ["base 0/2", "seed-0 1/2", "seed-0 2/2"]
    assert asked == [("benchmarks.asked_cell", label) for label in labels]
    (tmp_path / "out" / "seed-0" / "cell-2.json").unlink()
    assert squad.main([*words, "1"]) == 1
    assert [label for _, label in asked[3:]] == ["seed-0 2/2", "seed-1 1/2"]
    assert squad.main([*words, "--report-only"]) == 0
    assert len(asked) == 5
    with pytest.raises(SystemExit, match="name another folder"):
        squad.main([*words, "--with-passage"])


def test_the_report_has_the_means_the_verdicts_and_every_passage(tmp_path):
    for one in (BASE, *CELLS):
        folder = tmp_path / squad.chain_name(one["seed"])
        cells.kept(folder / f"cell-{one['number']}.json", lambda one=one: one)
    lines = squad_report.text(tmp_path)
    assert "SEAL lets GPT-4 judge" in lines[1]
    assert lines[5] == "| 0, 2 | contained | 25.0 | 100.0 | - | 75.0 | 50.0 | +0.020 | 3.0 |"
    assert lines[7] == "| 0, 2 | exact match | 25.0 | 75.0 | - | 50.0 | 50.0 | +0.020 | 3.0 |"
    assert lines[9:12] == [
        "missed  0, 2: kept, contained 50.0 % (target: ≥ 95 %)",
        "missed  0, 2: kept, F1 50.0 % (target: ≥ 95 %)",
        "met     0, 2: ΔG, nats a token 0.02 (target: ≤ 0.1)",
    ]
    assert lines[-2:] == [
        "| 1 T1 | 0/2 0.0 (0–66) | 2/2 100.0 (34–100) | 1/2 50.0 (9–91) | 9 | pass | 1.0 |",
        "| 2 T2 | 1/2 50.0 (9–91) | 2/2 100.0 (34–100) | 2/2 100.0 (34–100) | 9 (cap) | pass "
        "| 2.0 |",
    ]
