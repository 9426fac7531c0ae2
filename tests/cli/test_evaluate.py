"""eval: what it prints, without a model, and the command on a tiny base."""

import json
from pathlib import Path

import pytest
from rich.color import Color
from rich.console import Console

from mlx_tune.cli.evaluate import HeatMap, _share, cell_style, show_evaluation, show_heat_map
from mlx_tune.continual.answers import AnswerScore, GradedAnswer, WrongAnswer
from mlx_tune.continual.recall import Recall
from mlx_tune.continual.retention import Measure
from mlx_tune.data.rows import Message, Row
from mlx_tune.store.session import Session
from mlx_tune.workflows.matrix import (
    MEASURED,
    AnswerCell,
    CellScore,
    Evaluation,
    MatrixColumn,
    MatrixRow,
)
from mlx_tune.workflows.scoring import SessionRecall

NAMES = ("cs", "housing", "dining", "registration", "sports")


def printed(show, *shown, width=80, **options):
    console = Console(width=width, record=True, highlight=False, **options)
    with console.capture() as capture:
        show(*shown, console)
    return capture.get()


def session(number, name):
    return Session(
        path=Path(name), id=f"{number}" * 64, hashes={}, number=number, name=name, parent=None,
        record={},
    )  # fmt: skip


def rows(count, reworded):
    said = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    return (Row(messages=said, paraphrases=("p",) * reworded),) * count


def graded(count, right, confused=0, sampled=None, wrong=()):
    grades = ("right",) * right + ("confused",) * confused + ("unknown",) * count
    asked = count if sampled is None else sampled
    return AnswerScore(
        grades=(*grades[:asked], *(None,) * (count - asked)),
        facts_found=min(right, asked),
        facts_asked=asked,
        wrong=wrong,
    )


def answered(sessions, asked, reworded, sampled):
    """What the answering row said in full: all right as taught, in other words a half of it."""
    said = GradedAnswer(grade="unknown", asked=1, missing=("104",))
    wrong = (WrongAnswer(question="q", said="I do not know.", graded=said),)
    for each in sessions:
        as_taught = graded(asked, asked, sampled=sampled)
        count = asked * reworded
        half = (sampled or count) // 2
        other_words = graded(count, half, 1, sampled, wrong) if count else None
        recall = Recall(verbatim=(True,) * asked, token_accuracy=1.0, loss=0.1)
        yield SessionRecall(
            number=each.number, name=each.name, verbatim=recall, paraphrases=None,
            as_taught=as_taught, other_words=other_words,
        )  # fmt: skip


def evaluation(
    rates, *, asked=10, names=NAMES, reworded=2, superseded=0, answers=False, sampled=None
):
    """A matrix of shares, the base's row first; None was not measured. Reworded: half of each."""
    sessions = tuple(session(i, name) for i, name in enumerate(names, 1))[: len(rates[0])]
    places = tuple(
        MatrixRow(session=sessions[i - 1] if i else None, chain=sessions[:i])
        for i in range(len(rates))
    )
    columns = tuple(
        MatrixColumn(session=s, rows=rows(asked, reworded), superseded=superseded) for s in sessions
    )
    cells = {}
    for place, shares in zip(places, rates, strict=True):
        for column, share in zip(columns, shares, strict=True):
            for recited, right in (("verbatim", "as_taught"), ("paraphrases", "other_words")):
                count = column.count(recited)
                if share is None or not count:
                    continue
                known = round(share * count / (1 if recited == "verbatim" else 2))
                cells[place.id, column.session.id, recited] = CellScore(
                    outcomes=(True,) * known + (False,) * (count - known),
                    loss=0.25 if recited == "verbatim" else 1.5, token_accuracy=0.9,
                    source=MEASURED,
                )  # fmt: skip
                cells[place.id, column.session.id, right] = AnswerCell(
                    score=graded(count, known), source=MEASURED
                )
    return Evaluation(
        answering=places[-1], rows=places, columns=columns, cells=cells,
        recall=tuple(answered(sessions, asked, reworded, sampled)) if answers else (),
    )  # fmt: skip


THREE = ((0, 0.1, 0), (0.9, 0.2, 0), (1, 1, 0.3), (0.8, 0.7, 1))


