"""Bad inputs at the command line: one line, its exit code, and nothing lost."""

import json
import shutil
from pathlib import Path

import pytest

from helpers import tiny
from helpers.training_lab import RecordingObserver, isolated_environment
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train

GOOD = [{"instruction": "Where?", "response": "Room 4."}]
TAUGHT = [{**GOOD[0], "paraphrases": ["Which room?"], "wordings": ["Whereabouts?"]}]
FEW = ("--epochs", 1, "--rank", 2)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_base):
    """A store `s` of one session, trained once, and its data."""
    folder = tmp_path_factory.mktemp("taught")
    flags = {"base": str(tiny_base), "epochs": 1, "rank": 2, "question_noise": 0}
    with isolated_environment(tmp_path_factory.getbasetemp()) as patch:
        patch.chdir(folder)
        (folder / "good.json").write_text(json.dumps(TAUGHT))
        train(
            TrainingRequest(data=[Path("good.json")], store=Path("s"), flags=flags),
            RecordingObserver(),
        )
    return folder


@pytest.fixture
def bad(tmp_path, tiny_base, taught, monkeypatch, mlx_tune_command):
    """Train on some bytes in a store that has a session; check that nothing was lost."""
    shutil.copytree(taught, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    common = ("--base", tiny_base, "--store", "s", *FEW)
    head = (tmp_path / "s" / "HEAD").read_bytes()

    def train(content: object = None, *words: object, name: str = "data.json") -> tuple[int, str]:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif isinstance(content, str):
            (tmp_path / name).write_text(content)
        elif content is not None:
            (tmp_path / name).write_text(json.dumps(content, indent=1))
        code, _, errors = mlx_tune_command("train", name, *common, *words)
        assert (tmp_path / "s" / "HEAD").read_bytes() == head
        assert len(list((tmp_path / "s" / "sessions").iterdir())) == 1
        assert "Traceback" not in errors
        return code, "\n".join(x for x in errors.splitlines() if x.startswith(("error", "   ")))

    return train


def test_a_missing_file_an_empty_file_and_a_folder_without_data_are_refused(bad, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.json").touch()
    for name in ("nowhere.json", "folder", "empty.json", "notes.txt"):
        if name == "notes.txt":
            (tmp_path / name).write_text("x")
        code, error = bad(name=name)
        assert code == 3
        assert error.startswith(f"error: {name}: "), error
        assert ".json" in error
        assert ".jsonl" in error


def test_a_jsonl_line_that_does_not_parse_is_named_by_line_and_column(bad):
    code, error = bad('{"text": "a"}\n\n{"text": b}\n', name="d.jsonl")
    assert code == 3
    assert error.startswith("error: d.jsonl:3:10: "), error


def test_invalid_utf8_is_named_by_its_byte_offset(bad):
    code, error = bad(b'[{"text": "\xff"}]')
    assert code == 3
    assert "data.json" in error
    assert "offset 11" in error


def test_a_byte_order_mark_is_accepted(mlx_tune_command, tmp_path, tiny_base):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    code, _, _ = mlx_tune_command("plan", path, "--base", tiny_base, "--store", tmp_path / "s")
    assert code == 0


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": NaN}]',
        '[{"text": Infinity}]',
        '[{"text": 1e400}]',
        '[{"text": "a",\n "text": "b"}]',
    ],
)
def test_numbers_that_are_not_finite_and_duplicate_keys_are_refused(bad, text):
    code, error = bad(text)
    assert code == 3
    assert error.startswith(f"error: data.json:{1 + text.count(chr(10))}: "), error
    assert '"text"' in error


def test_nesting_ten_thousand_deep_is_refused(bad):
    code, error = bad("[" * 10_000 + "]" * 10_000)
    assert code == 3
    assert "64" in error


def test_a_file_that_is_too_large_is_refused(bad, monkeypatch):
    from mlx_tune.data import read

    monkeypatch.setattr(read, "MAX_FILE_BYTES", 10)
    code, error = bad(GOOD)
    assert code == 3
    assert "10" in error


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "a", "respose": "b"}, ['"respose"', 'did you mean "response"?']),
        ({"messages": [{"role": "usr", "content": "a"}]}, ['"usr"', '"user"']),
        ({"instruction": "a", "response": "  "}, ["response", "empty"]),
        ({"instruction": 4, "response": "b"}, ["instruction", "is a number"]),
    ],
)
def test_an_unknown_field_or_role_an_empty_answer_and_a_number_are_named(bad, row, words):
    code, error = bad([row])
    assert code == 3
    assert error.startswith("error: data.json:"), error
    assert all(word in error for word in words), error


