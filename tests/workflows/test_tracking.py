"""A training that trackers record: each step once, a resumed run by its name, failures told."""

import pytest

from helpers.training_lab import RecordingObserver
from mlx_tune import Store
from mlx_tune.errors import UsageError
from mlx_tune.workflows import trackers

ROWS = [{"instruction": f"Where is {i}?", "response": f"In {i}."} for i in range(4)]
QUICK = {
    "epochs": 2, "rank": 2, "batch_size": 2, "grad_accumulation": 1, "general_replay": 0.0,
    "question_noise": 0, "name": "cs",
}  # fmt: skip


class Kept:
    """A tracker that keeps what it is told, and fails where a test wants it to."""

    records: list["Kept"]
    fails: str = ""

    def __init__(self, run, settings):
        self.run, self.settings, self.steps, self.ended = run, settings, {}, None
        type(self).records.append(self)
        self.fail("begin")

    def fail(self, where):
        if type(self).fails == where:
            raise RuntimeError("no route\nto the server")

    def log(self, step, values):
        self.fail("log")
        self.steps[step] = values

    def end(self, summary):
        self.fail("end")
        self.ended = dict(summary)


@pytest.fixture
def kept(monkeypatch):
    kind = type("Fresh", (Kept,), {"records": [], "fails": ""})
    monkeypatch.setattr(trackers, "TRACKERS", {"kept": ("json", kind), "gone": ("no_such", kind)})
    return kind


@pytest.fixture
def store(tmp_path, tiny_base):
    return Store(tmp_path / "store", base=str(tiny_base))


def test_every_step_and_how_it_ended(store, kept):
    observer = RecordingObserver()
    outcome = store.train(ROWS, observer=observer, track=["kept", "kept"], **QUICK)
    (record,) = kept.records
    assert record.run == observer.run.path.name
    assert record.settings["rank"] == 2
    assert record.settings["base"] == outcome.session.record["base"]["name"]
    assert [*record.steps] == [step.number for step in observer.steps] == [1, 2, 3, 4]
    for step, values in zip(observer.steps, record.steps.values(), strict=True):
        assert values["loss"] == step.loss
        assert values["tokens_per_second"] == step.tokens / step.seconds
        assert values["epoch"] == step.epoch
    (recall,) = outcome.recall
    assert record.ended["verdict"] == outcome.session.record["verdict"]
    assert record.ended["as_taught/cs"] == recall.as_taught.right / recall.as_taught.asked
    assert "other_words/cs" not in record.ended  # there are none


def test_a_run_is_resumed_under_its_name(store, kept):
    with pytest.raises(KeyboardInterrupt):
        store.train(ROWS, observer=RecordingObserver(stop_after=2), track=["kept"], **QUICK)
    store.resume(track=["kept"])
    first, second = kept.records
    assert first.run == second.run
    assert (first.ended, second.ended["verdict"]) == ({}, "promote")
    assert {*first.steps, *second.steps} == {1, 2, 3, 4}
    assert first.settings == second.settings


@pytest.mark.parametrize("where", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_told_once_and_ends_nothing(store, kept, where):
    kept.fails = where
    observer = RecordingObserver()
    outcome = store.train(ROWS, observer=observer, track=["kept"], **QUICK)
    notes = [line for line in observer.lines if "kept records no more" in line]
    assert notes == ["note: kept records no more of this training (no route to the server)"]
    assert len(observer.steps) == 4
    assert outcome.session in store.snapshot().sessions.values()


def test_everything_reaches_the_observer_as_without_a_tracker(store, kept, tmp_path, tiny_base):
    plain, tracked = RecordingObserver(), RecordingObserver()
    other = Store(tmp_path / "other", base=str(tiny_base))
    first = other.train(ROWS, observer=plain, **QUICK)
    second = store.train(ROWS, observer=tracked, track=["kept"], **QUICK)
    assert first.session.record["recall"] == second.session.record["recall"]
    assert [step.loss for step in plain.steps] == [step.loss for step in tracked.steps]
    assert (len(plain.plans), plain.chains) == (len(tracked.plans), tracked.chains)
    assert [*map(len, (plain.lines, plain.offers))] == [*map(len, (tracked.lines, tracked.offers))]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine", "no tracker 'mine'; known: kept, gone"),
        ("gone", "--track gone needs a package that is not here: pip install no_such"),
    ],
)
def test_an_unknown_tracker_and_a_missing_package_end_it_before_it_begins(store, kept, name, words):
    with pytest.raises(UsageError) as error:
        store.train(ROWS, track=[name], **QUICK)
    assert str(error.value) == words
    assert not store.root.exists()


def test_the_names_are_those_in_the_help(mlx_tune_command):
    _, printed, _ = mlx_tune_command("train", "--help")
    assert all(name in printed for name in trackers.TRACKERS)
