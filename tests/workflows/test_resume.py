"""A run goes on exactly where it stopped, wherever that was, and commits once."""

import json
import signal
from types import SimpleNamespace

import pytest

from helpers.stores import sessions_of
from helpers.training_lab import RecordingObserver, facts
from mlx_tune.continual.recall import Recall
from mlx_tune.errors import DiskError, InputError, Interrupted, LockedError
from mlx_tune.store.runs import Run, list_runs
from mlx_tune.store.store import SessionStore
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.workflows import fitting, steps
from mlx_tune.workflows import run as run_module
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.run import resume, train
from mlx_tune.workflows.store_commands import rollback


def checkpoints(run: Run) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run.path / "checkpoints").iterdir())


def interrupt(lab, data, step: int, number: int = signal.SIGINT, **flags) -> RecordingObserver:
    observer = RecordingObserver(signal_after=(step, number))
    with pytest.raises(Interrupted):
        lab.train(data, observer=observer, **flags)
    return observer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_step_end_saves_it_and_gives_its_exit_code(lab, number, code):
    observer = RecordingObserver(signal_after=(3, number))
    with pytest.raises(Interrupted, match="stopped after step 3, which is saved") as caught:
        lab.train(lab.data("cs", facts("Lab")), observer=observer)
    assert caught.value.exit_code == code
    assert [step.number for step in observer.steps] == [1, 2, 3]
    assert checkpoints(observer.run) == [2, 3]  # an epoch has two steps
    again = RecordingObserver()
    resume(lab.store, None, again)
    assert [step.number for step in again.steps] == [4]


def test_stopped_at_every_step_it_ends_as_if_it_had_never_stopped(lab):
    data = lab.data("cs", facts("Lab"))
    whole = lab.train(data, dropout=0.2)
    rollback(lab.store, "base")
    interrupt(lab, data, 1, dropout=0.2)
    for _ in range(3):
        with pytest.raises(Interrupted):
            resume(lab.store, None, RecordingObserver(signal_after=(1, signal.SIGINT)))
    pieces = resume(lab.store, None, RecordingObserver())
    assert pieces.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)
    assert pieces.session.record["training"]["steps"] == 4


def test_a_checkpoint_is_at_most_a_minute_of_work_old(lab, monkeypatch):
    """Steps that take 25 seconds each: every second one is saved, and every end of an epoch."""
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    saved = []
    keep = Run.save_checkpoint

    def save(self, step, files, **values):
        saved.append(step)
        next(clock)
        return keep(self, step, files, **values)

    monkeypatch.setattr(Run, "save_checkpoint", save)
    lab.train(lab.data("cs", facts("Lab", 20)), epochs=1)
    assert saved == [3, 5]


@pytest.mark.parametrize("phase", ["score", "commit", "done"])
def test_a_run_that_died_in_any_phase_commits_one_session(lab, monkeypatch, phase):
    data, keep = lab.data("cs", facts("Lab")), Run.set

    def die(self, **values):
        if values["phase"] == phase:
            raise SystemExit(9)
        keep(self, **values)

    monkeypatch.setattr(Run, "set", die)
    with pytest.raises(SystemExit):
        lab.train(data)
    monkeypatch.setattr(Run, "set", keep)
    outcome = resume(lab.store, None, RecordingObserver())
    assert sessions_of(SessionStore.open(lab.store)) == [outcome.session]
    assert outcome.is_head
    (run,) = list_runs(lab.store)
    assert (run.record["phase"], run.record["session"]) == ("done", outcome.session.id)


