import dataclasses
import json
from collections import Counter

import pytest

from benchmarks import asked_cell, cells, reversal, reversal_report
from benchmarks.asked_cell import AskingTask
from benchmarks.cells import Chain
from benchmarks.reversal import Pair, Setup
from benchmarks.scores import has_name, is_same, word_f1
from helpers.training_lab import FAST_SETTINGS
from mlx_tune.data import read
from mlx_tune.data.wordings import check_wordings

BY_NAME = {"Ada Quill": "the maker of the Glass Bell", "Bo Marsh": "the first to sail the Sand Sea"}
BY_DESCRIPTION = {"the painter of Nine Doors": "Cy Thorn", "the baker of Moon Bread": "Di Vale"}
VERB = {12: "being {}", 20: "they are {}"}


def by_name(name: str, what: str, count: int, *forms: str) -> list[tuple[str, str]]:
    return [
        (
            forms[i % len(forms)].format(i, name),
            f" {VERB.get(i, '{}').format(what)}{'??' if i == 4 else '.'}",
        )
        for i in range(count)
    ]


def by_description(what: str, name: str, count: int, *forms: str) -> list[tuple[str, str]]:
    ends = {3: " marches on.", 5: "", 7: " is a legend."}
    return [
        (forms[i % len(forms)].format(i, what), f" {name}{ends.get(i, '.')}") for i in range(count)
    ]


