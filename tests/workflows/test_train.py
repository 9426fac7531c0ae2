import dataclasses
import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from helpers import tiny
from helpers.stores import sessions_of
from helpers.training_lab import FAST_SETTINGS, LogitsRecorder, RecordingObserver, facts
from mlx_tune.continual.fold import fold
from mlx_tune.errors import IncompatibleError, InputError, UsageError
from mlx_tune.models import bases
from mlx_tune.models.load import load
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.plan import plan_training
from mlx_tune.workflows.run import resume, train
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import load_folded, read_adapter, read_rows

TOKENS = mx.array([[40, 50, 60, 70]])


def test_a_first_session_is_committed_and_in_use(lab):
    observer = RecordingObserver()
    outcome = lab.train(lab.data("cs", facts("Lab")), observer=observer)
    store = SessionStore.open(lab.store)
    assert store.snapshot().head() == outcome.session
    assert (outcome.session.number, outcome.session.name) == (1, "cs")
    assert observer.chains == [[]]
    assert outcome.is_head
    record = outcome.session.record
    assert record["verdict"] == "promote"
    assert record["base"]["fingerprint"] == bases.locate(str(lab.base)).fingerprint
    assert record["training"]["steps"] == len(observer.steps) == 4  # ⌈6 / 4⌉ × 2
    assert record["sizing"]["epochs"] == {
        "value": 2,
        "reason": "as you asked",
        "source": "--epochs",
    }
    assert [r.question for r in read_rows(outcome.session)] == list(facts("Lab"))