def test_two_matrices_and_what_they_come_to():
    out = printed(show_evaluation, evaluation(THREE, reworded=1))
    assert [line.rstrip() for line in out.splitlines()] == [
        "answers of 0003-dining-33333333",
        "",
        "right in other words  questions of each session across, after each session down",
        "after              1 cs   2 housing    3 dining",
        "base         0 % of 10   0 % of 10   0 % of 10",
        "1 cs        40 % of 10  10 % of 10   0 % of 10",
        "2 housing   50 % of 10  50 % of 10  20 % of 10",
        "3 dining    40 % of 10  40 % of 10  50 % of 10",
        "",
        "word for word  questions of each session across, after each session down",
        "after              1 cs   2 housing    3 dining",
        "base         0 % of 10  10 % of 10   0 % of 10",
        "1 cs        90 % of 10  20 % of 10   0 % of 10",
        "2 housing  100 % of 10 100 % of 10  30 % of 10",
        "3 dining    80 % of 10  70 % of 10 100 % of 10",
        "",
        "                       right in other words    word for word",
        "known now         ACC  43.3 % of 30 (27–61 %)  83.3 % of 30 (66–93 %)",
        "since learned     BWT  −5.0 points of 20       −20.0 points of 20",
        "forgotten         F    10.0 points of 20       25.0 points of 20",
        "known beforehand  FWT  +15.0 points of 20      +20.0 points of 20",
        "known least            1 cs                    2 housing",
        "                       40 % of 10 (17–69 %)    70 % of 10 (40–89 %)",
        "loss per token         1.500                   0.250",
        "right: the taught facts stand in the answer · other words: never trained on",
        "word for word: as taught, exactly",
        "ACC: mean over sessions · BWT: backward transfer, below 0 means forgetting",
        "F: forgetting, from the best it ever was to now · FWT: forward transfer",
        "ΔG: rise of the loss on the base's own answers to general questions",
        "of n: questions asked · (a–b %): 95 % interval (Wilson) · loss in nats",
    ]


def test_five_sessions_of_a_hundred_questions_fit_eighty_columns():
    rates = [[float(j < i) for j in range(5)] for i in range(6)]
    found = evaluation(rates, asked=106, superseded=3, answers=True, sampled=64)
    lines = printed(show_evaluation, found).splitlines()
    assert max(map(len, lines)) <= 80
    reworded, recited = [line for line in lines if line.startswith("5 sports ")][:2]
    assert reworded.count("50 % of 212") == 5
    assert recited.count("100 % of 106") == 5
    (header, *_) = [line for line in lines if line.startswith("after")]
    assert header.split("  ")[-1].strip() == "5 sports"
    assert "1 cs: 3 of 109 questions replaced by later sessions, not forgotten" in lines
    stripped = [line.rstrip() for line in lines]
    at = stripped.index("answers to      right as taught  in other words  confused  key facts")
    assert (
        stripped[at + 1] == "1 cs            64 of 64         32 of 64        1         96 of 128"
    )
    assert "1 cs: answered were 64 of 106 and 64 of 212 questions" in lines
    assert "--json lists the answers that are not right" in lines


def test_a_thousand_questions_are_written_shorter():
    rates = [[0.5] * 5] * 6
    out = printed(show_evaluation, evaluation(rates, asked=1060))
    assert max(map(len, out.splitlines())) <= 80
    assert "50 %/1060" in out


def test_more_columns_than_fit_come_below():
    heat = HeatMap(
        title="after", rows=["base"], columns=[f"{n} s" for n in range(1, 15)],
        cells=[[(n, 14) for n in range(1, 15)]],
    )  # fmt: skip
    lines = printed(show_heat_map, heat).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines] == ["after", "base", "after", "base"]
    assert sum(line.count("/14") for line in lines) == 14


def test_what_is_not_known_is_a_dash_without_a_ground():
    out = printed(show_evaluation, evaluation(((None, None), (0.9, None), (0.5, 1)), reworded=0))
    assert "base                 –           –" in out
    assert "FWT  –" in out
    assert "1 cs: only as taught; its rows have no paraphrases" in out
    assert "word for word: FWT without 2 housing: not measured then" in out
    assert "right as taught  questions" in out
    assert "in other words  questions" not in out


def test_a_session_without_questions_is_named():
    found = evaluation(((0,), (1,)), asked=0)
    out = printed(show_evaluation, found)
    assert "1 cs: no questions of its own, so it cannot be measured" in out


