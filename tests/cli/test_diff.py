"""`mlx-tune diff` as a person types it, on a tiny base."""

import json
import re

import pytest

from mlx_tune.cli import console, diff


@pytest.fixture
def store(fork):
    """Two branches: cs → housing, which replaces an answer, and cs → dining."""
    return fork.store


def shown(out: str) -> list[str]:
    """The lines of a table, whatever the width of its columns."""
    return [re.sub(" {2,}", "  ", line.rstrip()) for line in out.splitlines()]


def test_diff_tells_everything_in_order(store, mlx_tune_command):
    code, out, error = mlx_tune_command("diff", "housing", "dining", "--store", store)
    assert code == 0
    lines = shown(out)
    assert re.fullmatch(r"A  0002-housing-[0-9a-f]{8}", lines[0])
    assert re.fullmatch(r"B  0002-dining-[0-9a-f]{8}", lines[1])
    assert lines[2:20] == [
        "common  1 cs",
        "only in A  2 housing",
        "only in B  2 dining",
        "",
        "settings  A  B",
        "alpha  16  8",
        "epochs  40  1",
        "rank  8  4",
        "",
        "rows  1 alike, 1 with another answer, 1 only in A, 7 only in B",
        "  with another answer:",
        "  “Where is B?”",
        "  A  In 9.  2 housing, line 1",
        "  B  In 2.  1 cs, line 2",
        "  only in A:",
        "  “Where is C?”  2 housing, line 2",
        "  only in B:",
        "  “Where is ·[2J[red]D? 0”  2 dining, line 1",
    ]
    assert lines[24:27] == ["  … and 2 more; --json has all", "", "metrics  A  B"]
    assert lines[27].startswith("steps  40  ")
    assert "2 housing, right as taught  2 of 2  –" in lines
    assert "2 housing, word for word  2 of 2  –" in lines
    weights = next(i for i, line in enumerate(lines) if line.startswith("weights"))
    found = r"weights  differ by a norm of [\d.]+, [\d.]+ % of the base's own"
    assert re.fullmatch(found, lines[weights])
    assert lines[weights + 1] == "  layer  norm  of the base's"
    assert {line.split()[0] for line in lines[weights + 2 : weights + 4]} == {"0", "1"}
    answers = lines.index("", weights) + 1
    assert re.fullmatch(r"answers  \d+ of 10 differ", lines[answers])
    assert re.fullmatch(r"  taught by both  \d of 2", lines[answers + 1])
    assert "  only by A  1 of 1" in lines
    asked = lines.index("› Where is C?")
    assert lines[asked + 1] == "  A ✓ In 3."
    assert lines[asked + 2].startswith("  B  ")
    assert "✓ right: it holds the facts that its chain teaches" in lines
    assert "\x1b" not in out
    assert error.splitlines()[0] == "asking A what the two were taught…"


def test_diff_of_a_session_and_itself(store, mlx_tune_command):
    code, out, error = mlx_tune_command("diff", "HEAD", "dining", "--store", store)
    assert (code, error) == (0, "")
    assert re.fullmatch(r"A and B are both 0002-dining-[0-9a-f]{8}; nothing differs\n", out)
    assert mlx_tune_command("diff", "base", "base", "--store", store)[1] == (
        "A and B are both base; nothing differs\n"
    )


def test_diff_with_the_base_and_without_answers(store, mlx_tune_command):
    words = ("diff", "base", "cs", "--no-answers", "--store", store)
    code, out, error = mlx_tune_command(*words)
    lines = shown(out)
    assert (code, error) == (0, "")
    assert lines[:5] == ["A  base", lines[1], "common  the base, A itself", "only in A  no session",
                         "only in B  1 cs"]  # fmt: skip
    assert "settings  the base has none" in lines
    assert "steps  –  40" in lines
    assert "  layer  norm" in lines
    assert not any(line.startswith("answers") for line in lines)


def test_layers_lists_every_layer_in_order(store, mlx_tune_command, monkeypatch):
    monkeypatch.setattr(diff, "_LAYERS", 1)
    words = ("diff", "base", "cs", "--no-answers", "--store", store)
    lines = shown(mlx_tune_command(*words)[1])
    assert re.fullmatch(r"  … and 1 more, ([\d.]+) to \1; --layers lists them", lines[-1])
    lines = shown(mlx_tune_command(*words, "--layers")[1])
    assert [line.split()[0] for line in lines[-2:]] == ["0", "1"]