ASKED = {"role": "user", "content": "How is it?"}
CALLED = {"name": "weather", "arguments": '{"city": "Brno"}'}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
            'message 2: call 1 has no "name"; add it',
        ),
        (
            {"messages": [ASKED, {"role": "tool", "content": "7"}, {"role": "assistant"}]},
            "message 2 answers no call before it; name its call, or leave the row out",
        ),
        (
            {**GOOD[0], "tools": {"name": "weather"}},
            '"tools" is an object, not a list; write [{"type": "function", "function": {"name": '
            '"…", "parameters": {…}}}]',
        ),
        # Nothing is wrong with it, but the base has no tools.
        (
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": CALLED}]}]},
            'the base\'s chat template leaves out the call of "weather" in message 2; use a base '
            "model whose template has it, or leave the row out",
        ),
    ],
)
def test_tools_and_calls_that_cannot_be_taught_are_named_with_what_to_do(bad, row, problem):
    code, error = bad(f"[{json.dumps(row)}]")
    assert code == 3
    assert error.splitlines()[0] == f"error: data.json:1: {problem}"


def test_rows_that_are_too_long_are_refused_unless_allowed(bad):
    code, error = bad([*GOOD, {"instruction": "a", "response": "b" * 900}])
    assert code == 3
    assert error == (
        "error: 1 of 2 rows (97% of the tokens) are longer than 512 tokens; the longest, "
        "data.json:6, has 921; raise --max-length, or leave them out with --allow-long"
    )


@pytest.mark.parametrize("count", [1, 7])
def test_one_row_trains_and_so_do_seven(mlx_tune_command, tmp_path, tiny_base, count):
    rows = [{"instruction": f"{i}?", "response": f"{i}."} for i in range(count)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    words = ("--base", tiny_base, "--store", tmp_path / "s", "--batch-size", 4, "--epochs", 1)
    code, out, _ = mlx_tune_command("train", tmp_path / "d.json", *words, "--json")
    assert code == 0
    assert json.loads(out)["recall"][0]["verbatim"]["asked"] == count


def test_repeated_and_contradicting_rows_are_listed_before_training(
    mlx_tune_command, bad, tmp_path, tiny_base
):
    rows = [
        *GOOD,
        {"instruction": "And?", "response": "One."},
        {"instruction": " And?", "response": "Two."},
        {"instruction": "and", "response": "Three."},
    ]
    (tmp_path / "again.json").write_text(json.dumps(rows, indent=1))
    code, out, _ = mlx_tune_command("plan", "again.json", "--base", tiny_base, "--store", "s")
    assert code == 0
    assert "! 1 row taught before with the same answer:\n    again.json:2" in out
    assert "! 1 row contradicting another row of the data:" in out
    assert "“And?” again.json:10 and again.json:6" in out
    assert "! 1 row asking nearly what another does, with another answer;" in out
    assert "“and” again.json:14 and “And?” again.json:6" in out
    (tmp_path / "changed.json").write_text(json.dumps([{**GOOD[0], "response": "Room 5."}]))
    _, out, _ = mlx_tune_command("plan", "changed.json", "--base", tiny_base, "--store", "s")
    assert "! 1 row replacing an earlier answer:" in out
    assert "“Where?” was: Room 4." in out
    changed = {"instruction": "Whereabouts? ", "response": "Room 5."}
    (tmp_path / "changed.json").write_text(json.dumps([changed]))
    _, out, _ = mlx_tune_command("plan", "changed.json", "--base", tiny_base, "--store", "s")
    assert "! 1 wording of earlier rows answered otherwise now; the rows go on without:" in out
    assert "“Whereabouts?” was: Room 4." in out


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [{"instruction": "B?", "response": "Two.", "wordings": ["Which room?"]}],
            'data.json:2: wording 1, "Which room?", is a paraphrase of PLACE; those measure and '
            "are never trained on, so remove one of the two",
        ),
        (
            [
                {"instruction": "B?", "response": "Two.", "wordings": ["Both?"]},
                {"instruction": "C?", "response": "Three.", "wordings": ["Both? "]},
            ],
            'data.json:9: wording 1, "Both? ", is asked at data.json:2 too, with another answer; '
            "remove one of them",
        ),
        (
            [{"instruction": "B?", "response": "Two.", "paraphrases": ["Whereabouts?"]}],
            'data.json:2: the paraphrase "Whereabouts?" is a wording of PLACE, which was trained '
            "on, so it measures nothing; remove it",
        ),
        (
            [{"instruction": "B?", "response": "Two.", "wordings": ["b"]}],
            'data.json:2: wording 1, "b", is the row\'s own question again; remove it',
        ),
    ],
)
def test_a_wording_that_measures_or_that_has_two_answers_is_refused_with_both_places(
    bad, tmp_path, rows, problem
):
    code, error = bad(rows)
    (session,) = (tmp_path / "s" / "sessions").iterdir()
    place = session.relative_to(tmp_path) / "data.jsonl"
    assert (code, error) == (3, f"error: {problem.replace('PLACE', f'{place}:1')}")


