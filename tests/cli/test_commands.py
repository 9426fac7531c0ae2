"""The commands as a person types them, on a tiny base."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from helpers.training_lab import RecordingObserver, isolated_environment
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train

ROWS = [
    {"instruction": f"Where is {i}?", "response": f"At http://x.example/@{i}#a?b={i}"}
    for i in range(5)
]
FEW = ("--epochs", 1, "--rank", 2)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_base):
    """A folder with data and a store of two sessions, `cs` and `housing`, trained once."""
    folder = tmp_path_factory.mktemp("taught")
    flags = {"base": str(tiny_base), "epochs": 1, "rank": 2}
    with isolated_environment(tmp_path_factory.getbasetemp()) as patch:
        patch.chdir(folder)
        for name in ("cs", "housing"):
            rows = [{**row, "instruction": f"{name}: {row['instruction']}"} for row in ROWS]
            (folder / f"{name}.json").write_text(json.dumps(rows))
            data = [Path(f"{name}.json")]
            train(
                TrainingRequest(data=data, store=Path("adapters"), flags=flags), RecordingObserver()
            )
    return folder


@pytest.fixture
def store(tmp_path, taught, monkeypatch):
    """A copy of that store, where one is."""
    shutil.copytree(taught, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "adapters"


def test_train_says_what_it_does_and_what_comes_next(store, mlx_tune_command, tmp_path):
    (tmp_path / "dining.json").write_text(json.dumps(ROWS))
    code, out, error = mlx_tune_command("train", "dining.json", *FEW)
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "session   3 · dining"
    assert "chain     cs → housing" in lines
    assert "rows      5 new + 10 of earlier sessions + 2 general" in lines
    assert "steps     3, 0 of them warm-up (17 rows ÷ 8 a step, epochs: 1)" in lines
    assert "✓ Previous knowledge successfully merged! (cs, housing)" in lines
    assert any(line.startswith("epoch  1/1  mean loss ") for line in lines)
    assert any(line.startswith("✓ saved adapters/sessions/0003-dining-") for line in lines)
    assert lines[-3:] == [
        "  mlx-tune chat              talk to it",
        "  mlx-tune train MORE.json   teach another subject",
        "  mlx-tune rollback          one step back",
    ]
    assert "asking what was learned" in error


def test_a_first_session_has_a_calm_note(tmp_path, tiny_base, mlx_tune_command):
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    words = ("--base", tiny_base, "--store", tmp_path / "s", *FEW)
    _, out, _ = mlx_tune_command("train", tmp_path / "d.json", *words)
    assert "First session: there is nothing to merge yet, which is fine." in out
    assert "merged!" not in out


def test_plan_writes_nothing(tmp_path, tiny_base, mlx_tune_command, monkeypatch):
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    store = tmp_path / "s"
    words = ("plan", tmp_path / "d.json", "--base", tiny_base, "--store", store)
    code, out, _ = mlx_tune_command(*words)
    assert code == 0
    assert "! general questions come on top: `train` asks the base for its answers" in out
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
            "an_epoch": {"new": 5, "old": 0, "general": 0},  # the base was never asked yet
        },
    )
    assert not store.exists()
    assert not (tmp_path / "cache" / "general").exists()  # no model was asked anything


def test_a_config_file_sets_what_no_flag_does(tmp_path, tiny_base, mlx_tune_command):
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    (tmp_path / "my.yaml").write_text(f"base: {tiny_base}\nrank: 3\nepochs: 7\n")
    words = ("plan", tmp_path / "d.json", "--config", tmp_path / "my.yaml", "--rank", 5)
    _, out, _ = mlx_tune_command(*words, "--store", tmp_path / "s", "--json")
    settings = json.loads(out)["settings"]
    assert settings["rank"]["value"] == 5
    assert settings["epochs"] == {
        "value": 7, "reason": "set there; the file says why", "source": str(tmp_path / "my.yaml"),
    }  # fmt: skip


def test_log_lists_sessions_newest_first_with_head_marked(store, mlx_tune_command):
    code, out, _ = mlx_tune_command("log")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].startswith("*  2  housing  ")
    assert lines[2].startswith("│  1  cs ")
    mlx_tune_command("rollback")
    lines = mlx_tune_command("log")[1].splitlines()
    assert lines[1].startswith("   2  housing")
    assert lines[2].startswith("*  1  cs")
    logged = json.loads(mlx_tune_command("log", "--json")[1])
    assert [s["folder"][:8] for s in logged["sessions"]] == ["0001-cs-", "0002-hou"]
    assert logged["head"] == logged["sessions"][0]["id"]


def test_log_of_no_store_is_no_error(tmp_path, mlx_tune_command):
    code, out, _ = mlx_tune_command("log", "--store", tmp_path / "none")
    assert (code, out) == (0, f"{tmp_path / 'none'}: no sessions yet\n")


def test_show_describes_a_session(store, mlx_tune_command):
    code, out, _ = mlx_tune_command("show", "cs")
    assert code == 0
    assert out.startswith("session    1 cs, ")
    assert "cs.json · 5 rows, 0 rehearsed" in out
    assert "rank 2 — as you asked (--rank)" in out
    shown = json.loads(mlx_tune_command("show", "--json")[1])
    assert (shown["name"], shown["number"]) == ("housing", 2)


def test_an_unknown_session_lists_what_there_is(store, mlx_tune_command):
    code, _, error = mlx_tune_command("show", "dining")
    assert code == 2
    assert "dining" in error
    assert "0001-cs-" in error


def test_rollback_says_where_head_is_and_how_to_return(store, mlx_tune_command):
    code, out, _ = mlx_tune_command("rollback")
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith("✓ HEAD is 0001-cs-")
    assert "(was 0002-housing-" in first
    again = second.removeprefix("take it up again with: mlx-tune ").split()
    assert mlx_tune_command(*again)[1].startswith("✓ HEAD is 0002-housing-")


def test_eval_prints_the_matrix_and_keeps_it(store, mlx_tune_command):
    code, out, error = mlx_tune_command("eval")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("answers of 0002-housing-")
    assert lines[2].startswith("word for word")
    assert [line.split("  ")[0] for line in lines[4:7]] == ["base", "1 cs", "2 housing"]
    assert all(line.count(" % of 5") == 2 for line in lines[4:7])
    assert "asking the base…" in error
    (kept,) = (store / "evals").iterdir()
    code, out, error = mlx_tune_command("eval", "--json", "--facts")
    found = json.loads(out)
    assert [entry["verbatim"]["asked"] for entry in found["recall"]] == [5, 5]
    assert found["session"] == lines[0].removeprefix("answers of ")
    assert found["facts"][0]["verbatim"]["asked"] == 5
    assert {cell["verbatim"]["source"] for cell in found["cells"]} == {
        "measured", "recorded", kept.name,
    }  # fmt: skip
    assert "asking the base" not in error
    assert "asking the base" in mlx_tune_command("eval", "--fresh")[2]
    assert "asking the base" not in mlx_tune_command("eval", "--quick")[2]


def test_eval_is_quick_or_fresh(store, mlx_tune_command):
    code, _, error = mlx_tune_command("eval", "--quick", "--fresh")
    assert code == 2
    assert error == (
        "error: --quick and --fresh: one measures a single row, the other all; give one of the "
        "two\n"
    )


def test_fuse_writes_a_folder(store, mlx_tune_command, tmp_path):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "fused", "--session", "cs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("✓ 0001-cs-")
    assert re.fullmatch(
        r"change     \S+ % of the weights \(rms\); most in layer [01]: \S+ %", lines[1]
    )
    assert re.fullmatch(r"kept       all of it in float32, to \de-0\d of it", lines[2])
    assert lines[3].startswith("try it with: mlx_lm.generate --model ")
    assert (tmp_path / "fused" / "model.safetensors").exists()


def test_fuse_reports_as_json_what_the_folder_says_of_itself(store, mlx_tune_command, tmp_path):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "fused", "--json")
    assert code == 0
    written = json.loads((tmp_path / "fused" / "mlx-tune.json").read_text())
    assert json.loads(out) == {"out": str(tmp_path / "fused"), **written}
    assert len(written["sessions"]) == 2


def test_fuse_quantises_and_says_what_is_known_after(store, mlx_tune_command, tmp_path):
    code, out, error = mlx_tune_command("fuse", "--out", tmp_path / "f", "--quantise", "8:32")
    assert code == 0
    lines = out.splitlines()
    assert " in 8 bits" in lines[2]
    assert re.fullmatch(
        r"knows      cs 0 of 5 right \(0 before\), housing 0 of 5 right \(0 before\),"
        r" general answers [+-]\d\.\d\d nats a token \([+-]\d\.\d\d before\)",
        lines[3],
    )
    assert error == (
        "asking what it knows before…\nfolding and writing…\nasking the 8-bit model the same…\n"
    )
    assert mlx_tune_command("fuse", "--out", tmp_path / "g", "--quantise", "9")[0] == 2


def test_the_bare_base_has_nothing_to_keep(store, mlx_tune_command, tmp_path):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "f", "--session", "base")
    assert code == 0
    assert [line.split(" ")[0] for line in out.splitlines()] == ["✓", "try"]


def test_doctor_on_a_damaged_store_ends_with_4(store, mlx_tune_command):
    assert mlx_tune_command("doctor")[0] == 0
    session = next((store / "sessions").glob("0001-*"))
    (session / "data.jsonl").write_text("{}\n")
    code, out, error = mlx_tune_command("doctor")
    assert code == 4
    assert "✗ store" in out
    assert "data.jsonl" in out
    assert error.startswith("error: adapters/sessions/0001-cs-")


def test_chat_prompt_prints_the_answer_alone(store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Room", " 4.")
    assert mlx_tune_command("chat", "-p", "Where?") == (0, "Room 4.\n", "")
    assert asked == ["<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"]


def typed(monkeypatch, *lines: str):
    """Let a person type lines and then leave."""
    answers = iter(lines)

    def read(prompt=""):
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_chat_obeys_its_commands(store, mlx_tune_command, monkeypatch, tiny_base):
    typed(monkeypatch, "/help", "/session", "/base", "/session 1", "/clear", "/what", "", "/exit",
          "never asked")  # fmt: skip
    code, out, error = mlx_tune_command("chat", "--max-tokens", 3)
    lines = out.splitlines()
    assert (code, error) == (0, "")
    assert lines[0].endswith("cs → housing answers; /help lists what else there is.")
    assert "/exit         leave (also Ctrl-D); Ctrl-C stops an answer" in lines
    assert [line.removeprefix(str(tiny_base)) for line in lines[-5:]] == [
        " + cs → housing answers",
        " (the bare base) answers",
        " + cs answers",
        "forgotten",
        "/what is no command; /help lists them",
    ]


def test_a_slip_in_chat_does_not_end_it(store, mlx_tune_command, monkeypatch):
    typed(monkeypatch, "/session nobody", "/session cs")
    code, out, error = mlx_tune_command("chat")
    assert code == 0
    assert "nobody" in error
    assert out.splitlines()[-1].endswith("+ cs answers")


def saying(monkeypatch, *pieces):
    """Let the model say given pieces; an exception among them is raised there."""
    from mlx_tune.inference import GeneratedText, generate

    asked = []

    def stream(model, tokenizer, prompt, **options):
        asked.append(tokenizer.decode_raw(prompt))
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield GeneratedText(text=piece, finish_reason=None)

    monkeypatch.setattr(generate, "stream", stream)
    return asked


LONG_URL = "https://cs.tarrowmere.example/people/@imarlow?tab=talks&year=2026#graph-algorithms" * 3


def test_a_url_is_never_broken_whatever_the_width(store, mlx_tune_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    saying(monkeypatch, "See ", *LONG_URL, " today.")
    _, out, _ = mlx_tune_command("chat", "-p", "Where?")
    assert out == f"See {LONG_URL} today.\n"


def test_the_conversation_is_remembered_and_forgotten(store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Blue", ".")
    typed(monkeypatch, "Colour?", "Why?", "/clear", "Again?")
    mlx_tune_command("chat")
    assert [text.count("<|im_start|>user") for text in asked] == [1, 2, 1]
    assert "<|im_start|>assistant\nBlue.<|im_end|>" in asked[1]


def test_ctrl_c_stops_an_answer_and_not_the_chat(store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Once upon", KeyboardInterrupt())
    typed(monkeypatch, "Tell me", "And?")
    code, out, _ = mlx_tune_command("chat")
    assert code == 0
    assert out.splitlines()[1:] == ["Once upon …stopped", "Once upon …stopped"]
    assert "<|im_start|>assistant\nOnce upon<|im_end|>" in asked[1]


def test_every_url_of_an_answer_reaches_the_terminal_unbroken(store, mlx_tune_command, monkeypatch):
    """The sentences that the page's tests use, letter by letter, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    corpus = json.loads((Path(__file__).parents[1] / "serving" / "urls.json").read_text())
    saying(monkeypatch, *"\n".join(one["text"] for one in corpus))
    code, out, _ = mlx_tune_command("chat", "--prompt", "Where?")
    assert code == 0
    assert len(corpus) >= 40
    lines = out.split("\n")
    for url in (url for one in corpus for url in one["urls"]):
        assert any(url in line for line in lines), url


