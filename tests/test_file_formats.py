"""docs/file-formats.md says what each key of each file is, and names none that is gone."""

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from helpers.training_lab import RecordingObserver, TrainingLab, facts, isolated_environment
from mlx_tune.continual.early_stopping import EarlyStopping
from mlx_tune.files import lock
from mlx_tune.models.load import Quantisation
from mlx_tune.settings import FIELDS
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.evaluate import evaluate
from mlx_tune.workflows.export_adapter import export_peft
from mlx_tune.workflows.fuse import fuse
from mlx_tune.workflows.import_adapter import ImportRequest, import_adapter
from mlx_tune.workflows.run import train
from mlx_tune.workflows.store_commands import rollback

ANY_NAME = {
    "sizing": "SETTING", "fidelity.layers": "LAYER", "gate.skipped": "SESSION",
    "gate.general.kinds": "KIND", "general.kinds": "KIND", "quantised.general.kinds": "KIND",
    "quantised.general_before.kinds": "KIND",
}  # fmt: skip
LEARNS = {"learning_rate": 0.02, "epochs": 5, "rank": 16}
PAGE = (Path(__file__).parents[1] / "docs" / "file-formats.md").read_text(encoding="utf-8")


def documented(title: str) -> set[str]:
    """Return the keys in the tables of a section, up to the next heading of any level."""
    section = re.split(r"^#+ ", PAGE.split(f"# `{title}`\n", 1)[1], maxsplit=1, flags=re.M)[0]
    return leaves(set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.M)))


def keys(value: object, path: str = "") -> set[str]:
    """Return the places inside a value: ``a.b``, ``a[].b``; where any name may stand is one."""
    found = set()
    if isinstance(value, dict):
        for key, child in value.items():
            key = ANY_NAME.get(path, key)
            found |= keys(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        found = set().union(*(keys(item, f"{path}[]") for item in value))
    return leaves(found or {path})


def leaves(places: set[str]) -> set[str]:
    """Leave out what holds other places: the page may explain it, and need not."""
    return {p for p in places if not any(q.startswith((f"{p}.", f"{p}[]")) for q in places)}


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_base) -> SessionStore:
    """A store with everything in it: a tag, a mark, trash, every kind of session, an evaluation, an
    interrupted run; and beside it a cache and a fused model.
    """
    folder = tmp_path_factory.mktemp("formats")
    with isolated_environment(folder):
        lab = TrainingLab(root=folder, base=tiny_base)
        store = SessionStore.open(lab.store)
        sessions = []
        for name in ("one", "two", "three"):
            reworded = lab.data(name, facts(name, 2), paraphrases=["And where?"])
            sessions.append(lab.train(reworded, epochs=1, rank=2, validation=0.5).session)
            if name != "one":
                store.move_head(sessions[0], expected=sessions[-1], why="rollback")
        one, two, three = sessions
        tag(store, "best", one)
        mark_removed(store, two)
        collect_garbage(store, today=date(2026, 11, 23))
        mark_removed(store, three)
        short = lab.data("five", {"Where is A?": "In 31.", "Where is B?": "In 52."})
        five = lab.train(short, replay="none", **LEARNS).session
        six = {"method": "seed", "keep_data": False, "general_replay": 0.5, "epochs": 1}
        replacing = lab.data("six", facts("six", 2), wordings=1, replaces=["where is a"])
        lab.train(replacing, **six)
        rollback(lab.store, five.id)
        train(
            replace(lab.request(epochs=1, rank=2), data=(), consolidates=True), RecordingObserver()
        )
        rollback(lab.store, five.id)
        asked = {"session": None, "base": None, "say": RecordingObserver().say}
        evaluate(lab.store, on=None, **asked)
        eight = Quantisation(bits=8, group_size=32)
        fuse(lab.store, out=lab.store.parent / "fused", quantise=eight, anyway=True, **asked)
        peft = lab.store.parent / "peft"
        export_peft(lab.store, out=peft, separate=False, **asked)
        request = ImportRequest(path=peft, store=lab.store)
        import_adapter(request, RecordingObserver())
        noised = {"question_noise": 2, "observer": RecordingObserver(stop_after=1)}
        with pytest.raises(KeyboardInterrupt):
            lab.train(lab.data("four", facts("four", 2)), **noised)
    return store