def test_the_mark_says_that_an_answer_is_its_own_chains(store, mlx_tune_command):
    lines = shown(mlx_tune_command("diff", "cs", "housing", "--store", store)[1])
    assert lines[lines.index("› Where is B?") + 2] == "  B ✓ In 9."
    assert lines[lines.index("› Where is C?") + 2] == "  B ✓ In 3."
    again = shown(mlx_tune_command("diff", "housing", "cs", "--store", store)[1])
    assert again[again.index("› Where is C?") + 1] == "  A ✓ In 3."
    assert not again[again.index("› Where is C?") + 2].startswith("  B ✓")


def test_diff_as_json_has_all(store, mlx_tune_command, monkeypatch):
    monkeypatch.setattr(diff, "ANSWERS", 0)  # however few a terminal is shown
    code, out, _ = mlx_tune_command("diff", "housing", "dining", "--json", "--store", store)
    found = json.loads(out)
    assert code == 0
    assert list(found) == [
        "a", "b", "common", "only_a", "only_b", "settings", "rows", "metrics", "weights", "answers",
    ]  # fmt: skip
    assert found["a"]["chain"] == [found["common"], *found["only_a"]]
    assert found["settings"]["epochs"] == {"a": 40, "b": 1}
    rows = found["rows"]
    assert (rows["a"], rows["b"], len(rows["only_b"])) == (3, 9, 7)
    ((had, has),) = [(pair["a"], pair["b"]) for pair in rows["changed"]]
    assert [x["messages"][1]["content"] for x in (had, has)] == ["In 9.", "In 2."]
    assert had["place"].endswith(f"{found['a']['session']}/data.jsonl:1")
    assert found["metrics"]["a"]["steps"] == 40
    assert [e["name"] for e in found["metrics"]["a"]["recall"]] == ["cs", "housing"]
    weights = found["weights"]
    assert [layer["path"] for layer in weights["layers"]] == ["model.layers.0", "model.layers.1"]
    assert len(weights["layers"][0]["modules"]) == 7
    assert sum(layer["norm"] ** 2 for layer in weights["layers"]) == pytest.approx(
        weights["norm"] ** 2
    )
    answers = found["answers"]
    assert answers["asked"] == 10
    assert answers["differ"] == len(answers["differing"])
    assert all(entry[side] for entry in answers["differing"] for side in "ab")
    known = next(e for e in answers["differing"] if e["question"] == "Where is C?")
    assert known["a"] == {
        "text": "In 3.", "is_cut": False, "taught": "In 3.", "as_taught": True, "grade": "right",
    }  # fmt: skip
    assert (known["b"]["taught"], known["b"]["grade"]) == (None, None)
    assert found == json.loads(json.dumps(found, allow_nan=False))


def test_diff_json_of_the_same_and_without_answers(store, mlx_tune_command):
    words = ("--json", "--no-answers", "--store", store)
    found = json.loads(mlx_tune_command("diff", "base", "base", *words)[1])
    assert found["weights"] == {"norm": 0.0, "of_base": None, "layers": []}
    assert (found["answers"], found["common"], found["a"]["id"]) == (None, "base", None)
    assert found["metrics"] == {"a": None, "b": None}


def test_diff_of_an_unknown_session_is_a_usage_error(store, mlx_tune_command):
    code, out, error = mlx_tune_command("diff", "cs", "nobody", "--store", store)
    assert (code, out) == (2, "")
    assert error.startswith('error: no session "nobody" in ')


def test_a_narrow_terminal_cuts_the_question_and_not_its_place(
    store, mlx_tune_command, monkeypatch
):
    monkeypatch.setattr(console, "_UNWRAPPED", 36)
    words = ("diff", "base", "dining", "--no-answers", "--store", store)
    lines = shown(mlx_tune_command(*words)[1])
    at = lines.index("  only in B:")
    assert lines[at + 1 : at + 4] == [
        "  “Where is A?”  1 cs, line 1",
        "  “Where is B?”  1 cs, line 2",
        "  “Where is ·[2…  2 dining, line 1",
    ]
