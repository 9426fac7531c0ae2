"""No error leaves a run that `resume` cannot finish or close.

The first half lets every function that raises an error do so, once, in a training and in a resume.
The second damages what a run stands on for good, and does word for word what the command says.
"""

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import tiny
from helpers.raised_errors import RaisingFunction, StruckObserver, raising_functions
from helpers.stores import contents, flip, state
from helpers.training_lab import RecordingObserver, TrainingLab, facts, isolated_environment
from mlx_tune.errors import MlxTuneError, NotFiniteError
from mlx_tune.files.sealed import MANIFEST, seal
from mlx_tune.models import runtime
from mlx_tune.store.runs import FAILED, Run, list_runs
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify
from mlx_tune.workflows.run import resume

FLAGS = {"epochs": 2, "rank": 2, "validation": 0.4, "general_replay": 0.3}

# One error, once


HARMLESS = {("models/tokenizer.py", "Tokenizer.render")}
"""It is called for no rows too, and then raises nothing."""


@dataclass(frozen=True)
class Undisturbed:
    """A training of a second session that nothing disturbs, and the resume of one that stopped.

    Attributes:
        before: The lab before the training, for copies.
        stopped: The lab with the run that stopped after its first epoch.
        calls: Of the training and of the resume: how often each raising function was called.
        adapter: What both end with.
        cache: Where the base's fingerprint and answers are, so that the same calls come again.
    """

    before: TrainingLab
    stopped: TrainingLab
    calls: dict[str, dict[tuple[str, str], int]]
    adapter: bytes
    cache: Path

    def walk(self, act: str) -> list[tuple[RaisingFunction, int]]:
        """Return what to strike in an act: each function that was called, and at which call.

        That is the first of a training, before there is a checkpoint, and the last of a resume.
        """
        calls = {key: count for key, count in self.calls[act].items() if key not in HARMLESS}
        reached = sorted(one for one in raising_functions() if (one.file, one.name) in calls)
        return [(one, 1 if act == "train" else calls[one.file, one.name]) for one in reached]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_base) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    with isolated_environment(folder):
        lab = TrainingLab(root=folder, base=tiny_base)
        lab.train(lab.data("one", facts("one", 2)), epochs=1, rank=2)
        before, stopped = (lab.copy(tmp_path_factory.mktemp(name)) for name in ("new", "stopped"))
        trained, resumed = StruckObserver(), StruckObserver()
        with counted(trained):
            adapter = train_two(lab, trained).session.read("adapters.safetensors")
        with pytest.raises(KeyboardInterrupt):
            train_two(stopped, RecordingObserver(stop_after=2))  # the first epoch's last
        goes_on = stopped.copy(tmp_path_factory.mktemp("goes-on"))
        with counted(resumed):
            resume(goes_on.store, None, resumed)
    calls = {"train": dict(trained.calls), "resume": dict(resumed.calls)}
    return Undisturbed(
        before=before, stopped=stopped, calls=calls, adapter=adapter, cache=folder / "cache"
    )


@contextlib.contextmanager
def counted(observer: StruckObserver) -> Iterator[None]:
    try:
        yield
    finally:
        observer.stop_counting()


def train_two(lab: TrainingLab, observer: RecordingObserver):
    return lab.train(lab.data("two", facts("two", 5)), observer=observer, **FLAGS)


@pytest.fixture
def strike_each(undisturbed, tmp_path, monkeypatch):
    """Strike one place after another, each in a copy; gives a line for each that went wrong."""
    monkeypatch.setattr(runtime, "can_compile", lambda: False)
    monkeypatch.setenv("MLX_TUNE_CACHE", str(undisturbed.cache))

    def strike_each(act: str, places: Iterable[tuple[RaisingFunction, int]]) -> str:
        problems = []
        for number, (struck, call) in enumerate(places):
            folder = tmp_path / str(number)
            folder.mkdir()
            problem = strike(undisturbed, act, struck, call, folder)
            problems += [f"{struck} at call {call}: {problem}"] * bool(problem)
            shutil.rmtree(folder)
        return "\n".join(problems)

    return strike_each