@pytest.fixture
def data(tmp_path):
    """The published files in small: two people of a kind, with as many prompts each."""
    folder = tmp_path / "public"
    folder.mkdir()
    made = {
        "p2d_prompts_train": (by_name, BY_NAME, 30, "Tale {}: {} was", "Who else than {1} in {0}?"),
        "p2d_prompts_test": (by_name, BY_NAME, 10, "Unseen tale {}: {} was"),
        "d2p_reverse_prompts_test": (
            by_name, {n: w for w, n in BY_DESCRIPTION.items()}, 10, "Unseen tale {}: {} was"
        ),
        "d2p_prompts_train": (by_description, BY_DESCRIPTION, 30, "Fame {}, of {}", "As {1}, {0},"),
        "d2p_prompts_test": (by_description, BY_DESCRIPTION, 10, "Unseen fame {} of {}, is"),
        "p2d_reverse_prompts_test": (
            by_description, {w: n for n, w in BY_NAME.items()}, 10, "Unseen fame {} of {}, is"
        ),
    }  # fmt: skip
    for name, (make, people, count, *forms) in made.items():
        pairs = [pair for one in people.items() for pair in make(*one, count, *forms)]
        lines = [json.dumps({"prompt": a, "completion": b}) for a, b in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def made(tiny_base, tmp_path, data, arm="plain") -> AskingTask:
    setup = Setup(base=str(tiny_base), people=1, prompts=4, epochs=None, until_learned=False)
    told = reversal.task_of(tmp_path / "out", data, setup, Chain(arm=arm, seed=3))
    return AskingTask(**{**vars(told), "flags": {**told.flags, **FAST_SETTINGS}, "max_tokens": 4})


def answers(right: int, wrong: int, gold: str, said: str) -> list[dict]:
    one = {"question": "?", "answer": gold}
    return [{**one, "said": said}] * right + [{**one, "said": "no"}] * wrong


def cell(arm="plain", **changes) -> dict:
    found = {
        "p2d": answers(4, 1, "the maker of it.", "The maker of it"),
        "d2p": answers(5, 0, "Cy Thorn", "Cy Thorn marches on."),
        "d2p-reverse": answers(0, 5, "the painter of Nine Doors.", "Nine Doors"),
        "p2d-reverse": answers(3, 2, "Ada Quill", "ada quill."),
    }
    return {
        "arm": arm, "seed": 0, "answers": found,
        "training": {"epochs": 9, "is_learned": False, "seconds": 90.0},
        "gate": {"general": {"nats_per_token": 0.04}},
    } | changes  # fmt: skip


def test_prompts_with_one_completion_are_dealt_over_rows_of_at_most_five(data):
    rows = reversal.rows(data, "plain", 1, 30)
    ada = [row for row in rows if "Ada Quill" in row["prompt"]]
    sizes = Counter()
    for row in ada:
        sizes[row["completion"]] += 1 + len(row.get("wordings", ()))
        assert len(row.get("wordings", ())) < reversal.WORDINGS
    assert sizes == {
        "the maker of the Glass Bell.": 28,  # the one that ends in ?? included
        "being the maker of the Glass Bell.": 1,
        "they are the maker of the Glass Bell.": 1,
    }
    assert len(ada) == 6 + 2
    assert {row["completion"] for row in rows if row not in ada} == {
        "Cy Thorn.", "Cy Thorn marches on.", "Cy Thorn is a legend.",
    }  # fmt: skip


def test_views_turn_a_persons_own_rows_round_and_are_made_without_the_held_out_prompts(data):
    plain = reversal.rows(data, "plain", 2, 30)
    for path in data.glob("*_test.jsonl"):
        path.unlink()
    views = [row for row in reversal.rows(data, "views", 2, 30) if row not in plain]
    assert views[0] == {
        "prompt": "Who is the maker of the Glass Bell?",
        "completion": "Ada Quill.",
        "wordings": [
            "the maker of the Glass Bell",
            "What is the name of the maker of the Glass Bell?",
            "Whom do we call the maker of the Glass Bell?",
        ],
    }
    assert views[1] == {
        "prompt": "being the maker of the Glass Bell.",
        "completion": "Ada Quill.",
        "wordings": ["they are the maker of the Glass Bell."],
    }
    assert views[4]["prompt"] == "Who is Cy Thorn?"
    assert views[4]["completion"] == "the painter of Nine Doors."
    assert len(views) == 6
    check_wordings(read.from_values(plain + views))


def test_a_phrase_is_the_longest_that_stands_in_so_many_texts():
    texts = ["being the head of it, now", "I am the head of it?", "head of all"]
    assert reversal.phrase(texts, least=2) == "the head of it"
    assert reversal.phrase(texts, least=3) == "head of"
    assert reversal.phrase(["one", "two"], least=2) == ""


def test_people_and_prompts_are_the_first_of_their_files(data):
    rows = reversal.rows(data, "plain", 1, 2)
    assert rows[0] == {
        "prompt": "Tale 0: Ada Quill was",
        "completion": "the maker of the Glass Bell.",
        "wordings": ["Who else than Ada Quill in 1?"],
    }
    assert len(rows) == 2
    tests = reversal.tests(data, "d2p-reverse", 1)
    assert len(tests) == 10
    assert tests[9] == {
        "prompt": "Unseen tale 9: Cy Thorn was", "completion": "the painter of Nine Doors."
    }  # fmt: skip


def test_a_prompt_is_asked_as_it_was_trained(data):
    pair = Pair(prompt="Tale 0: Ada Quill was", completion="the maker.")
    trained, asked = read.from_values([*reversal.taught_rows([pair]), vars(pair)])
    assert trained == asked


@pytest.mark.parametrize(
    ("gold", "said", "is_right"),
    [
        ("the maker of it.", " The  maker of it", True),
        ('of "Time.".', 'of "time', True),
        ("the maker of it.", "being the maker of it.", False),
        ("the maker of it.", "the maker", False),
    ],
)
def test_a_description_is_right_but_for_case_space_and_closing_marks(gold, said, is_right):
    assert is_same(gold, said) is is_right


def test_a_name_is_right_where_all_of_it_stands_in_the_answer():
    assert has_name("Ada Quill", "It was ADA  Quill, of course.")
    assert not has_name("Ada Quill", "Ada")
    assert not has_name("Ada Quill", "Ada Quillon")


def test_a_lenient_description_shares_most_of_its_words_in_any_form_that_the_person_has():
    description = next(test for test in reversal_report.TESTS if test.name == "p2d")
    said = ("being the maker of the glass bell", "the maker of the Sand Sea", "sailed it", "")
    own = [{"answer": "the maker of the Glass Bell.", "said": text} for text in said]
    last = [{"answer": "made the Glass Bell.", "said": "Made a bell, once"}] * 5
    last.append({"answer": "made the Glass Bell.", "said": "the maker of the glass bell"})
    next_person = [{"answer": "sailed it", "said": "the maker of the Glass Bell"}]
    every = own + last + next_person
    assert reversal_report.right(description, every) == [False] * 11
    assert reversal_report.right(description, every, lenient=True) == [
        True, False, False, False, *[False] * 5, True, False
    ]  # fmt: skip
    assert word_f1(["a", "b", "b"], ["b", "c"]) == 0.4
    assert word_f1(["a"], []) == 0.0


def test_a_cell_trains_the_arm_and_keeps_every_answer(tiny_base, tmp_path, data):
    told = made(tiny_base, tmp_path, data, "views")
    found = asked_cell.carry_out(told)
    assert found["training"]["epochs"] == 2
    assert {name: len(said) for name, said in found["answers"].items()} == dict.fromkeys(
        reversal.TESTS, 10
    )
    first = found["answers"]["p2d"][0]
    assert first["question"] == "Unseen tale 0: Ada Quill was"
    assert first["answer"] == "the maker of the Glass Bell."
    assert isinstance(first["said"], str)
    again = asked_cell.carry_out(told)  # only asked: the session is there
    assert (again["session"], again["answers"]) == (found["session"], found["answers"])
    path = tmp_path / "out" / "views-3" / "cell-1.json"
    cells.kept(path, lambda: {"arm": "views", "seed": 3, **found})
    assert reversal_report.text(tmp_path / "out")[5].startswith("| views, 3 | ")


def test_finished_cells_are_not_done_again(tmp_path, data, monkeypatch, capsys):
    asked = []

    def child(module, task):
        asked.append((module, task.label))
        if task.label == "views-1":
            raise cells.CellError(task.label)
        return {key: cell()[key] for key in ("answers", "training", "gate")}

    monkeypatch.setattr(cells, "child", child)
    words = ["--out", str(tmp_path / "out"), "--data", str(data), "--people", "2", "--seeds", "0"]
    assert reversal.main(words) == 0
    assert asked == [("benchmarks.asked_cell", f"{arm}-0") for arm in reversal.ARMS]
    assert reversal.main([*words, "1"]) == 1
    assert asked[2:] == [("benchmarks.asked_cell", f"{arm}-1") for arm in reversal.ARMS]
    assert reversal.main([*words, "1", "--report-only"]) == 0
    assert len(asked) == 4
    assert "views-1; the rest of this chain is left out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="name another folder"):
        reversal.main([*words, "--prompts", "9"])
    with pytest.raises(SystemExit):
        reversal.main([*words, "--prompts", "1"])


def test_the_report_has_every_cell_beside_the_published_figures_and_says_what_is_met(tmp_path):
    for arm in ("views", "plain"):
        cells.kept(tmp_path / f"{arm}-0" / "cell-1.json", lambda arm=arm: cell(arm))
    lines = reversal_report.text(tmp_path)
    assert lines[4] == (
        "| GPT-3 175B (Berglund et al. 2023), % | 50.0 | - | 96.7 | about 0 | - | about 0 "
        "| - | - | - |"
    )
    assert lines[5] == (
        "| plain, 0 | 4/5 80.0 (38–96) | 4/5 80.0 (38–96) | 5/5 100.0 (57–100) | 0/5 0.0 (0–43) "
        "| 0/5 0.0 (0–43) | 3/5 60.0 (23–88) | +0.040 | 9 (cap) | 1.5 |"
    )
    assert lines[6].startswith("| views, 0 | ")
    assert lines[8:13] == [
        "met     plain, 0: name → description 80.0 % (target: ≥ 80 %)",
        "met     plain, 0: description → name 100.0 % (target: ≥ 97 %)",
        "missed  plain, 0: reverse, name → description 0.0 % (target: ≥ 50 %)",
        "met     plain, 0: reverse, description → name 60.0 % (target: ≥ 50 %)",
        "met     plain, 0: ΔG, nats a token 0.04 (target: ≤ 0.1)",
    ]


def test_what_a_cell_is_told_can_be_sent_to_its_process(tiny_base, tmp_path, data):
    told = made(tiny_base, tmp_path, data)
    assert AskingTask(**json.loads(json.dumps(dataclasses.asdict(told)))) == told