def test_a_session_committed_by_a_run_that_died_is_not_trained_again(lab, monkeypatch):
    """Its record holds the seconds each step took, so training again would commit another."""

    def killed(*_, **__):
        raise SystemExit(9)

    monkeypatch.setattr(run_module, "put_in_use", killed)
    with pytest.raises(SystemExit):
        lab.train(lab.data("cs", facts("Lab")))
    (session,) = SessionStore.open(lab.store).snapshot().sessions.values()
    monkeypatch.undo()
    observer = RecordingObserver()
    outcome = resume(lab.store, None, observer)
    assert observer.steps == []
    assert outcome.session == session
    assert [entry.verbatim.asked for entry in outcome.recall] == [6]
    assert SessionStore.open(lab.store).snapshot().head() == session


def test_a_resume_takes_back_no_rollback(lab, monkeypatch):
    keep = Run.set
    monkeypatch.setattr(
        Run, "set", lambda self, **v: keep(self, **v) if v["phase"] != "done" else exit_now()
    )
    with pytest.raises(SystemExit):
        lab.train(lab.data("cs", facts("Lab")))
    monkeypatch.undo()
    rollback(lab.store, "base")
    outcome = resume(lab.store, None, RecordingObserver())
    assert not outcome.is_head
    assert SessionStore.open(lab.store).snapshot().head() is None


def exit_now():
    raise SystemExit(9)


def test_training_the_same_data_offers_the_unfinished_run(lab):
    data = lab.data("cs", facts("Lab"))
    first = interrupt(lab, data, 3)
    refused = RecordingObserver()
    lab.train(data, observer=refused)
    assert refused.offers == [(first.run.path.name, {})]
    assert len(refused.steps) == 4
    rollback(lab.store, "base")
    accepted = RecordingObserver(accept=True)
    lab.train(data, observer=accepted)
    assert [step.number for step in accepted.steps] == [4]
    assert not [run for run in list_runs(lab.store) if run.is_unfinished]


def test_nobody_goes_on_with_a_run_that_nobody_was_asked_about(lab):
    data = lab.data("cs", facts("Lab"))
    interrupt(lab, data, 3)
    outcome = train(lab.request(data), TrainingObserver())
    assert outcome.session.record["training"]["steps"] == 4
    (left,) = [run for run in list_runs(lab.store) if run.is_unfinished]
    assert left.path.name != outcome.session.record["training"]["run"]


def test_an_offer_names_the_settings_that_are_otherwise(lab):
    data = lab.data("cs", facts("Lab"))
    interrupt(lab, data, 3)
    observer = RecordingObserver()
    lab.train(data, observer=observer, epochs=1, seed=7)
    ((_, other_settings),) = observer.offers
    assert other_settings == {"epochs": 2, "seed": 0}


def test_other_data_another_parent_and_a_finished_run_are_not_offered(lab):
    data = lab.data("cs", facts("Lab"))
    interrupt(lab, data, 3)
    observer = RecordingObserver()
    lab.train(lab.data("other", facts("Hall")), observer=observer)  # HEAD is now elsewhere
    lab.train(data, observer=observer)
    lab.train(lab.data("other", facts("Hall")), observer=observer)
    assert observer.offers == []


def test_a_second_training_is_refused_with_the_first_ones_pid_and_loses_nothing(lab):
    store = SessionStore.open(lab.store)
    with store.training("train first"), pytest.raises(LockedError) as caught:
        lab.train(lab.data("cs", facts("Lab")))
    assert "training.lock: held for train first by process " in str(caught.value)
    assert list_runs(lab.store) == []
    lab.train(lab.data("cs", facts("Lab")))


def test_a_head_that_moved_between_plan_and_lock_is_refused(lab, monkeypatch):
    from mlx_tune.workflows import run as run_module

    plan_training = run_module.plan_training

    def overtaken(request, **options):
        plan = plan_training(request, **options)
        other = plan.store.commit(
            name="other", parent=None, record={"verdict": "promote"}, files={"data.jsonl": b""}
        )
        plan.store.move_head(other, expected=None, why="another training")
        return plan

    monkeypatch.setattr(run_module, "plan_training", overtaken)
    with pytest.raises(LockedError, match="HEAD moved while this training was planned"):
        lab.train(lab.data("cs", facts("Lab")))
    assert list_runs(lab.store) == []


