"""export and import, as typed."""

import json

import pytest
from mlx_lm import load

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
        {"path": str(again), "sessions": [cs], "base": str(fork.base), "rank": 8}
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


def test_a_model_for_llama_cpp_and_one_for_ollama(fork, tmp_path, mlx_tune_command):
    (cs,) = housing_chain(fork)[:1]
    options = ("--session", "cs", "--store", fork.store)
    file, folder = tmp_path / "cs.gguf", tmp_path / "notes"
    code, printed, error = mlx_tune_command("export", "gguf", "--out", file, *options)
    assert code == 0, error
    lines = printed.splitlines()
    assert lines[0] == f"✓ {cs} written to {file} · f16"
    assert [line.split()[0] for line in lines[1:3]] == ["change", "kept"]
    assert lines[-1] == f"use it with: llama-cli -m {file} -cnv"
    assert mlx_tune_command("export", "gguf", "--out", file, *options)[0] == 2
    eight = ("--type", "q8_0", "--json")
    printed = mlx_tune_command("export", "ollama", "--out", folder, *options, *eight)[1]
    written = json.loads(printed)
    assert (written["type"], written["sessions"]) == ("q8_0", [cs])
    whole = mlx_tune_command("export", "ollama", "--out", tmp_path / "more", *options)[1]
    make = f"ollama create more -f {tmp_path / 'more' / 'Modelfile'}"
    assert whole.splitlines()[-1] == f"use it with: {make}"
    base = ("--session", "base", *options[2:])
    printed = mlx_tune_command("export", "gguf", "--out", tmp_path / "base.gguf", *base)[1]
    assert printed.startswith("✓ the bare base written")


def test_a_model_where_lm_studio_looks_for_it(fork, tmp_path, mlx_tune_command):
    words = ("export", "lmstudio", "me/notes", "--session", "cs", "--store", fork.store)
    folder = ("--models", tmp_path / "models")
    code, _, error = mlx_tune_command(*words, *folder)
    assert code == 2
    assert "LM Studio has no models there; start it once, or name its folder" in error
    (tmp_path / "models").mkdir()
    code, printed, error = mlx_tune_command(*words, *folder)
    assert code == 0, error
    out = tmp_path / "models" / "me" / "notes"
    assert printed.splitlines()[0] == f"✓ {housing_chain(fork)[0]} written to {out}"
    assert printed.splitlines()[-1] == "load it in LM Studio: me/notes"
    model, _ = load(str(out))
    assert model.args.model_type == "llama"
    assert mlx_tune_command(*words, *folder)[0] == 2  # nothing is written over


@pytest.mark.parametrize("name", ["notes", "me/../notes", "../notes", "me/a/b", "me/", "me/no tes"])
def test_lm_studio_is_told_publisher_and_model(fork, tmp_path, mlx_tune_command, name):
    words = ("export", "lmstudio", name, "--store", fork.store, "--models", tmp_path)
    code, _, error = mlx_tune_command(*words)
    assert code == 2
    assert "expected publisher/model, as in me/notes" in error
    assert not (tmp_path / "me").exists()


def test_the_chain_alone_for_llama_cpp(fork, tmp_path, mlx_tune_command):
    options = ("--lora", "--session", "housing", "--store", fork.store)
    out = tmp_path / "lora.gguf"
    code, printed, error = mlx_tune_command("export", "gguf", "--out", out, *options)
    assert code == 0, error
    names = ", ".join(housing_chain(fork))
    assert printed.splitlines() == [f"✓ {names} written to {out} · rank 16 · base {fork.base}"]
    code, _, error = mlx_tune_command("export", "gguf", "--out", out, *options, "--type", "f16")
    assert (code, "an adapter is always f32" in error) == (2, True)