def test_base_list_and_show(mlx_tune_command, tiny_base):
    code, out, _ = mlx_tune_command("base", "list")
    assert code == 0
    assert "  smollm2-135m " in out
    listed = json.loads(mlx_tune_command("base", "list", "--json")[1])
    assert [entry["here"] for entry in listed] == [False] * 5
    code, out, _ = mlx_tune_command("base", "show", tiny_base)
    assert code == 0
    assert "hidden size   32" in out
    shown = json.loads(mlx_tune_command("base", "show", tiny_base, "--json")[1])
    assert len(shown["fingerprint"]) == 64


def test_without_a_fast_blas_every_command_that_computes_says_so_once(
    store, mlx_tune_command, monkeypatch
):
    from mlx_tune import blas

    monkeypatch.setattr(blas, "loaded", None)
    monkeypatch.setattr("sys.platform", "linux")
    _, _, error = mlx_tune_command("eval")
    assert error.count("note: no fast BLAS found") == 1


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_training_that_was_asked_to_stop_says_one_line_and_the_same_data_offers_it(
    store, mlx_tune_command, monkeypatch, tmp_path, number, code
):
    from mlx_tune.cli.training_view import TrainingView

    (tmp_path / "more.json").write_text(json.dumps(ROWS))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingView, "stop", lambda self: number)
        found = mlx_tune_command("train", "more.json", "--epochs", 3, "--rank", 2)
    (run,) = (store / "runs").glob("*-more")
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
    store, mlx_tune_command, monkeypatch, tmp_path, number, code, moment, said
):
    from mlx_tune.store.runs import Run

    done = getattr(Run, moment)

    def then_signal(*words, **options):
        found = done(*words, **options)
        os.kill(os.getpid(), number)
        return found

    (tmp_path / "more.json").write_text(json.dumps(ROWS))
    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, then_signal)
        found = mlx_tune_command("train", "more.json", "--epochs", 2, "--rank", 2)
    assert found[0] == code, found[2]
    (run,) = (store / "runs").glob("*-more")
    assert found[2].splitlines()[-1] == f"{said}; go on with: mlx-tune resume {run.name}"
    assert mlx_tune_command("resume")[0] == 0


