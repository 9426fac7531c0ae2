"""train, plan, resume and consolidate as a person types them, on a tiny base."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_tune.models import bases

FEW = ("--epochs", 1, "--rank", 2)


def test_train_says_what_it_does_and_what_comes_next(
    trained_store, mlx_tune_command, tmp_path, rows
):
    (tmp_path / "dining.json").write_text(json.dumps(rows))
    code, out, error = mlx_tune_command("train", "dining.json", *FEW)
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "session   3 · dining"
    assert "chain     cs → housing" in lines
    assert "rows      5 new + 10 of earlier sessions + 2 general" in lines
    assert "epochs    1, each of 17 rows in steps of 8" in lines
    assert "steps     3: 1 for the new rows, 2 to remember; 0 of them warm-up" in lines
    assert "✓ Previous knowledge successfully merged! (cs, housing)" in lines
    assert any(line.startswith("epoch  1/1  mean loss ") for line in lines)
    assert any(line.startswith("✓ saved adapters/sessions/0003-dining-") for line in lines)
    assert lines[-3:] == [
        "  mlx-tune chat              talk to it",
        "  mlx-tune train MORE.json   teach another subject",
        "  mlx-tune rollback          one step back",
    ]
    assert "asking what was learned" in error


def test_two_sessions_of_one_name_are_told_apart(trained_store, mlx_tune_command, tmp_path, rows):
    (tmp_path / "dining.json").write_text(json.dumps(rows))
    (first,) = (trained_store / "sessions").glob("0001-cs-*")
    words = ("dining.json", "--name", "cs", *FEW)
    told = f"! {first.name} has this name too; --name gives the new session another"
    assert told in mlx_tune_command("plan", *words)[1].splitlines()
    _, out, _ = mlx_tune_command("train", *words)
    assert "1 cs " in out.partition("Previous knowledge")[2]
    assert "3 cs " in out.partition("Previous knowledge")[2]
    _, out, _ = mlx_tune_command("plan", "dining.json")
    assert "chain     1 cs → housing → 3 cs" in out.splitlines()
    shown = mlx_tune_command("show", "3")[1]
    assert re.search("^recall +1 cs: .*^recall +3 cs: ", shown, re.DOTALL | re.MULTILINE)


def test_a_narrow_terminal_gets_a_plan_that_breaks_between_words(
    trained_store, mlx_tune_command, monkeypatch
):
    from rich.console import Console

    from mlx_tune.cli import training

    plain = mlx_tune_command("plan", "cs.json")[1]
    monkeypatch.setattr(training, "console", lambda: Console(width=40, force_terminal=True))
    narrow = re.sub("\x1b\\[[0-9;]*m", "", mlx_tune_command("plan", "cs.json")[1])
    assert max(map(len, narrow.splitlines())) <= 40
    assert {"warm-up", "padding", "rehearsed", "learning"} & {*plain.split()} <= {*narrow.split()}
    assert "\nlearning rate " in narrow


def test_a_first_session_has_a_calm_note(tmp_path, tiny_base, mlx_tune_command, rows):
    (tmp_path / "d.json").write_text(json.dumps(rows))
    words = ("--base", tiny_base, "--store", tmp_path / "s", *FEW)
    _, out, _ = mlx_tune_command("train", tmp_path / "d.json", *words)
    assert "First session: there is nothing to merge yet, which is fine." in out
    assert "merged!" not in out


def test_plan_writes_nothing(tmp_path, tiny_base, mlx_tune_command, monkeypatch, rows):
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    store = tmp_path / "s"
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--store", store)
    code, out, _ = mlx_tune_command(*words)
    assert code == 0
    assert "! the base was asked no general questions yet, so each is counted" in out
    assert re.search("rank +8 +5 new rows \\(under 100\\) ", out)
    code, out, _ = mlx_tune_command(*words, "--json", "--rank", 3)
    planned = json.loads(out)
    assert planned["settings"]["rank"] == {"value": 3, "reason": "as you asked", "source": "--rank"}
    assert (planned["steps"], planned["rows"]) == (
        10,
        {
            "new": 5,
            "rehearsed": 0,
            "held_out": 0,
            "an_epoch": {"new": 5, "old": 0, "general": 2},  # the base was never asked yet
        },
    )
    assert not store.exists()
    assert not (tmp_path / "cache" / "general").exists()  # no model was asked anything


def test_plan_agrees_before_a_bases_first_training_with_after(
    tmp_path, tiny_base, mlx_tune_command, monkeypatch, rows
):
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    data = (tmp_path / "d.json", "--base", tiny_base, "--batch-size", 2, "--grad-accumulation", 1)
    words = (*data, "--store", tmp_path / "s")
    numbers = ("rows", "steps", "steps_for_new_rows", "warmup_steps")

    def planned() -> dict:
        found = json.loads(mlx_tune_command("plan", *words, "--json")[1])
        return {name: found[name] for name in numbers}

    before = planned()
    assert before["rows"]["an_epoch"]["general"] == 2
    mlx_tune_command("train", *data, "--store", tmp_path / "other", "--epochs", 1)
    assert planned() == before
    _, out, _ = mlx_tune_command("plan", *words)
    assert "the base was asked no general questions" not in out


def test_plan_shows_the_steps_of_the_new_rows_apart_from_those_to_remember(
    tmp_path, tiny_base, mlx_tune_command
):
    """The 106 rows of the sample: 14 steps an epoch, and of the two general questions one more."""
    rows = [{"instruction": f"Where is {n}?", "response": f"In {n}."} for n in range(111)]
    (tmp_path / "d.json").write_text(json.dumps(rows[:106]))
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--store", tmp_path / "s")
    _, out, _ = mlx_tune_command(*words, "--general-replay", 0)
    assert "epochs    5, each of 106 rows in steps of 8\n" in out
    assert "steps     70; 10 of them warm-up\n" in out
    (tmp_path / "d.json").write_text(json.dumps(rows))
    _, out, _ = mlx_tune_command(*words)
    assert "epochs    5, each of 113 rows in steps of 8\n" in out
    assert "steps     75: 70 for the new rows, 5 to remember; 11 of them warm-up\n" in out
    _, out, _ = mlx_tune_command(*words, "--until-learned")
    assert "epochs    24 to 36, each of 113 rows in steps of 8\n" in out
    told = "at most 540: 504 for the new rows, 36 to remember; 11 of them warm-up"
    assert f"steps     {told}\n" in out
    assert len(told) <= 70


def test_plan_counts_the_wordings_where_there_are_some(tmp_path, tiny_base, mlx_tune_command):
    rows = [
        {"instruction": "A?", "response": "1.", "wordings": ["What is A?", "a, please? " * 9]},
        {"instruction": "B?", "response": "2."},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=1))
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--store", tmp_path / "s")
    _, out, _ = mlx_tune_command(*words)
    assert "wordings  2 new rows in 4; an epoch has each row in one" in out
    short = ("--max-length", 50, "--allow-long")
    _, out, _ = mlx_tune_command(*words, *short)
    assert "wordings  2 new rows in 3; an epoch has each row in one" in out
    assert "! 1 wording left out, longer than 50 tokens, of rows that stay:" in out
    assert f"    “{('a, please? ' * 9).strip()}” {tmp_path}/d.json:2" in out
    _, out, _ = mlx_tune_command(*words, *short, "--json")
    assert json.loads(out)["wordings"] == {
        "new": 1, "old": 0, "too_long": [[f"{tmp_path}/d.json:2", "a, please? " * 9]], "changed": []
    }  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows[1:]))
    _, out, _ = mlx_tune_command(*words, "--json")
    assert "wordings" not in json.loads(out)


def test_plan_names_the_fields_that_are_passed_over_in_one_line(
    tmp_path, tiny_base, mlx_tune_command
):
    rows = [{"id": n, "question": f"{n}?", "answer": f"{n}."} for n in range(3)]
    rows[2]["source"] = "web"
    (tmp_path / "d.json").write_text(json.dumps(rows))
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--store", tmp_path / "s")
    told = "! fields that teach nothing were passed over: id (3 rows), source (1 row)"
    _, out, _ = mlx_tune_command(*words)
    assert out.splitlines().count(told) == 1
    found = json.loads(mlx_tune_command(*words, "--json")[1])
    assert found["passed_over"] == {"id": 3, "source": 1}
    assert told in found["remarks"]
    (tmp_path / "d.json").write_text(json.dumps([{"question": "Q?", "answer": "A."}]))
    assert "passed over" not in mlx_tune_command(*words)[1]
    assert json.loads(mlx_tune_command(*words, "--json")[1])["passed_over"] == {}


def test_plan_names_what_is_not_read_and_what_is_trained_on_against_its_name(
    tmp_path, tiny_base, mlx_tune_command
):
    folder = tmp_path / "d"
    (folder / "more").mkdir(parents=True)
    for name in ("train.jsonl", "valid.jsonl", "b.jsonl.gz"):
        answers = ("Yes.", "very " * 20) if name == "valid.jsonl" else ("Yes.",)
        rows = [{"question": f"{name} {i}?", "answer": one} for i, one in enumerate(answers)]
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    words = ("--base", tiny_base, "--store", tmp_path / "s", "--max-length", 90, "--json")
    found = json.loads(mlx_tune_command("plan", folder, *words)[1])
    assert found["not_read"] == [f"{folder}/b.jsonl.gz", f"{folder}/more/"]
    assert (
        f"! not read: {folder}/b.jsonl.gz, {folder}/more/; accepted are "
        ".json, .jsonl, .csv, .tsv, .parquet"
    ) in found["remarks"]
    assert found["held_out_too_long"] == [f"{folder}/valid.jsonl:2"]
    assert found["rows"]["held_out"] == 1
    told = "! 1 row left out, longer than 90 tokens, of those to hold out:"
    at = found["remarks"].index(told)
    assert found["remarks"][at + 1] == f"    {folder}/valid.jsonl:2"
    found = json.loads(mlx_tune_command("plan", folder / "valid.jsonl", *words, "--allow-long")[1])
    named = f"! trained on, as named, though the name says valid or test: {folder}/valid.jsonl"
    assert named in found["remarks"]
    both = [folder / name for name in ("train.jsonl", "valid.jsonl")]
    _, out, _ = mlx_tune_command("plan", *both, *words[:-1])
    assert "valid.jsonl: 2 rows held out" in " ".join(out.split())
    assert "though the name says" not in out


def test_plan_names_both_of_two_questions_that_are_nearly_one(
    mlx_tune_command, tmp_path, tiny_base
):
    small = {"instruction": "What does git branch -d do?", "response": "It deletes it if merged."}
    large = {"instruction": "What does git branch -D do?", "response": "It deletes it anyway."}
    common = ("--base", tiny_base, "--store", tmp_path / "s", "--epochs", 1, "--rank", 2)
    for name, row in (("small", small), ("large", large)):
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    assert mlx_tune_command("train", tmp_path / "small.json", *common)[0] == 0
    words = ("plan", tmp_path / "large.json", *common)
    _, out, _ = mlx_tune_command(*words)
    told = (
        "! 1 row asking nearly what another does, with another answer; both are taught "
        "(--replace lets new ones replace old ones):\n"
        f"    “{large['instruction']}” {tmp_path}/large.json:1 and “{small['instruction']}” "
    )
    assert told in out
    found = json.loads(mlx_tune_command(*words, "--json")[1])
    place = f"{tmp_path}/large.json:1"
    assert found["alike"] == [[place, large["instruction"], small["instruction"]]]
    assert (found["changed"], found["rows"]["rehearsed"]) == ([], 1)
    _, out, _ = mlx_tune_command(*words, "--replace")
    assert "asking nearly" not in out
    assert "! 1 row replacing an earlier answer:" in out
    assert f"“{large['instruction']}” was: {small['response']}" in out
    found = json.loads(mlx_tune_command(*words, "--replace", "--json")[1])
    assert found["changed"] == [[place, small["response"]]]
    assert (found["alike"], found["rows"]["rehearsed"]) == ([], 0)


def test_plan_names_paraphrases_that_are_trained_on_now_and_turns_with_two_answers(
    mlx_tune_command, tmp_path, tiny_base
):
    old = {"instruction": "Where?", "response": "Room 4.", "paraphrases": ["Which room?", "Spot?"]}
    said = ["Where?", "Room 5.", "Since when?", "May."]
    roles = ["user", "assistant"] * 2
    talk = [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]
    new = [{"instruction": "Which  room?", "response": "Room 5."}, {"messages": talk}]
    for name, rows in (("old", [old]), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, indent=1))
    common = ("--base", tiny_base, "--store", tmp_path / "s", "--epochs", 1, "--rank", 2)
    assert mlx_tune_command("train", tmp_path / "old.json", *common)[0] == 0
    words = ("plan", tmp_path / "new.json", *common)
    found = json.loads(mlx_tune_command(*words, "--json")[1])
    taught = f"{next((tmp_path / 's' / 'sessions').iterdir())}/data.jsonl:1"
    assert found["unmeasured"] == [[f"{tmp_path}/new.json:2", "Which room?"]]
    assert found["turns"] == [[f"{tmp_path}/new.json:6", "Where?", taught]]
    assert (found["changed"], found["rows"]["rehearsed"]) == ([], 1)
    assert found["remarks"][-4:] == [
        "! 1 paraphrase of earlier rows trained on now; the rows are measured without:",
        f"    “Which room?” {taught}, now at {tmp_path}/new.json:2",
        "! 1 turn of a conversation with another answer elsewhere; only what is asked last is "
        "replaced:",
        f"    “Where?” {tmp_path}/new.json:6: Room 5. and {taught}: Room 4.",
    ]


def test_a_config_file_sets_what_no_flag_does(tmp_path, tiny_base, mlx_tune_command, rows):
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "my.yaml").write_text(f"base: {tiny_base}\nrank: 3\nepochs: 7\n")
    words = ("plan", tmp_path / "d.json", "--config", tmp_path / "my.yaml", "--rank", 5)
    _, out, _ = mlx_tune_command(*words, "--store", tmp_path / "s", "--json")
    settings = json.loads(out)["settings"]
    assert settings["rank"]["value"] == 5
    assert settings["epochs"] == {
        "value": 7, "reason": "set there; the file says why", "source": str(tmp_path / "my.yaml"),
    }  # fmt: skip


def test_a_persons_file_lies_over_the_one_of_the_base(
    tmp_path, tiny_base, mlx_tune_command, rows, monkeypatch
):
    shipped = ("configs/tiny.yaml", {"until_learned": True, "rank": 4})
    monkeypatch.setattr("mlx_tune.workflows.plan.shipped_config", lambda _: shipped)
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "my.yaml").write_text("rank: 3\n")
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--config", tmp_path / "my.yaml")
    settings = json.loads(mlx_tune_command(*words, "--store", tmp_path / "s", "--json")[1])[
        "settings"
    ]
    rank, until_learned = settings["rank"], settings["until_learned"]
    assert (rank["value"], rank["source"]) == (3, str(tmp_path / "my.yaml"))
    assert (until_learned["value"], until_learned["source"]) == (True, "configs/tiny.yaml")


@pytest.mark.parametrize("command", ["plan", "train"])
@pytest.mark.parametrize(
    ("words", "file", "said"),
    [
        ("--gate-kept 0.5 --gate-kept-least 0.9", "", "--gate-kept-least 0.9 is stricter than"),
        ("--gate-kept 0.5", "gate_kept_least: 0.9", "my.yaml: gate_kept_least 0.9 is stricter"),
        ("--until-learned --validation 0.5", "", "would choose nothing"),
        ("--validation 0.5", "until_learned: true", "my.yaml: until_learned true: the held-out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_a_base_is_fetched(
    tmp_path, mlx_tune_command, rows, monkeypatch, command, words, file, said
):
    monkeypatch.setattr(bases, "locate", lambda *_, **__: pytest.fail("a base was looked for"))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "my.yaml").write_text(f"rank: 3\n{file}\n")
    words = (tmp_path / "d.json", "--base", "nobody/x", *words.split())
    words += ("--config", tmp_path / "my.yaml", "--store", tmp_path / "s")
    code, out, error = mlx_tune_command(command, *words)
    assert (code, out) == (2, "")
    assert said in error
    assert not (tmp_path / "s").exists()


def test_held_out_rows_beside_a_base_that_is_trained_until_learned(
    tmp_path, tiny_base, mlx_tune_command, rows, monkeypatch
):
    """A share that a person asks for lies over the base's own file, and they are told."""
    shipped = ("configs/tiny.yaml", {"until_learned": True})
    monkeypatch.setattr("mlx_tune.workflows.plan.shipped_config", lambda _: shipped)
    data = tmp_path / "d"
    data.mkdir()
    (data / "train.json").write_text(json.dumps(rows))
    words = ("plan", data / "train.json", "--base", tiny_base, "--store", tmp_path / "s")
    code, out, error = mlx_tune_command(*words, "--validation", 0.2)
    assert code == 0
    assert error == (
        "note: configs/tiny.yaml sets until_learned; beside --validation it is off, for the "
        "held-out rows choose\n"
    )
    assert re.search("^until learned +off +configs/tiny.yaml sets it, but .* --validation$", out,
                     re.MULTILINE)  # fmt: skip
    assert "choose no checkpoint" not in out
    (data / "valid.json").write_text(json.dumps([{"instruction": "Any?", "response": "Some."}]))
    _, out, error = mlx_tune_command("plan", data, *words[2:])
    assert "! the held-out rows are scored and choose no checkpoint" in out
    assert error == ""
    _, out, _ = mlx_tune_command("plan", data, *words[2:], "--no-until-learned")
    assert "choose no checkpoint" not in out