@pytest.mark.parametrize(
    "name", ["..", "../up", "a/b", "a\x00b", "a\nb", "CS", "", "-x", "x" * 41, "ünï"]
)
def test_session_names_that_are_not_allowed_are_refused(bad, name):
    if "\x00" in name:  # no process can be given one: it ends a word
        from mlx_tune.errors import UsageError
        from mlx_tune.store.session import check_name

        with pytest.raises(UsageError, match=r"a\\u0000b"):
            check_name(name)
        return
    code, error = bad(GOOD, f"--name={name}")
    assert code == 2
    assert "a-z" in error
    assert "\n" not in error


@pytest.mark.parametrize("weights", ["model.bin", "model.pt", "model.npy", "model.pickle"])
def test_a_base_with_weights_other_than_safetensors_is_refused(mlx_tune_command, tmp_path, weights):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / weights).write_bytes(b"\x80\x04K\x01.")
    code, _, error = mlx_tune_command("base", "show", tmp_path / "base")
    assert code == 3
    assert f"holds {weights}, but no model*.safetensors; only safetensors are read" in error


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("config.json", "model_file"),
        ("config.json", "auto_map"),
        ("tokenizer_config.json", "auto_map"),
    ],
)
def test_a_base_that_asks_to_run_its_own_code_is_refused(
    mlx_tune_command, tmp_path, tiny_base, name, key, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((base / name).read_text())
    (base / name).write_text(json.dumps({**config, key: {"AutoTokenizer": ["evil.T", None]}}))
    (base / "evil.py").write_text("raise SystemExit('it ran')")
    code, _, error = mlx_tune_command("chat", "-p", "Hi", "--base", base)
    assert code == 5
    assert "mlx-tune never does" in error


def test_a_chat_template_that_loops_for_ever_is_stopped(mlx_tune_command, tmp_path, monkeypatch):
    from mlx_tune.models import template

    monkeypatch.setattr(template, "LIMIT_SECONDS", 1.0)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    base = tiny.base_folder(tmp_path / "base", template=loop)
    (tmp_path / "d.json").write_text(json.dumps(GOOD))
    code, _, error = mlx_tune_command(
        "plan", tmp_path / "d.json", "--base", base, "--store", tmp_path / "s"
    )
    assert code == 3
    assert "chat template: still running after 1 seconds" in error


def test_a_download_that_stops_says_how_to_go_on(mlx_tune_command, monkeypatch):
    def stop(repo, **options):
        raise ConnectionError("connection reset")

    monkeypatch.setattr("huggingface_hub.snapshot_download", stop)
    code, _, error = mlx_tune_command("base", "pull", "someone/model")
    assert code == 8
    assert error.splitlines()[-1] == (
        "error: could not fetch someone/model (connection reset); what came is kept, "
        "try again: mlx-tune base pull someone/model"
    )


def test_a_gated_model_without_a_token_says_how_to_get_one(mlx_tune_command, monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub.errors import GatedRepoError

    def refuse(repo, **options):
        raise GatedRepoError("403", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    code, _, error = mlx_tune_command("base", "pull", "llama-3.2-3b")
    assert code == 8
    for part in (
        "https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct",
        "`hf auth login`",
        "--base mlx-community/Llama-3.2-3B-Instruct-bf16",
    ):
        assert part in error


def test_a_rollback_past_the_first_session_is_refused(bad, mlx_tune_command, tmp_path):
    assert mlx_tune_command("rollback", "--store", "s")[0] == 0
    code, _, error = mlx_tune_command("rollback", "--store", "s")
    assert code == 2
    assert error.startswith("error: s: HEAD is the base model already")
    assert len(list((tmp_path / "s" / "sessions").iterdir())) == 1


def test_fuse_onto_an_existing_folder_is_refused(bad, mlx_tune_command, tmp_path):
    (tmp_path / "mine").mkdir()
    code, _, error = mlx_tune_command("fuse", "--store", "s", "--out", "mine")
    assert code == 2
    assert error == "error: mine: exists, and nothing is overwritten; name another\n"
    assert list((tmp_path / "mine").iterdir()) == []
