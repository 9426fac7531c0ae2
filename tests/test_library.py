"""The library: what a program can do with a store, and the examples of docs/python.md."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_tune
from mlx_tune import Store, TrainingObserver
from mlx_tune.errors import InputError, UsageError
from mlx_tune.models import runtime

DOCS = Path(__file__).parents[1] / "docs"
ROWS = [{"instruction": f"Where is hall {i}?", "response": f"In room {i}."} for i in range(4)]


@pytest.fixture
def folder(tmp_path, tiny_base, monkeypatch):
    """An empty folder to work in; the base that fits this machine is a tiny one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "default_base", lambda: str(tiny_base))
    return tmp_path


def test_the_examples_of_the_page_run_one_after_the_other(folder, capsys):
    (folder / "data").mkdir()
    (folder / "data" / "housing.json").write_text(json.dumps(ROWS))
    page = (DOCS / "python.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 7
    names: dict = {}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "0001-labs-" in printed
    assert 'rows:1: "respose" is not a field; did you mean "response"?' in printed
    assert (folder / "my-model" / "config.json").exists()


def test_rows_and_a_file_of_the_same_rows_make_the_same_adapter(folder):
    Path("halls.json").write_text(json.dumps(ROWS))
    trained = [
        Store(root).train(data, name="halls", epochs=2, general_replay=0.0)
        for root, data in (("one", ROWS), ("two", "halls.json"))
    ]
    first, second = (outcome.session.hashes["adapters.safetensors"] for outcome in trained)
    assert first == second


def test_an_observer_may_stop_a_training_which_resume_finishes(folder):
    class Stopping(TrainingObserver):
        def stop(self):
            return 15

    store = Store("halls")
    with pytest.raises(mlx_tune.errors.Interrupted):
        store.train(ROWS, epochs=3, observer=Stopping())
    outcome = store.resume()
    assert outcome.session.record["training"]["epochs"] == 3


def test_messages_go_to_whoever_is_named(folder):
    lines: list[str] = []
    Store("halls", say=lines.append).train(ROWS, epochs=1)
    assert "asking what was learned, and what was there before…" in lines


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([], InputError, "no data was named"),
        ([{"text": object()}], InputError, "a row holds what JSON can"),
        (["a.json", ROWS[0]], UsageError, "give either files or rows"),
        ("nowhere.json", InputError, "nowhere.json: does not exist"),
    ],
)
def test_data_that_is_none_gets_one_line(folder, data, kind, message):
    with pytest.raises(kind, match=message):
        Store("halls").train(data)
    assert not Path("halls").exists()


def test_a_setting_that_there_is_not_is_named(folder):
    with pytest.raises(UsageError, match='--epoch is not a setting; did you mean "epochs"'):
        Store("halls").train(ROWS, epoch=3)


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'mlx', 'mlx_lm', 'numpy', 'transformers', 'tokenizers', 'typer', 'yaml'}"
    program = (
        f"import sys; from mlx_tune import Store; Store('x'); print({heavy} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


def test_a_name_that_the_package_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Shop'"):
        mlx_tune.Shop  # noqa: B018


def test_a_session_is_named_removed_kept_and_collected(folder):
    store = Store("halls", say=lambda line: None)
    store.train(ROWS, epochs=1, name="halls", general_replay=0.0)
    session = store.train(ROWS[:2], epochs=1, name="more", general_replay=0.0).session
    assert store.tag("best") == session
    with pytest.raises(UsageError, match="HEAD is there"):
        store.remove("more")
    store.rollback("halls")
    with pytest.raises(UsageError, match="the tag best names it"):
        store.remove("more")
    store.untag("best")
    assert store.remove("more") == session
    assert store.snapshot().is_removed(session)
    store.remove("more", undo=True)
    store.remove("more")
    assert store.gc(dry_run=True).done.moved == store.gc().done.moved == (session.folder_name,)
    assert [one.name for one in store.snapshot().sessions.values()] == ["halls"]
    assert store.verify().problems == []


def test_only_sessions_have_tags_and_can_be_removed(folder):
    store = Store("halls")
    store.train(ROWS, epochs=1, general_replay=0.0)
    with pytest.raises(UsageError, match="only sessions have tags"):
        store.tag("best", "base")
    with pytest.raises(UsageError, match="the base model is no session"):
        store.remove("base")