def test_an_interrupted_training_says_how_to_go_on(store, mlx_tune_command, monkeypatch, tmp_path):
    from mlx_tune.cli.training_view import TrainingView

    stepped = TrainingView.stepped

    def interrupted(self, step):
        stepped(self, step)
        if step.number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingView, "stepped", interrupted)
    (tmp_path / "more.json").write_text(json.dumps(ROWS))
    code, _, error = mlx_tune_command("train", "more.json", "--epochs", 3, "--rank", 2)
    assert code == 130
    (run,) = (store / "runs").glob("*-more")
    assert error.splitlines()[-1] == f"the run is kept; go on with: mlx-tune resume {run.name}"
    monkeypatch.setattr(TrainingView, "stepped", stepped)
    code, out, _ = mlx_tune_command("resume")
    assert code == 0
    assert "✓ saved adapters/sessions/0003-more-" in out


def test_log_lists_what_is_sound_before_it_complains(store, mlx_tune_command):
    session = next((store / "sessions").glob("0002-*"))
    (session / "session.json").write_text("{}")
    code, out, error = mlx_tune_command("log")
    assert code == 4
    assert "1  cs" in out
    assert "`mlx-tune rollback --to " in error
    code, out, _ = mlx_tune_command("rollback", "--to", 1)
    assert code == 0
    assert out.startswith("✓ HEAD is 0001-cs-")
    assert "(was a damaged session, which is kept)" in out


