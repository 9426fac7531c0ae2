"""A training that ends when all is learned, or at the most epochs it may take."""

import pytest

from helpers.training_lab import RecordingObserver
from mlx_tune.continual import early_stopping
from mlx_tune.store.store import SessionStore
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.workflows import run
from mlx_tune.workflows.run import resume
from mlx_tune.workflows.store_commands import rollback

FLAGS = {
    "learning_rate": 0.01, "epochs": 60, "rank": 16, "batch_size": 8, "until_learned": True,
    "decay_epochs": 0,
}  # fmt: skip
PAIRS = {f"Where is A{i}?": f"In A{i + 3}." for i in range(4)}


@pytest.fixture(autouse=True)
def bolder(monkeypatch):
    """A tiny head never grows sure: its first choice is right long before its share is a half."""
    monkeypatch.setattr(early_stopping, "PASS_NATS", 1.6)


def training(outcome) -> dict:
    return outcome.session.record["training"]


def test_it_ends_with_the_epoch_after_which_every_row_was_known(lab):
    observer = RecordingObserver()
    found = training(lab.train(lab.data("cs", PAIRS), observer=observer, **FLAGS))
    assert found["is_learned"]
    assert found["epochs"] < 60
    assert found["steps"] == found["epochs"] == len(observer.steps)
    assert (
        f"all of it is known word for word after {found['epochs']} epochs: enough" in observer.lines
    )


def test_what_is_not_learned_takes_all_epochs_and_says_so(lab, monkeypatch):
    monkeypatch.setattr(early_stopping, "PASS_NATS", 0.0)
    found = training(lab.train(lab.data("cs", PAIRS), **{**FLAGS, "epochs": 5}))
    assert (found["is_learned"], found["epochs"]) == (False, 5)


def test_rows_that_contradict_each_other_do_not_keep_it_from_ending(lab):
    data = lab.data("cs", PAIRS | {"Where is  A0?": "Elsewhere."})
    assert training(lab.train(data, **FLAGS))["is_learned"]


def test_without_it_all_epochs_are_trained_and_no_row_is_checked(lab):
    flags = {**FLAGS, "epochs": 5, "until_learned": False}
    found = training(lab.train(lab.data("cs", PAIRS), **flags))
    assert (found["is_learned"], found["epochs"]) == (None, 5)


def test_it_ends_once_every_old_row_was_seen_to_be_known(lab, monkeypatch):
    """Six old rows beside one new one: one of them an epoch, and none has to come three times."""
    old = {f"Where is B{i}?": f"In B{i}." for i in range(6)}
    lab.train(lab.data("cs", old), **{**FLAGS, "epochs": 2})
    monkeypatch.setattr(early_stopping, "PASS_NATS", 100.0)  # known at once
    found = training(lab.train(lab.data("one", {"Where is C?": "In C."}), **FLAGS))
    assert (found["is_learned"], found["epochs"]) == (True, 6)


def test_it_can_end_early_however_long_the_history(lab, monkeypatch):
    """As many old rows as all epochs can hold: three turns of each would take the last of them."""
    old = {f"Where is B{i}?": f"In B{i}." for i in range(8)}
    lab.train(lab.data("cs", old), **{**FLAGS, "epochs": 2})
    monkeypatch.setattr(early_stopping, "PASS_NATS", 100.0)  # known at once
    flags, observer = {**FLAGS, "epochs": 12}, RecordingObserver()
    found = training(lab.train(lab.data("one", {"C?": "In C."}), observer=observer, **flags))
    (plan,) = observer.plans
    assert 3 * plan.mixture.sources[1].size == 12 * plan.mixture.sources[1].per_epoch
    assert (found["is_learned"], found["epochs"]) == (True, 4)


def test_the_rate_has_fallen_before_it_ends(lab, monkeypatch):
    monkeypatch.setattr(early_stopping, "PASS_NATS", 100.0)  # known at once
    observer = RecordingObserver()
    outcome = lab.train(lab.data("cs", PAIRS), observer=observer, **{**FLAGS, "decay_epochs": 4})
    assert (training(outcome)["is_learned"], training(outcome)["epochs"]) == (True, 4)
    assert observer.steps[-1].learning_rate == pytest.approx(FLAGS["learning_rate"] / 4)


def test_stopped_anywhere_it_ends_where_it_would_have_ended(lab):
    data = lab.data("cs", PAIRS)
    whole = lab.train(data, **FLAGS)
    last = training(whole)["steps"]
    for stop in (2, last - 1):
        rollback(lab.store, "base")
        with pytest.raises(KeyboardInterrupt):
            lab.train(data, observer=RecordingObserver(stop_after=stop), **FLAGS)
        again = resume(lab.store, None, RecordingObserver())
        assert training(again)["steps"] == last
        assert again.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)


def test_one_that_died_after_its_last_check_takes_no_more_steps(lab, monkeypatch):
    data = lab.data("cs", PAIRS)
    whole = lab.train(data, **FLAGS)
    rollback(lab.store, "base")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_gate", die)
        with pytest.raises(KeyboardInterrupt):
            lab.train(data, **FLAGS)
    observer = RecordingObserver()
    again = resume(lab.store, None, observer)
    assert observer.steps == []
    assert again.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)
    assert SessionStore.open(lab.store).snapshot().head() == again.session