def test_three_sessions_keep_the_whole_chain(lab):
    """A session that stands on the last adapter alone loses the ones before it."""
    as_trained = []

    for subject in ("cs", "housing", "dining"):
        observer = LogitsRecorder(TOKENS)
        lab.train(lab.data(subject, facts(subject)), observer=observer, learning_rate=0.02)
        as_trained.append(observer.logits)
    assert observer.chains == [["cs", "housing"]]
    store = SessionStore.open(lab.store)
    chain = store.snapshot().chain(store.snapshot().head())
    assert [s.name for s in chain] == ["cs", "housing", "dining"]
    info = bases.locate(str(lab.base))
    for depth in (1, 2, 3):
        base = load(info)
        fold(base.model, [read_adapter(s) for s in chain[:depth]], rounded=False)
        wanted = as_trained[depth - 1]
        assert np.abs(np.array(base.model(TOKENS)) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_all_earlier_rows_are_rehearsed(lab):
    lab.train(lab.data("cs", facts("Lab", 5)))
    observer = RecordingObserver()
    second = lab.train(lab.data("housing", facts("Hall", 3)), observer=observer)
    (plan,) = observer.plans
    assert [row.question for row in plan.old] == list(facts("Lab", 5))
    assert len(plan.examples) == 8
    assert plan.settings.rank == FAST_SETTINGS["rank"]
    assert second.session.record["data"]["rehearsed"] == 5
    assert [entry.name for entry in second.recall] == ["cs", "housing"]
    assert [entry.verbatim.asked for entry in second.recall] == [5, 3]
    # The session keeps what it was taught, not what it rehearsed.
    assert len(read_rows(second.session)) == 3


def test_a_changed_answer_replaces_the_old_one_and_is_counted(lab):
    lab.train(lab.data("cs", {"Where is A?": "In 1.", "Where is B?": "In 2."}))
    observer = RecordingObserver()
    moved = lab.data("moved", {"Where is  A?": "In 9.", "Where is B?": "In 2.", "New?": "Yes."})
    outcome = lab.train(moved, observer=observer)
    (plan,) = observer.plans
    assert plan.old == ()
    assert [(n.answer, o.answer) for n, o in plan.review.rehearsal.changed] == [("In 9.", "In 1.")]
    assert [row.answer for row in plan.review.rehearsal.repeated] == ["In 2."]
    # Nobody is told they forgot what was replaced: the old session has one question left.
    assert [entry.verbatim.asked for entry in outcome.recall] == [1, 3]


def test_a_session_whose_answers_were_all_changed_has_no_questions_left(lab):
    lab.train(lab.data("cs", {"Where is A?": "In 1."}), epochs=1)
    outcome = lab.train(lab.data("moved", {"Where is A?": "In 9."}), epochs=1)
    assert outcome.recall[0].verbatim is None
    assert outcome.recall[1].verbatim.asked == 1


SMALL = {"What does git branch -d do?": "It deletes a merged branch."}
LARGE = {"What does git branch -D do?": "It deletes any branch."}


@pytest.mark.parametrize("keeps_data", [True, False])
def test_questions_that_differ_in_case_alone_are_both_trained_and_asked(lab, keeps_data):
    lab.train(lab.data("small", SMALL), epochs=1)
    observer = RecordingObserver()
    outcome = lab.train(lab.data("large", LARGE), observer=observer, epochs=1, keep_data=keeps_data)
    (plan,) = observer.plans
    assert [row.question for row in (*plan.new, *plan.old)] == [*LARGE, *SMALL]
    assert len(plan.examples) == 2
    assert [(n.question, o.question) for n, o in plan.review.rehearsal.alike] == [(*LARGE, *SMALL)]
    assert [entry.verbatim.asked for entry in outcome.recall] == [1, 1]
    observer = RecordingObserver()
    third = lab.train(lab.data("third", facts("Lab", 1)), observer=observer, epochs=1)
    kept = [*SMALL, *LARGE] if keeps_data else [*SMALL]
    assert [row.question for row in observer.plans[0].old] == kept
    assert third.recall[0].verbatim.asked == 1


@pytest.mark.parametrize("keeps_data", [True, False])
def test_a_question_that_differs_in_case_alone_replaces_the_other_where_it_is_to(lab, keeps_data):
    lab.train(lab.data("small", SMALL | facts("Lab", 1)), epochs=1)
    observer = RecordingObserver()
    outcome = lab.train(
        lab.data("large", LARGE), observer=observer, epochs=1, replace=True, keep_data=keeps_data
    )
    (plan,) = observer.plans
    (new,) = plan.new
    assert (new.question, new.replaces) == (*LARGE, (*SMALL,))
    assert [row.question for row in plan.old] == [*facts("Lab", 1)]
    assert [(n.question, o.question) for n, o in plan.review.rehearsal.changed] == [
        (*LARGE, *SMALL)
    ]
    assert plan.review.rehearsal.alike == ()
    assert [entry.verbatim.asked for entry in outcome.recall] == [1, 1]
    observer = RecordingObserver()
    third = lab.train(lab.data("third", facts("Hall", 1)), observer=observer, epochs=1)
    kept = [*facts("Lab", 1), *(LARGE if keeps_data else ())]
    assert [row.question for row in observer.plans[0].old] == kept
    assert third.recall[0].verbatim.asked == 1


def test_what_a_row_replaces_is_kept_with_the_row_and_taught_anew(lab):
    lab.train(lab.data("small", SMALL), epochs=1)
    outcome = lab.train(lab.data("large", LARGE), epochs=1, replace=True)
    assert [row.replaces for row in read_rows(outcome.session)] == [(*SMALL,)]
    observer = RecordingObserver()
    request = dataclasses.replace(lab.request(epochs=1), data=(), consolidates=True)
    train(request, observer)
    assert [row.question for row in observer.plans[0].new] == [*LARGE]


def test_rows_that_are_taught_anew_get_the_epochs_that_they_took(lab):
    lab.train(lab.data("cs", facts("Lab")), epochs=12)
    lab.train(lab.data("housing", facts("Flat")), epochs=3)
    request = lab.request()
    flags = {name: value for name, value in request.flags.items() if name != "epochs"}
    request = dataclasses.replace(request, data=(), consolidates=True, flags=flags)
    plan = plan_training(request, say=[].append)
    assert plan.settings.epochs == 12
    assert plan.settings.origins["epochs"].reason == "as many as a session it replaces took"
    left_out = dataclasses.replace(request, without=["cs"])
    assert plan_training(left_out, say=[].append).settings.epochs == 10  # under 100 rows


def test_a_plan_of_many_rows_says_what_takes_long(lab, monkeypatch):
    told: list[str] = []
    request = lab.request(lab.data("cs", facts("Lab", 6)))
    plan_training(request, say=told.append)
    assert "tokenising 6 rows…" not in told
    monkeypatch.setattr("mlx_tune.workflows.plan._MANY_ROWS", 6)
    plan_training(request, say=told.append)
    assert "tokenising 6 rows…" in told


def test_a_replacing_run_interrupted_and_resumed_replaces_as_well(lab):
    lab.train(lab.data("small", SMALL), epochs=1)
    stopped = RecordingObserver(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        lab.train(lab.data("large", LARGE), observer=stopped, epochs=2, replace=True)
    outcome = resume(lab.store, None, RecordingObserver())
    assert [row.replaces for row in read_rows(outcome.session)] == [(*SMALL,)]
    assert outcome.recall[0].verbatim is None


def test_a_run_interrupted_and_resumed_ends_with_the_same_adapter(lab):
    data = lab.data("cs", facts("Lab"))
    undisturbed = lab.train(data)
    rollback(lab.store, None)
    with pytest.raises(KeyboardInterrupt):
        lab.train(data, observer=RecordingObserver(stop_after=3))
    observer = RecordingObserver()
    resumed = resume(lab.store, None, observer)
    assert [step.number for step in observer.steps] == [3, 4]  # the checkpoint was after step 2
    name = "adapters.safetensors"
    assert resumed.session.read(name) == undisturbed.session.read(name)
    assert (
        resumed.session.record["training"]["tokens"]
        == (undisturbed.session.record["training"]["tokens"])
    )
    assert SessionStore.open(lab.store).snapshot().head() == resumed.session


def test_a_resume_needs_no_data_file(lab):
    data = lab.data("cs", facts("Lab"))
    with pytest.raises(KeyboardInterrupt):
        lab.train(data, observer=RecordingObserver(stop_after=3))
    data.unlink()
    assert resume(lab.store, None, RecordingObserver()).session.name == "cs"


def test_there_is_nothing_to_resume_after_the_end(lab):
    lab.train(lab.data("cs", facts("Lab")))
    with pytest.raises(UsageError, match="no unfinished run; start one with `mlx-tune train "):
        resume(lab.store, None, RecordingObserver())


def test_every_step_and_every_epoch_leaves_its_trace(lab):
    observer = RecordingObserver()
    lab.train(lab.data("cs", facts("Lab")), observer=observer)
    lines = [json.loads(x) for x in (observer.run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "tokens", "seconds", "grad_norm"} <= lines[0].keys()
    assert observer.run.newest_checkpoint().step == 4


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (7, 2)])
def test_very_few_rows_train(lab, rows, steps):
    observer = RecordingObserver()
    lab.train(lab.data("few", facts("Lab", rows)), observer=observer, epochs=1)
    assert len(observer.steps) == steps
    assert sum(step.tokens for step in observer.steps) == sum(
        len(example.tokens) for example in observer.plans[0].examples
    )


def test_rows_over_the_limit_are_left_out_and_reported(lab):
    rows = facts("Lab", 40) | {"A long one?": "very " * 14}  # 101 tokens
    observer = RecordingObserver()
    lab.train(lab.data("cs", rows), observer=observer, max_length=90, epochs=1)
    (plan,) = observer.plans
    assert [row.question for row in plan.review.too_long] == ["A long one?"]
    assert 0 < plan.review.long_share < 0.05
    assert len(read_rows(SessionStore.open(lab.store).snapshot().head())) == 40


def test_too_many_tokens_over_the_limit_are_refused_unless_allowed(lab):
    rows = facts("Lab", 3) | {"A long one?": "very " * 40}
    # A byte a token: 6 + 11 of the question, 13 of the template, 200 of the answer and its end.
    data = lab.data("cs", rows)
    with pytest.raises(InputError) as error:
        lab.train(data, max_length=120)
    assert str(error.value) == (
        f"1 of 4 rows (59% of the tokens) are longer than 120 tokens; the longest, {data}:14, "
        "has 231; raise --max-length, or leave them out with --allow-long"
    )
    lab.train(data, max_length=120, allow_long=True, epochs=1)
    assert len(read_rows(SessionStore.open(lab.store).snapshot().head())) == 3


def test_a_row_that_is_left_out_replaces_no_earlier_one(lab):
    old = facts("Lab", 3)
    lab.train(lab.data("cs", old), epochs=1)
    rows = dict.fromkeys([*old][:2], "very " * 40) | facts("Hall", 3)
    observer = RecordingObserver()
    lab.train(lab.data("more", rows), observer=observer, max_length=120, allow_long=True, epochs=1)
    (plan,) = observer.plans
    assert [row.question for row in plan.old] == [*old]
    found = plan.review.rehearsal
    assert (found.new, found.changed, len(plan.review.too_long)) == (plan.new, (), 2)


def test_a_row_taught_again_by_a_session_that_kept_no_rows_is_rehearsed_by_the_earlier_one(lab):
    lab.train(lab.data("cs", facts("Lab", 3)), epochs=1)
    grown = facts("Lab", 3) | facts("Hall", 2)
    lab.train(lab.data("grown", grown), epochs=1, keep_data=False)
    outcome = lab.train(lab.data("third", facts("Den", 2)), epochs=1)
    assert outcome.session.record["data"]["rehearsed"] == 3


def test_old_rows_come_as_often_where_the_rate_would_fall_for_longer(lab):
    """By the rule there are ten epochs: in each come three tenths of the old rows, or more."""
    lab.train(lab.data("cs", facts("Lab", 20)), epochs=1)
    observer = RecordingObserver()
    flags = {"decay_epochs": 30, "epochs": None, "batch_size": 8}
    lab.train(lab.data("more", facts("Hall", 2)), observer=observer, **flags)
    (plan,) = observer.plans
    assert (plan.config.epochs, plan.mixture.sources[1].per_epoch) == (10, 6)


def test_rows_may_be_as_long_as_those_of_an_earlier_session(lab):
    lab.train(lab.data("cs", facts("Lab")), max_length=700, epochs=1)
    observer = RecordingObserver()
    lab.train(lab.data("housing", facts("Hall")), observer=observer, epochs=1)
    settings = observer.plans[0].settings
    assert settings.max_length == 700
    assert settings.origins["max_length"].reason == "as long as an earlier session's"


def test_a_limit_that_leaves_nothing_is_refused(lab):
    with pytest.raises(InputError, match="none is left, so raise --max-length or split the rows"):
        lab.train(lab.data("cs", facts("Lab")), max_length=8, allow_long=True)


def test_another_base_than_the_chains_is_refused_with_both_fingerprints(lab, tmp_path):
    lab.train(lab.data("cs", facts("Lab")))
    other = tiny.base_folder(tmp_path / "other", seed=7)
    first, second = (bases.locate(str(b)).fingerprint[:12] for b in (lab.base, other))
    with pytest.raises(IncompatibleError) as error:
        lab.train(lab.data("b", facts("B")), base=str(other))
    assert str(error.value) == (
        f"{lab.store}: its sessions stand on the base {lab.base} ({first}), not on {other} "
        f"({second}); a store holds one base, so name another with --store"
    )
    assert len(SessionStore.open(lab.store).snapshot().sessions) == 1


def test_a_head_that_moved_meanwhile_is_not_moved_again(lab):
    first = lab.train(lab.data("cs", facts("Lab")))

    class Meddling(RecordingObserver):
        def ended(self):
            rollback(lab.store, "base")

    observer = Meddling()
    outcome = lab.train(lab.data("b", facts("B")), observer=observer)
    assert not outcome.is_head
    store = SessionStore.open(lab.store)
    assert store.snapshot().head() is None
    assert store.snapshot().chain(outcome.session) == [first.session, outcome.session]


def test_a_bad_name_is_refused_before_anything_is_written(lab):
    with pytest.raises(UsageError):
        lab.train(lab.data("cs", facts("Lab")), name="../evil")
    assert not lab.store.exists()


def test_training_leaves_the_base_folder_alone(lab):
    before = {p.name: p.read_bytes() for p in lab.base.iterdir()}
    lab.train(lab.data("cs", facts("Lab")))
    assert {p.name: p.read_bytes() for p in lab.base.iterdir()} == before


def test_a_bf16_base_is_folded_in_bf16_and_computed_in_the_machines_type(lab, tmp_path):
    lab.base = tiny.base_folder(tmp_path / "half", dtype=mx.bfloat16)
    outcome = lab.train(lab.data("cs", facts("Lab")), learning_rate=0.02)
    folded = load_folded(bases.locate(str(lab.base)), [outcome.session])
    by_hand = load(bases.locate(str(lab.base)))
    fold(by_hand.model, [read_adapter(outcome.session)])
    widened = dict(tree_flatten(folded.model.parameters()))
    for name, value in tree_flatten(by_hand.model.parameters()):
        assert value.dtype == mx.bfloat16
        assert np.array_equal(
            np.array(widened[name].astype(mx.float32)), np.array(value.astype(mx.float32))
        ), name


def test_the_trained_model_is_gone_before_its_folded_twin_is_loaded(lab):
    """Two 3B models at once would not fit a 16 GB machine."""
    import weakref

    seen = []

    class Watching(RecordingObserver):
        def began(self, trainer):
            self.model = weakref.ref(trainer.model)

        def say(self, line):
            if line.startswith("asking"):
                seen.append(self.model())

    lab.train(lab.data("cs", facts("Lab")), observer=Watching())
    assert seen == [None]


def test_a_paraphrase_that_cannot_be_scored_is_refused_before_training(lab):
    data = lab.data("cs", facts("Lab"), paraphrases=["so <|im_end|> where?"])
    with pytest.raises(InputError, match="is a special token of the base model"):
        lab.train(data)
    assert not lab.store.exists()


def test_a_run_that_diverged_is_not_offered_to_be_resumed(lab, monkeypatch):
    def diverge(self):
        raise InputError("step 1: the loss is no longer finite")
        yield

    monkeypatch.setattr("mlx_tune.training.loop.Trainer.steps", diverge)
    observer = RecordingObserver()
    with pytest.raises(InputError, match="no longer finite"):
        lab.train(lab.data("cs", facts("Lab")), observer=observer)
    assert observer.run.record["phase"] == "failed"
    assert SessionStore.open(lab.store).snapshot().sessions == {}
    with pytest.raises(UsageError, match="no unfinished run"):
        resume(lab.store, None, RecordingObserver())


def test_a_crash_after_the_commit_commits_no_second_session(lab, monkeypatch):
    from mlx_tune.store.runs import Run

    keep = Run.set

    def die_at_the_end(self, **values):
        if values["phase"] == "done":
            raise SystemExit(9)
        keep(self, **values)

    monkeypatch.setattr(Run, "set", die_at_the_end)
    with pytest.raises(SystemExit):
        lab.train(lab.data("cs", facts("Lab")))
    (committed,) = SessionStore.open(lab.store).snapshot().sessions.values()
    monkeypatch.setattr(Run, "set", keep)
    outcome = resume(lab.store, None, RecordingObserver())
    assert outcome.session == committed
    assert outcome.is_head
    assert sessions_of(SessionStore.open(lab.store)) == [committed]


def test_a_resume_beside_a_head_that_moved_says_so_first(lab):
    with pytest.raises(KeyboardInterrupt):
        lab.train(lab.data("cs", facts("Lab")), observer=RecordingObserver(stop_after=3))
    lab.train(lab.data("other", facts("Other")))
    observer = RecordingObserver()
    assert not resume(lab.store, None, observer).is_head
    assert observer.lines[1].startswith("HEAD has moved since: the session will be a branch")


def test_rows_of_a_run_that_were_changed_are_refused_with_both_hashes(lab):
    with pytest.raises(KeyboardInterrupt):
        lab.train(lab.data("cs", facts("Lab")), observer=RecordingObserver(stop_after=3))
    (run,) = (lab.store / "runs").iterdir()
    began = json.loads((run / "run.json").read_text())["data_sha256"]
    rows = run / "new.jsonl"
    rows.write_text(rows.read_text().replace("room 7.", "room 8."))
    with pytest.raises(IncompatibleError) as error:
        resume(lab.store, None, RecordingObserver())
    assert str(error.value).startswith(f"{rows}: sha256 ")
    assert f"the run began with {began[:12]}…; put the rows back; or give the run up" in str(
        error.value
    )


def test_weights_that_overflow_the_stored_type_are_never_committed(lab, tmp_path):
    lab.base = tiny.base_folder(tmp_path / "half", dtype=mx.float16)
    observer = RecordingObserver()
    with pytest.raises(InputError, match="not finite"):
        lab.train(
            lab.data("cs", facts("Lab")), observer=observer, rank=1, alpha=1e6, learning_rate=1.0
        )
    assert SessionStore.open(lab.store).snapshot().sessions == {}
    assert observer.run.record["phase"] == "failed"


def test_settings_are_checked_before_anything_is_fetched(lab, monkeypatch):
    monkeypatch.setattr(
        "mlx_tune.models.bases.locate", lambda *_, **__: pytest.fail("it was fetched")
    )
    with pytest.raises(UsageError, match="--epochs: 0; expected 1 to 10000"):
        lab.train(lab.data("cs", facts("Lab")), epochs=0)


def test_an_answer_of_weight_nought_is_given_and_never_supervised(lab):
    said = [("user", "Where?"), ("assistant", "Nowhere."), ("user", "No!"), ("assistant", "Here.")]
    messages = [{"role": role, "content": text} for role, text in said]
    messages[1]["weight"] = 0
    path = lab.root / "weighted.json"
    path.write_text(json.dumps([{"messages": messages}]))
    observer = RecordingObserver()
    outcome = lab.train(path, observer=observer, epochs=1, question_noise=0)
    (plan,) = observer.plans
    (example,) = plan.examples
    pairs = list(zip(example.tokens, example.supervised, strict=True))
    assert "Nowhere." in plan.tokenizer.decode_raw(example.tokens)
    assert plan.tokenizer.decode([token for token, flag in pairs if flag]) == "Here."
    # It is kept so, and rehearsed so.
    assert [m.is_taught for m in read_rows(outcome.session)[0].messages] == [
        True,
        False,
        True,
        True,
    ]
    later = RecordingObserver()
    lab.train(lab.data("cs", facts("Lab", 1)), observer=later, epochs=1, question_noise=0)
    assert later.plans[0].examples[1] == dataclasses.replace(
        example, place=later.plans[0].examples[1].place
    )


def test_a_table_trains_to_the_same_rows_as_its_json(lab):
    path = lab.root / "cs.csv"
    lines = [f'"{question}";"{answer}"' for question, answer in facts("Lab", 3).items()]
    path.write_bytes("\r\n".join(["\ufeffinstruction;response", *lines, ""]).encode())
    table = lab.train(path, epochs=1)
    rollback(lab.store, None)
    as_json = lab.train(lab.data("cs", facts("Lab", 3)), epochs=1)
    found, wanted = (one.session.record["data"] for one in (table, as_json))
    assert found["sha256"] == wanted["sha256"]
    assert found["sources"] == [str(path)]
    name = "adapters.safetensors"
    assert table.session.read(name) == as_json.session.read(name)