def test_the_base_alone_has_a_row_and_nothing_to_keep():
    out = printed(show_evaluation, evaluation(((0, 0),)))
    assert out.startswith("answers of base\n")
    assert "ACC" not in out


def luminance(colour):
    parts = [part / 255 for part in Color.parse(colour).triplet]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("share", [n / 20 for n in range(21)])
def test_letters_stand_out_from_their_ground(share):
    """4.5 to 1, as WCAG 2.2 asks of text (success criterion 1.4.3)."""
    style = cell_style(share)
    light, dark = sorted((luminance(style.color.name), luminance(style.bgcolor.name)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_more_is_known_the_brighter_the_ground():
    shown = [luminance(cell_style(n / 10).bgcolor.name) for n in range(10)]
    assert shown == sorted(set(shown))
    assert cell_style(1.0) == cell_style(0.95)


def test_a_terminal_gets_colours_and_everything_else_plain_numbers():
    found = evaluation(THREE)
    coloured = printed(show_evaluation, found, force_terminal=True, color_system="truecolor")
    assert "\x1b[38;2;0;0;0;48;2;255;234;70m100 % of 10 " in coloured
    assert "48;2;" not in printed(
        show_evaluation, found, force_terminal=True, color_system="truecolor", no_color=True
    )
    assert "\x1b" not in printed(show_evaluation, found)


def test_a_narrow_terminal_gets_the_grades_of_answers_in_lines_that_break_between_words():
    found = evaluation([[0.0], [1.0]], asked=106, answers=True, sampled=64)
    narrow = printed(show_evaluation, found, width=40, force_terminal=True, color_system=None)
    assert max(map(len, narrow.splitlines())) <= 40
    words = " ".join(narrow.split())
    assert (
        "answers to 1 cs: right as taught 64 of 64, in other words 32 of 64, confused 1, "
        "key facts 96 of 128" in words
    )
    assert "…" not in words[words.index("answers to 1 cs") :]


def test_a_mean_of_a_hundred_percent_is_all_and_of_none_is_none():
    values = (0.0, 0.0001, 0.5, 0.9999, 1.0)
    means = [
        Measure(value=value, sessions=(1,), left_out=(), questions=9000, interval=(0.0, 1.0))
        for value in values
    ]
    assert [_share(mean).split()[0] for mean in means] == ["0.0", "0.1", "50.0", "99.9", "100.0"]


def test_eval_prints_the_matrix_and_keeps_it(trained_store, mlx_tune_command):
    code, out, error = mlx_tune_command("eval")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("answers of 0002-housing-")
    assert lines[2].startswith("right as taught")
    assert [line.split("  ")[0] for line in lines[4:7]] == ["base", "1 cs", "2 housing"]
    assert all(line.count(" % of 5") == 2 for line in lines[4:7])
    assert lines[8].startswith("word for word")
    assert "asking the base…" in error
    (kept,) = (trained_store / "evals").iterdir()
    code, out, error = mlx_tune_command("eval", "--json")
    found = json.loads(out)
    assert [entry["verbatim"]["asked"] for entry in found["recall"]] == [5, 5]
    assert found["session"] == lines[0].removeprefix("answers of ")
    assert found["recall"][0]["as_taught"]["facts_asked"] == 5
    wrong = found["wrong"][0]
    assert len(wrong["as_taught"]) == 5 - found["recall"][0]["as_taught"]["right"]
    assert set(wrong["as_taught"][0]) == {"question", "said", "grade", "missing"}
    assert {cell["verbatim"]["source"] for cell in found["cells"]} == {
        "measured", "recorded", kept.name,
    }  # fmt: skip
    assert "asking the base" not in error
    assert "asking the base" in mlx_tune_command("eval", "--fresh")[2]
    assert "asking the base" not in mlx_tune_command("eval", "--quick")[2]


def test_the_option_of_earlier_versions_says_what_came_of_it(trained_store, mlx_tune_command):
    code, out, error = mlx_tune_command("eval", "--facts")
    assert (code, out) == (2, "")
    assert error == (
        "error: --facts: key facts are looked for in every evaluation now; leave it out\n"
    )


def test_eval_is_quick_or_fresh(trained_store, mlx_tune_command):
    code, _, error = mlx_tune_command("eval", "--quick", "--fresh")
    assert code == 2
    assert error == (
        "error: --quick and --fresh: one measures a single row, the other all; give one of the "
        "two\n"
    )