def found(store: SessionStore, pattern: str) -> set[str]:
    """Return the keys of every JSON object in the files of a pattern."""
    objects = []
    for path in store.root.parent.glob(pattern):
        text = path.read_text(encoding="utf-8")
        objects += (
            map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else [json.loads(text)]
        )
    assert objects, pattern
    places = leaves(set().union(*map(keys, objects)))  # null in one, an object in another
    # The page says once what a score holds.
    return {once(place) for place in places}


def once(place: str) -> str:
    """Return a place as the page names it: what a score holds is said once, of one of its kind."""
    place = re.sub(r"(paraphrases|other_words)(\.|\[\]).*", r"\1", place)
    return re.sub(r"(measures\.as_taught)\..*", r"\1", place)


@pytest.mark.parametrize(
    ("title", "pattern"),
    [
        ("format.json", "store/format.json"),
        ("adapter_config.json", "store/sessions/*/adapter_config.json"),
        ("session.json", "store/sessions/*/session.json"),
        ("run.json", "store/runs/*/run.json"),
        ("guards.jsonl", "store/runs/*/guards.jsonl"),
        ("metrics.jsonl", "store/runs/*/metrics.jsonl"),
        ("state.json", "store/runs/*/checkpoints/*/state.json"),
        ("evals/", "store/evals/*.json"),
        ("mlx-tune.json", "fused/mlx-tune.json"),
        ("general/", "cache/general/*.json"),
    ],
)
def test_every_key_of_a_file_is_on_the_page_and_no_other(store, title, pattern):
    assert documented(title) == found(store, pattern)


def test_an_exam_says_what_the_page_says():
    """No store shows it: a tiny base is never sure enough of a word to be examined."""
    assert keys(json.loads(EarlyStopping(rows=(0,), min_epochs=1).to_json())) == documented(
        "exam.json"
    )


def test_settings_are_explained_on_their_own_page(store):
    sizing = store.snapshot().head().record["sizing"]
    assert sizing.keys() <= FIELDS.keys()


def test_every_key_of_the_json_that_log_prints_is_on_the_page(store, mlx_tune_command):
    logged = json.loads(mlx_tune_command("log", "--json", "--store", store.root)[1])
    logged["damaged"] = [{"folder": "", "problem": ""}]
    assert documented("log --json") == {once(place) for place in keys(logged)}


def test_a_held_lock_says_what_the_page_says(tmp_path):
    with lock.hold(tmp_path / "lock", what="train cs"):
        signed = json.loads((tmp_path / "lock").read_text())
    assert keys(signed) == documented("lock` and `training.lock")


@pytest.mark.parametrize("ref", ["one", "three"])
def test_a_session_holds_the_files_that_the_page_lists(store, ref):
    tree = PAGE.split("```")[1]
    names = {path.name for path in store.snapshot().find(ref).path.iterdir()}
    assert names <= set(tree.split())
    assert "held-out.jsonl" in names
    headings = re.findall(
        r"^### .*$", PAGE.split("## `sessions/`")[1].split("\n## ")[0], flags=re.M
    )
    assert set(re.findall("`([^`]+)`", " ".join(headings))) == names


def test_everything_in_a_store_is_on_the_page(store):
    """Whatever a store has at its top, and in a run, has a heading or a place in the tree."""
    for path in [*store.root.iterdir(), *store.root.glob("runs/*/*")]:
        assert re.search(rf"^#+ .*`{re.escape(path.name)}/?`", PAGE, flags=re.M), path.name


def test_head_log_is_of_the_form_that_the_page_gives(store):
    time, word = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "(base|[0-9a-f]{64})"
    lines = (store.root / "HEAD.log").read_text().splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(f"{time} {word} {word} .*", line)


def test_the_page_is_linked_from_the_readme_and_the_architecture():
    root = Path(__file__).parents[1]
    for page in ("README.md", "docs/architecture.md"):
        assert "file-formats.md)" in (root / page).read_text(encoding="utf-8"), page