@pytest.mark.parametrize("act", ["train", "resume"])
def test_an_error_of_each_kind_leaves_a_run_that_is_finished_or_closed(
    undisturbed, strike_each, act
):
    """The slow test walks all of them; these are the last of each kind."""
    latest = {struck.error: (struck, call) for struck, call in undisturbed.walk(act)}
    assert len(latest) >= 8
    assert strike_each(act, latest.values()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("act", ["train", "resume"])
def test_an_error_at_any_place_leaves_a_run_that_is_finished_or_closed(
    undisturbed, strike_each, act
):
    assert strike_each(act, undisturbed.walk(act)) == ""


def strike(
    undisturbed: Undisturbed, act: str, struck: RaisingFunction, call: int, folder: Path
) -> str:
    """Let an error happen once; return what is wrong afterwards, if anything is."""
    lab = (undisturbed.before if act == "train" else undisturbed.stopped).copy(folder)
    observer, caught = StruckObserver(struck, call=call), None
    with counted(observer):
        try:
            train_two(lab, observer) if act == "train" else resume(lab.store, None, observer)
        except Exception as error:
            caught = error
    if caught is not None and not isinstance(caught, MlxTuneError):
        return f"it became {caught!r}"
    run, had_checkpoint = observer.run, observer.run.newest_checkpoint() is not None
    if caught is not None and Run.open(run.path).is_unfinished:
        resume(lab.store, run.path.name, RecordingObserver())
    store = SessionStore.open(lab.store).snapshot()
    if verify(store).problems:
        return f"{verify(store).problems}"
    made = [session for session in store.sessions.values() if session.name == "two"]
    if Run.open(run.path).record["phase"] == FAILED:
        ends_alike = isinstance(caught, NotFiniteError)
        if had_checkpoint and not ends_alike:
            return "a run that could go on was closed"
        return "a run that is closed committed a session" if made else ""
    if len(made) != 1 or len(store.sessions) != 2:
        return f"{len(made)} sessions were committed"
    if caught is not None and made[0].read("adapters.safetensors") != undisturbed.adapter:
        return "another adapter was committed"
    return ""


BEFORE_A_RUN = {
    ("workflows/run.py", "discard"),
    ("workflows/run.py", "find_run"),
    ("workflows/run.py", "train"),
}
"""They raise before there is a run's folder, or about one that is not gone on with."""


def test_every_error_of_a_run_is_walked(undisturbed):
    """A new one in these files is walked by itself, unless the two trainings do not come there."""
    files = {f"workflows/{name}.py" for name in ("run", "training_plan", "steps", "gate_run")}
    raising = {(one.file, one.name) for one in raising_functions() if one.file in files}
    walked = {*undisturbed.calls["train"], *undisturbed.calls["resume"]}
    assert raising - walked == BEFORE_A_RUN
    needed = {
        ("continual/recall.py", "score"), ("models/fetch.py", "loading_errors"),
        ("store/store.py", "SessionStore.move_head"), ("training/loop.py", "Trainer._step"),
        ("files/durable.py", "disk_errors"), ("store/snapshot.py", "StoreSnapshot.find"),
        ("training/checkpoint.py", "TrainerState.check"),
    }  # fmt: skip
    assert needed <= walked
    assert {one.error for one in raising_functions() if (one.file, one.name) in walked} >= {
        "DamagedStoreError", "DiskError", "IncompatibleError", "InputError", "Interrupted",
        "LockedError", "NotFiniteError", "UsageError",
    }  # fmt: skip


# Damage that stays


@pytest.fixture(scope="module")
def stopped_twice(tmp_path_factory) -> TrainingLab:
    """A store whose path has a blank: a session, and a run that stopped after two epochs."""
    folder = tmp_path_factory.mktemp("stopped twice")
    # Of its own numbers: where it is gone, a copy elsewhere would be found.
    lab = TrainingLab(root=folder, base=tiny.base_folder(folder / "base", seed=2))
    with isolated_environment(folder):
        lab.train(lab.data("one", facts("one", 2)), epochs=1, rank=2)
        observer = RecordingObserver(stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            lab.train(lab.data("two", facts("two", 2)), observer=observer, epochs=3, rank=2)
        assert sorted(path.name for path in (observer.run.path / "checkpoints").iterdir()) == [
            "step-000001", "step-000002",
        ]  # fmt: skip
    return lab


@pytest.fixture
def own(stopped_twice, tmp_path) -> Iterator[TrainingLab]:
    """A copy of it that a test may spoil; its base is put back afterwards."""
    kept = shutil.copytree(stopped_twice.base, tmp_path / "kept")
    folder = tmp_path / "with blank"
    folder.mkdir()
    yield stopped_twice.copy(folder)
    put_back(stopped_twice.base, kept)


def put_back(base: Path, kept: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(kept, base)


def run_of(lab: TrainingLab) -> Path:
    (path,) = (lab.store / "runs").glob("*-two")
    return path


def parent_of(lab: TrainingLab) -> Path:
    return next((lab.store / "sessions").glob("0001-one-*"))


def change_record(lab: TrainingLab, change: Callable[[dict], object]) -> None:
    path = run_of(lab) / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def change_rows(lab: TrainingLab, name: str) -> None:
    path = run_of(lab) / name
    path.write_text(path.read_text().replace("room 0", "room 1"))


def make_checkpoints_of_another_version(lab: TrainingLab) -> None:
    for path in (run_of(lab) / "checkpoints").iterdir():
        files = {name: data for name, data in contents(path).items() if name != MANIFEST}
        files["state.json"] = b"{}\n"
        for name, data in seal(files).items():
            (path / name).write_bytes(data)


def damage_checkpoints(lab: TrainingLab, *, newest: int) -> None:
    for path in sorted((run_of(lab) / "checkpoints").iterdir())[-newest:]:
        flip(path / "state.json")


def train_elsewhere(lab: TrainingLab, name: str) -> None:
    lab.train(lab.data(name, facts("elsewhere", 2)), epochs=1, rank=2)


def delete_as_base(lab: TrainingLab) -> None:
    """Let HEAD leave the session that the run stands on, and delete that by hand."""
    (lab.store / "HEAD").write_text("base\n")
    shutil.rmtree(parent_of(lab))


FINISHED = {
    "nothing": lambda lab: None,
    "the newest checkpoint": lambda lab: damage_checkpoints(lab, newest=1),
    "all checkpoints": lambda lab: damage_checkpoints(lab, newest=2),
    "HEAD is lost": lambda lab: (lab.store / "HEAD").write_text("garbage"),
    "HEAD moved": lambda lab: train_elsewhere(lab, "other"),
    "a session took the name": lambda lab: train_elsewhere(lab, "two"),
    "the log": lambda lab: (run_of(lab) / "metrics.jsonl").unlink(),
}
"""What a resume goes on from all the same."""

CLOSED = {
    "no base": lambda lab: shutil.rmtree(lab.base),
    "another base": lambda lab: tiny.base_folder(lab.base, seed=1),
    "a base that cannot be read": lambda lab: (lab.base / "config.json").write_text("{"),
    "the parent's rows": lambda lab: flip(parent_of(lab) / "data.jsonl"),
    "the parent's adapter": lambda lab: flip(parent_of(lab) / "adapters.safetensors"),
    "the parent's record": lambda lab: flip(parent_of(lab) / "session.json"),
    "no parent": lambda lab: shutil.rmtree(parent_of(lab)),
    "no parent, and HEAD elsewhere": delete_as_base,
    "a garbled record": lambda lab: flip(run_of(lab) / "run.json"),
    "no record": lambda lab: (run_of(lab) / "run.json").unlink(),
    "a record without settings": lambda lab: change_record(lab, lambda r: r.pop("sizing")),
    "a record of other kinds": lambda lab: change_record(lab, lambda r: r.update(mixture=3)),
    "settings of another version": lambda lab: change_record(
        lab, lambda r: r["sizing"].update(later=dict(r["sizing"]["rank"]))
    ),
    "an unknown method": lambda lab: change_record(
        lab, lambda r: r["sizing"]["method"].update(value="later")
    ),
    "new rows": lambda lab: change_rows(lab, "new.jsonl"),
    "old rows": lambda lab: change_rows(lab, "old.jsonl"),
    "no old rows": lambda lab: (run_of(lab) / "old.jsonl").unlink(),
    "rows that are none": lambda lab: (run_of(lab) / "new.jsonl").write_text("[]"),
    "general rows": lambda lab: (run_of(lab) / "guards.jsonl").write_text("{}\n"),
    "checkpoints of another version": make_checkpoints_of_another_version,
    "no store": lambda lab: shutil.rmtree(lab.store),
}
"""What a resume cannot go on from, and says how to give the run up."""


@pytest.fixture
def command(own, mlx_tune_command, monkeypatch):
    """Call a command on the store of the lab, from a folder where no other store is."""
    monkeypatch.chdir(own.root)
    return mlx_tune_command


def unfinished(lab: TrainingLab) -> list[str]:
    notes: list[str] = []
    runs = [run.path.name for run in list_runs(lab.store, notes=notes) if run.is_unfinished]
    return runs + notes


def advised(said: str) -> list[list[str]]:
    """Return the commands that are told, in the order in which they are."""
    found = re.findall(r"`mlx-tune ([^`]+)`|go on with: mlx-tune (.+)", said)
    return [shlex.split(quoted or last) for quoted, last in found]


def check_training_goes_on(lab: TrainingLab, command) -> None:
    """Train another file as a person would, who does what is said if HEAD is damaged too."""
    (lab.root / "more.json").write_text(json.dumps([{"instruction": "Why?", "response": "So."}]))
    words = ("train", "more.json", "--store", lab.store, "--epochs", 1, "--rank", 2)
    code, _, said = command(*words, "--base", lab.base)
    if code == 4:
        for back in advised(said):
            command(*back)
        code, _, said = command(*words, "--base", lab.base)
    assert code == 0, said


@pytest.mark.parametrize("damage", FINISHED)
def test_what_need_not_stop_a_run_does_not(own, command, damage):
    FINISHED[damage](own)
    before = {path.name: contents(path) for path in (own.store / "sessions").iterdir()}
    code, _, said = command("resume", "--store", own.store)
    assert code == 0, said
    assert unfinished(own) == []
    assert (
        before.items() <= {p.name: contents(p) for p in (own.store / "sessions").iterdir()}.items()
    )
    check_training_goes_on(own, command)


@pytest.mark.parametrize("damage", CLOSED)
def test_what_a_run_cannot_go_on_from_is_said_with_a_command_that_closes_it(
    own, command, tmp_path, damage
):
    CLOSED[damage](own)
    before = state(own.store / "sessions") if own.store.exists() else {}
    code, _, said = command("resume", "--store", own.store)
    assert code in (2, 3, 4, 5), said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert "internal error" not in said
    for words in advised(said):
        if unfinished(own):
            command(*words)
    assert unfinished(own) == [], said
    assert (state(own.store / "sessions") if own.store.exists() else {}) == before
    put_back(own.base, tmp_path / "kept")  # without its base no training goes on
    check_training_goes_on(own, command)