def test_a_name_that_a_tag_has_is_refused_before_a_base_is_fetched(
    trained_store, mlx_tune_command, tmp_path, rows, monkeypatch
):
    (tmp_path / "best.json").write_text(json.dumps(rows))
    mlx_tune_command("tag", "best", "cs")
    with monkeypatch.context() as patched:
        patched.setattr(bases, "locate", lambda *_, **__: pytest.fail("a base was looked for"))
        for command in ("plan", "train"):
            code, out, error = mlx_tune_command(command, "best.json")
            assert (code, out) == (2, "")
            assert "choose another with --name, or take the tag away with" in error
    assert mlx_tune_command("plan", "best.json", "--name", "better")[0] == 0
    assert mlx_tune_command("tag", "--delete", "best")[0] == 0
    assert mlx_tune_command("plan", "best.json")[0] == 0


@pytest.mark.parametrize("words", ["", "--without cs"])
def test_what_cannot_be_consolidated_is_said_before_a_base_is_fetched(
    tmp_path, mlx_tune_command, monkeypatch, words
):
    monkeypatch.setattr(bases, "locate", lambda *_, **__: pytest.fail("a base was looked for"))
    monkeypatch.chdir(tmp_path)
    code, out, error = mlx_tune_command("consolidate", *words.split())
    assert (code, out) == (2, "")
    assert "no session" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_training_that_was_asked_to_stop_says_one_line_and_the_same_data_offers_it(
    trained_store, mlx_tune_command, monkeypatch, tmp_path, number, code, rows
):
    from mlx_tune.cli.training_view import TrainingView

    (tmp_path / "more.json").write_text(json.dumps(rows))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingView, "stop", lambda self: number)
        found = mlx_tune_command("train", "more.json", "--epochs", 3, "--rank", 2)
    (run,) = (trained_store / "runs").glob("*-more")
    again = f"mlx-tune resume {run.name}"
    assert found[0] == code
    assert found[2].splitlines()[-1] == (
        f"stopped after step 1, which is saved; go on with: {again}"
    )
    assert "error:" not in found[2]
    said = mlx_tune_command("train", "more.json", "--epochs", 2, "--rank", 2)[2]
    assert said.splitlines()[0] == (
        f"note: {run.name} is an unfinished run of the same data, but with epochs 3; go on with "
        f"it: {again}"
    )
    assert mlx_tune_command("resume")[0] == 0


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
@pytest.mark.parametrize(
    ("moment", "said"),
    [("create", "stopped before the first step"), ("newest_checkpoint", "the run is kept")],
)
def test_a_signal_before_the_first_step_says_how_to_go_on(
    trained_store, mlx_tune_command, monkeypatch, tmp_path, number, code, moment, said, rows
):
    from mlx_tune.store.runs import Run

    done = getattr(Run, moment)

    def then_signal(*words, **options):
        found = done(*words, **options)
        os.kill(os.getpid(), number)
        return found

    (tmp_path / "more.json").write_text(json.dumps(rows))
    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, then_signal)
        found = mlx_tune_command("train", "more.json", "--epochs", 2, "--rank", 2)
    assert found[0] == code, found[2]
    (run,) = (trained_store / "runs").glob("*-more")
    assert found[2].splitlines()[-1] == f"{said}; go on with: mlx-tune resume {run.name}"
    assert mlx_tune_command("resume")[0] == 0