def test_a_disk_without_room_for_the_run_is_refused_before_it_begins(lab, monkeypatch):
    monkeypatch.setattr(fitting, "free_bytes", lambda root: 1_000_000)
    with pytest.raises(DiskError) as caught:
        lab.train(lab.data("cs", facts("Lab")))
    assert str(caught.value) == (
        f"{lab.store}: a run needs up to 0.03 GB on the disk and 0.00 GB are free; free some "
        f"(`mlx-tune gc --store {lab.store}` deletes what old runs left), lower --rank, or name "
        "another store with --store"
    )
    assert list_runs(lab.store) == []


# The best checkpoint


def scored(monkeypatch, *values):
    """Let the held-out rows score what is told, epoch by epoch: (right, loss), or None for NaN."""
    queue = list(values)

    def score(model, examples, *, forward=None, factors=None):
        if forward is None:  # not while it is trained
            return real(model, examples)
        value = queue.pop(0)
        if value is None:
            raise InputError("not finite")
        right, loss = value
        flags = tuple(i < right for i in range(len(examples)))
        return Recall(verbatim=flags, token_accuracy=0.0, loss=loss)

    real = steps.score
    monkeypatch.setattr(steps, "score", score)


FLAGS = {"epochs": 3, "validation": 0.3}


def after(lab, data, step: int) -> bytes:
    """The weights after some step of the run that ``FLAGS`` describe."""
    observer = interrupt(lab, data, step, **FLAGS)
    return observer.run.checkpoint(step).read(WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([(1, 0.5), (2, 0.9), (1, 0.1)], 2),  # recall first
        ([(1, 0.5), (1, 0.2), (1, 0.3)], 2),  # then the loss
        ([(1, 0.5), (1, 0.5), (1, 0.5)], 1),  # then the fewest steps
        ([None, (1, 9.0), None], 2),  # a NaN is never best
    ],
)
def test_the_best_checkpoint_by_recall_then_loss_is_committed(lab, monkeypatch, values, best):
    data = lab.data("cs", facts("Lab", 5))  # two held out, one step an epoch
    scored(monkeypatch, *values, *values)
    outcome = lab.train(data, **FLAGS)
    validation = outcome.session.record["validation"]
    assert validation["best_step"] == best
    assert [score["step"] for score in validation["scores"]] == [1, 2, 3]
    assert outcome.session.record["data"]["held_out"] == 2
    rollback(lab.store, "base")
    wanted = after(lab, data, best)
    assert outcome.session.read(WEIGHTS_FILE) == wanted


def test_the_best_checkpoint_is_kept_beside_the_two_newest(lab, monkeypatch):
    scored(monkeypatch, (2, 0.1), (0, 1.0), (0, 1.0), (0, 1.0), (0, 1.0))
    observer = RecordingObserver()
    lab.train(lab.data("cs", facts("Lab", 5)), observer=observer, epochs=5, validation=0.3)
    assert checkpoints(observer.run) == [1, 4, 5]


def test_a_resumed_run_commits_the_best_of_before_it_stopped(lab, monkeypatch):
    data = lab.data("cs", facts("Lab", 5))
    scored(monkeypatch, (2, 0.1), (0, 1.0), (0, 1.0))
    interrupt(lab, data, 2, **FLAGS)
    outcome = resume(lab.store, None, RecordingObserver())
    assert outcome.session.record["validation"]["best_step"] == 1


def test_with_no_finite_score_the_last_checkpoint_is_committed(lab, monkeypatch):
    scored(monkeypatch, None, None, None)
    outcome = lab.train(lab.data("cs", facts("Lab", 5)), **FLAGS)
    assert outcome.session.record["validation"]["best_step"] is None


