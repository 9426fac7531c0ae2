"""export and import, as typed."""

import json

import pytest

from mlx_tune.continual.gate import Thresholds
from mlx_tune.workflows import import_adapter as importing


@pytest.fixture
def exported(fork, tmp_path, mlx_tune_command):
    out = tmp_path / "peft"
    code, printed, _ = mlx_tune_command(
        "export", "peft", "--out", out, "--session", "housing", "--store", fork.store
    )
    assert (code, printed.splitlines()) == (
        0, [f"✓ {', '.join(housing_chain(fork))} written to {out} · rank 16 · base {fork.base}"],
    )  # fmt: skip
    return out


def housing_chain(fork):
    names = sorted(path.name for path in (fork.store / "sessions").iterdir())
    return [name for name in names if "cs" in name or "housing" in name]


def test_each_session_can_be_written_apart(fork, tmp_path, mlx_tune_command):
    out = tmp_path / "parts"
    words = ("export", "peft", "--out", out, "--separate", "--session", "2", "--store", fork.store)
    code, printed, error = mlx_tune_command(*words)
    assert (code, printed) == (2, "")  # two sessions have the number 2
    code, printed, error = mlx_tune_command(*words[:5], "--session", "housing", *words[7:])
    assert code == 0, error
    assert printed.splitlines() == [
        *(f"✓ {n} written to {out / n} · rank 8 · base {fork.base}" for n in housing_chain(fork)),
        "they belong together: make all of them active, or leave --separate out",
    ]
    again = tmp_path / "again"
    listed = mlx_tune_command(
        "export", "peft", "--out", again, "--session", "cs", "--store", fork.store, "--json"
    )[1]
    (cs,) = housing_chain(fork)[:1]
    assert json.loads(listed) == [
        {"folder": str(again), "sessions": [cs], "base": str(fork.base), "rank": 8}
    ]


def test_an_imported_session_is_shown_asked_and_evaluated(
    lab, exported, mlx_tune_command, monkeypatch
):
    monkeypatch.setattr(importing, "Thresholds", lambda: Thresholds(general=9, ask_general=9))
    taught = lab.data("taught", {"Where is A?": "In 1.", "Where is B?": "In 9."})
    store = ("--store", lab.store)
    words = ("import", exported, "--data", taught, "--name", "home", "--base", lab.base, *store)
    code, printed, error = mlx_tune_command(*words)
    assert code == 0, error
    assert "✓ home learned: right 2 of 2 as taught" in printed
    assert "trained for" not in printed
    assert "home" in mlx_tune_command("log", *store)[1]
    code, shown, _ = mlx_tune_command("show", "--all", *store)
    assert code == 0
    assert f"from {exported}, trained on {lab.base}" in " ".join(shown.split())
    assert "home: 2 of 2 as taught" in shown
    assert mlx_tune_command("verify", *store)[0] == 0
    asked = lab.root / "asked.txt"
    asked.write_text("Where is B?\n")
    code, answers, error = mlx_tune_command("ask", asked, *store)
    assert code == 0, error
    assert "In 9." in answers
    assert mlx_tune_command("eval", *store)[0] == 0
    assert mlx_tune_command("diff", "base", "home", *store)[0] == 0
    code, _, error = mlx_tune_command(*words)
    assert code == 2
    assert "already here as" in error


def test_an_import_that_is_held_back_ends_with_9(lab, exported, mlx_tune_command, monkeypatch):
    monkeypatch.setattr(importing, "Thresholds", lambda: Thresholds(general=-9, ask_general=9))
    store = ("--store", lab.store)
    code, printed, error = mlx_tune_command("import", exported, "--base", lab.base, *store)
    assert code == 9
    assert "✓ peft: imported; it has no questions to score" in printed
    assert "is saved and held back" in error
    promoted = mlx_tune_command("promote", "peft", *store)
    assert promoted[0] == 0, promoted


def test_json_tells_the_verdict(lab, exported, mlx_tune_command):
    words = ("import", exported, "--base", lab.base, "--store", lab.store, "--json")
    _, printed, _ = mlx_tune_command(*words)
    outcome = json.loads(printed)
    assert outcome["training"] is None
    assert outcome["recall"][0]["name"] == "peft"