def test_an_interrupted_training_says_how_to_go_on(
    trained_store, mlx_tune_command, monkeypatch, tmp_path, rows
):
    from mlx_tune.cli.training_view import TrainingView

    stepped = TrainingView.stepped

    def interrupted(self, step):
        stepped(self, step)
        if step.number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingView, "stepped", interrupted)
    (tmp_path / "more.json").write_text(json.dumps(rows))
    code, _, error = mlx_tune_command("train", "more.json", "--epochs", 3, "--rank", 2)
    assert code == 130
    (run,) = (trained_store / "runs").glob("*-more")
    assert error.splitlines()[-1] == f"the run is kept; go on with: mlx-tune resume {run.name}"
    monkeypatch.setattr(TrainingView, "stepped", stepped)
    code, out, _ = mlx_tune_command("resume")
    assert code == 0
    assert "✓ saved adapters/sessions/0003-more-" in out


def test_what_steers_a_terminal_is_not_printed(trained_store, mlx_tune_command, tmp_path):
    row = {"instruction": "cs: Where is 1?", "response": "\x1b[2J gone"}
    (tmp_path / "evil.json").write_text(json.dumps([row]))
    again = {"instruction": "cs: Where is 1?", "response": "calm"}
    (tmp_path / "calm.json").write_text(json.dumps([again]))
    assert mlx_tune_command("train", "evil.json", *FEW)[0] == 0
    _, out, _ = mlx_tune_command("plan", "calm.json")
    assert "was: ·[2J gone" in out
    assert "\x1b" not in out