@pytest.mark.parametrize(
    ("until_learned", "values", "said"),
    [
        (False, [(0, 0.1), (0, 1.0), (0, 2.0)], "no held-out row was ever right"),
        (True, [(2, 0.1), (0, 1.0), (0, 2.0)], "the last one knows the rows"),
    ],
)
def test_held_out_rows_do_not_undo_a_training(lab, monkeypatch, until_learned, values, said):
    monkeypatch.setattr(steps, "_check_rows", lambda stopping, trainer, plan: stopping)
    scored(monkeypatch, *values)
    observer = RecordingObserver()
    data = lab.data("train", facts("Lab", 3)).parent / "cs"
    data.mkdir()
    (data.parent / "train.json").rename(data / "train.json")
    lab.data("valid", facts("Hall", 2)).rename(data / "valid.json")
    flags = {"epochs": 3, "until_learned": until_learned}
    outcome = lab.train(data, observer=observer, **flags)
    assert outcome.session.record["validation"]["best_step"] is None
    assert any(said in line for line in observer.lines)
    last = observer.run.checkpoint(3).read(WEIGHTS_FILE)
    assert outcome.session.read(WEIGHTS_FILE) == last


def test_a_damaged_best_checkpoint_is_said_and_the_last_one_taken(lab, monkeypatch):
    scored(monkeypatch, (2, 0.1), (0, 1.0), (0, 1.0))

    class Spoiling(RecordingObserver):
        def stepped(self, step):
            if step.number == 3:
                (self.run.path / "checkpoints" / "step-000001" / WEIGHTS_FILE).write_bytes(b"x")

    observer = Spoiling()
    lab.train(lab.data("cs", facts("Lab", 5)), observer=observer, **FLAGS)
    assert any("note: the best checkpoint cannot be used" in line for line in observer.lines)


def test_held_out_rows_are_kept_and_never_trained_on(lab):
    observer = RecordingObserver()
    outcome = lab.train(lab.data("cs", facts("Lab", 5)), observer=observer, **FLAGS)
    (plan,) = observer.plans
    assert (len(plan.new), len(plan.held_out)) == (3, 2)
    assert not set(plan.new) & set(plan.held_out)
    assert {step.tokens for step in observer.steps} == {
        sum(len(example.tokens) for example in plan.examples)
    }
    assert b"Where is Lab" in outcome.session.read("held-out.jsonl")


def test_a_folder_that_is_split_already_holds_out_what_it_calls_valid(lab, tmp_path):
    folder = tmp_path / "split"
    folder.mkdir()
    for name, subject, count in (("train", "Lab", 4), ("valid", "Hall", 2), ("test", "Gym", 3)):
        lab.data(name, facts(subject, count)).rename(folder / f"{name}.json")
    observer = RecordingObserver()
    outcome = lab.train(folder, observer=observer, epochs=2)
    (plan,) = observer.plans
    assert (len(plan.new), len(plan.held_out)) == (4, 2)
    assert {file.path.name: file.use for file in plan.review.files} == {
        "train.json": "train", "valid.json": "hold out", "test.json": "leave",
    }  # fmt: skip
    assert outcome.session.record["data"]["held_out"] == 2
    assert b"Gym" not in outcome.session.read("data.jsonl") + outcome.session.read("held-out.jsonl")


def test_holding_out_all_rows_is_refused(lab):
    with pytest.raises(InputError, match=r"--validation 0.5 of 1 row leaves none to train on"):
        lab.train(lab.data("cs", facts("Lab", 1)), validation=0.5)


def test_a_run_whose_name_is_no_longer_allowed_ends_under_another(lab):
    """Earlier versions took `head` for a name, which on the server means the session in use."""
    observer = interrupt(lab, lab.data("cs", facts("Lab", 5)), 1, epochs=2)
    record = json.loads((observer.run.path / "run.json").read_bytes())
    (observer.run.path / "run.json").write_text(json.dumps({**record, "name": "head"}))
    assert resume(lab.store, None, RecordingObserver()).session.name == "head-data"