def test_a_leading_tilde_is_the_home_folder(tmp_path, mlx_tune_command, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert mlx_tune_command("log", "--store=~/mine")[1] == f"{tmp_path}/mine: no sessions yet\n"


def test_a_mistyped_store_does_not_pass_for_a_trained_one(
    tmp_path, tiny_base, mlx_tune_command, monkeypatch
):
    saying(monkeypatch, "Hm.")
    words = ("chat", "-p", "Where?", "--base", tiny_base, "--store", tmp_path / "typo")
    code, out, error = mlx_tune_command(*words)
    assert (code, out) == (0, "Hm.\n")
    assert f"note: no session is in use in {tmp_path / 'typo'}, so the bare base answers" in error
    assert "note" not in mlx_tune_command(*words, "--session", "base")[2]


def test_bytes_that_are_no_text_do_not_end_a_chat(store, mlx_tune_command, monkeypatch):
    typed(monkeypatch, "h\udcff", "And?")
    code, _, error = mlx_tune_command("chat", "--max-tokens", 2)
    assert (code, error) == (0, "")


def test_what_steers_a_terminal_is_not_printed(store, mlx_tune_command, tmp_path):
    row = {"instruction": "cs: Where is 1?", "response": "\x1b[2J gone"}
    (tmp_path / "evil.json").write_text(json.dumps([row]))
    again = {"instruction": "cs: Where is 1?", "response": "calm"}
    (tmp_path / "calm.json").write_text(json.dumps([again]))
    assert mlx_tune_command("train", "evil.json", *FEW)[0] == 0
    _, out, _ = mlx_tune_command("plan", "calm.json")
    assert "was: ·[2J gone" in out
    assert "\x1b" not in out


def test_a_path_in_brackets_is_printed_whole(tmp_path, tiny_base, mlx_tune_command):
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    store = tmp_path / "[red]s[/]"
    words = ("train", tmp_path / "d.json", "--base", tiny_base, "--store", store, *FEW)
    code, out, _ = mlx_tune_command(*words)
    assert code == 0
    assert f"✓ saved {store}/sessions/0001-d-" in out
    assert f"  mlx-tune chat --store '{store}' " in out
