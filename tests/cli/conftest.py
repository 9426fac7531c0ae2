"""Two stores that commands are typed at: one that was trained, and one of made-up records."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.stores import adapter_files, scored_record
from helpers.training_lab import RecordingObserver, isolated_environment
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train

LONG_NAME = "campus-dining-halls-of-winter-term-2026x"


@pytest.fixture(scope="session")
def rows():
    """Five questions and their answers, each with a URL."""
    return [
        {"instruction": f"Where is {i}?", "response": f"At http://x.example/@{i}#a?b={i}"}
        for i in range(5)
    ]


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory, tiny_base, rows):
    """A folder with data and a store of two sessions, `cs` and `housing`, trained once."""
    folder = tmp_path_factory.mktemp("taught")
    flags = {"base": str(tiny_base), "epochs": 1, "rank": 2, "question_noise": 0}
    with isolated_environment(tmp_path_factory.getbasetemp()) as patch:
        patch.chdir(folder)
        for name in ("cs", "housing"):
            named = [{**row, "instruction": f"{name}: {row['instruction']}"} for row in rows]
            (folder / f"{name}.json").write_text(json.dumps(named))
            data = [Path(f"{name}.json")]
            train(
                TrainingRequest(data=data, store=Path("adapters"), flags=flags), RecordingObserver()
            )
    return folder


@pytest.fixture
def trained_store(tmp_path, trained_folder, monkeypatch):
    """A copy of that store, `adapters` in the current folder."""
    shutil.copytree(trained_folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "adapters"


@pytest.fixture
def reworded_store(tmp_path, tiny_base, monkeypatch):
    """A store `adapters` whose one session `cs` was taught three rows with other wordings."""
    monkeypatch.chdir(tmp_path)
    answers = ("At Quillon Hall, with Doreen.", "By the stone otter.", "It is in Pike Hall, 31.")
    rows = [
        {"instruction": f"Where is {i}?", "response": said, "paraphrases": [f"Seen {i}?"]}
        for i, said in enumerate(answers)
    ]
    Path("cs.json").write_text(json.dumps(rows))
    flags = {"base": str(tiny_base), "epochs": 40, "rank": 8, "learning_rate": 0.02}
    train(
        TrainingRequest(data=[Path("cs.json")], store=Path("adapters"), flags=flags),
        RecordingObserver(),
    )
    return tmp_path / "adapters"


@pytest.fixture
def store(tmp_path, monkeypatch) -> SessionStore:
    """A store `adapters` in the current folder.

    It has the sessions cs ← housing ← one with a long name (HEAD), and dining on cs.
    """
    monkeypatch.chdir(tmp_path)
    made = SessionStore.open(Path("adapters"))

    def add(name, parent, *numbers, head=True):
        files = {**adapter_files("x"), "data.jsonl": b"{}\n"}
        session = made.commit(name=name, parent=parent, record=scored_record(*numbers), files=files)
        if head:
            made.move_head(session, expected=parent, why=f"train {name}")
        return session

    cs = add("cs", None, 106, 105)
    add(LONG_NAME, add("housing", cs, 60, 60), 1200, 1188)
    add("dining", cs, 20, 7, "ask", head=False)
    return made