def test_a_path_in_brackets_is_printed_whole(tmp_path, tiny_base, mlx_tune_command, rows):
    (tmp_path / "d.json").write_text(json.dumps(rows))
    store = tmp_path / "[red]s[/]"
    words = ("train", tmp_path / "d.json", "--base", tiny_base, "--store", store, *FEW)
    code, out, _ = mlx_tune_command(*words)
    assert code == 0
    assert f"✓ saved {store}/sessions/0001-d-" in out
    assert f"  mlx-tune chat --store '{store}' " in out


@pytest.mark.parametrize(
    ("verdict", "code", "words"),
    [("promote", 0, ""), ("ask", 9, "held back"), ("refuse", 10, "refused")],
)
def test_a_session_that_is_not_promoted_ends_with_the_gates_exit_code(
    monkeypatch, mlx_tune_command, verdict, code, words
):
    from mlx_tune.workflows import run

    gate = {"reasons": ["1 cs lost much", "2 x lost more", "3 y too"]}
    session = SimpleNamespace(
        folder_name="0004-d-0123abcd",
        id="0123abcd" * 8,
        path=Path("adapters/sessions/0004-d-0123abcd"),
        record={"verdict": verdict, "gate": gate, "training": {}},
    )
    outcome = SimpleNamespace(session=session, is_head=not code, recall=(), gate=None)
    monkeypatch.setattr(run, "train", lambda request, view: outcome)
    found, out, error = mlx_tune_command("train", "d.json", "--json")
    assert found == code
    assert json.loads(out)["verdict"] == verdict  # what it came to is printed all the same
    assert error == (code > 0) * (
        f"error: 0004-d-0123abcd is saved and {words}: 1 cs lost much (and 2 more); HEAD is where "
        "it was; `mlx-tune promote 0123abcd` takes it all the same\n"
    )
