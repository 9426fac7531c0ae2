"""Rows that carry wordings: what is trained on, rehearsed, held out, kept and resumed."""

import json
from dataclasses import replace

import pytest

from helpers.training_lab import RecordingObserver, facts
from mlx_tune.continual import early_stopping
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Trace
from mlx_tune.errors import InputError
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.workflows import steps
from mlx_tune.workflows.run import resume, train
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import read_rows

LEARNS = {"learning_rate": 0.01, "epochs": 60, "rank": 16, "batch_size": 8, "until_learned": True}


def planned(lab, *data, **flags):
    observer = RecordingObserver()
    outcome = lab.train(*data, observer=observer, **flags)
    return observer.plans[0], outcome


def write(lab, name: str, *rows: dict):
    path = lab.root / f"{name}.json"
    path.write_text(json.dumps(list(rows), indent=1))
    return path


def test_an_epoch_costs_as_many_steps_as_with_one_wording(lab):
    plain, _ = planned(lab, lab.data("cs", facts("Lab")))
    rollback(lab.store, "base")
    plan, outcome = planned(lab, lab.data("cs", facts("Lab"), wordings=2), general_replay=0.5)
    assert plan.mixture.sources[0].variants == (3,) * 6
    assert len(plan.examples) == 6 * 3 + len(plan.general_examples)
    assert plan.general_examples == plan.general.replayed != ()
    assert plan.mixture.rows_per_epoch - plain.mixture.rows_per_epoch == 2  # general questions
    assert plan.warmup_steps == plain.warmup_steps
    # Their own " (0)" are 4 tokens more in two of three.
    assert plan.tokens_by_kind[0] == pytest.approx(plain.tokens_by_kind[0] + 6 * 4 * 2 / 3)
    record = outcome.session.record
    assert (record["data"]["rows"], record["recall"][0]["verbatim"]["asked"]) == (6, 6)
    assert [len(row.wordings) for row in read_rows(outcome.session)] == [2] * 6


def test_old_rows_are_rehearsed_in_their_wordings(lab):
    lab.train(lab.data("cs", facts("Lab", 3), wordings=2))
    plan, outcome = planned(lab, lab.data("housing", facts("Hall", 2)), epochs=4)
    assert [source.variants for source in plan.mixture.sources] == [(), (3, 3, 3), ()]
    assert len(plan.examples) == 2 + 9
    assert outcome.session.record["data"]["rehearsed"] == 3
    lab.train(lab.data("dining", facts("Hall", 2)), epochs=4)  # and of a session without any


def test_a_wording_with_another_answer_is_listed_and_no_longer_rehearsed(lab):
    old = {"instruction": "Where is A?", "response": "In 1.", "wordings": ["A?", "Room of A?"]}
    lab.train(write(lab, "cs", old))
    new = {"instruction": " A?", "response": "In 9."}
    plan, outcome = planned(lab, write(lab, "moved", new))
    assert [row.wordings for row in plan.old] == [("Room of A?",)]
    (pair,) = plan.review.rehearsal.reworded
    assert [(row.question, row.answer) for row in pair] == [(" A?", "In 9."), ("A?", "In 1.")]
    # The old question is still the old session's, and asked.
    assert [entry.verbatim.asked for entry in outcome.recall] == [1, 1]
    # A consolidation teaches the wording with the answer that counts by now.
    request = replace(lab.request(), data=(), consolidates=True)
    again = train(request, RecordingObserver())
    rows = {row.question: (row.answer, row.wordings) for row in read_rows(again.session)}
    assert rows == {"Where is A?": ("In 1.", ("Room of A?",)), " A?": ("In 9.", ())}


def test_a_wording_that_measures_an_earlier_session_is_refused_with_both_places(lab):
    old = {"instruction": "Where is A?", "response": "In 1.", "paraphrases": ["Room of A?"]}
    first = lab.train(write(lab, "cs", old)).session
    data = write(lab, "b", {"instruction": "B?", "response": "In 2.", "wordings": ["Room of  A?"]})
    with pytest.raises(InputError) as error:
        lab.train(data)
    assert str(error.value) == (
        f'{data}:2: wording 1, "Room of  A?", is a paraphrase of {first.path}/data.jsonl:1; those '
        "measure and are never trained on, so remove one of the two"
    )
    again = {**old, "paraphrases": ["A?"], "wordings": ["Room of A?"]}
    with pytest.raises(InputError, match=r"is a paraphrase of .*/data\.jsonl:1; those measure"):
        lab.train(write(lab, "cs", again))  # with its old answer the old row still measures
    lab.train(write(lab, "cs", {**again, "response": "In 9."}))


def test_rows_that_teach_two_answers_are_refused_before_the_base_is_looked_for(lab, monkeypatch):
    monkeypatch.setattr(
        "mlx_tune.models.bases.locate", lambda *_, **__: pytest.fail("it was looked for")
    )
    rows = [{"instruction": f"{i}?", "response": f"{i}.", "wordings": ["Both?"]} for i in range(2)]
    with pytest.raises(InputError, match=r'"Both\?", is asked at .*:2 too, with another answer'):
        lab.train(write(lab, "cs", *rows))


def test_a_wording_that_is_too_long_is_left_out_alone_and_a_row_with_all_its_wordings(lab):
    rows = [
        {"instruction": "Where is A?", "response": "In 1.", "wordings": ["A? " * 30, "A?"]},
        {"instruction": "B? " * 30, "response": "In 2.", "wordings": ["B?"]},
        {"instruction": "Where is C?", "response": "In 3."},
    ]
    data = write(lab, "cs", *rows)
    with pytest.raises(InputError) as error:
        lab.train(data, max_length=60)
    # A byte a token: 90, the template's 19 and the answer's 5 and its end.
    assert str(error.value) == (
        f"3 of 6 rows and wordings (72% of the tokens) are longer than 60 tokens; the longest, "
        f"{data}:2, has 115; raise --max-length, or leave them out with --allow-long"
    )
    plan, outcome = planned(lab, data, max_length=60, allow_long=True)
    assert [(row.question, row.wordings) for row in read_rows(outcome.session)] == [
        ("Where is A?", ("A?",)),
        ("Where is C?", ()),
    ]
    assert plan.mixture.sources[0].variants == (2, 1)
    assert [row.place for row in plan.review.too_long] == [f"{data}:10"]
    assert [(row.question, row.place) for row in plan.review.long_wordings] == [
        ("A? " * 30, f"{data}:2")
    ]
    assert plan.review.long_share == pytest.approx(0.72, abs=0.005)


def test_without_its_rows_a_session_still_tells_later_ones_its_wordings(lab):
    rows = {"instruction": "Where is A?", "response": "In 1.", "wordings": ["A?"]}
    lab.train(write(lab, "cs", {"instruction": "A?", "response": "In 0."}))
    second = lab.train(write(lab, "b", rows), keep_data=False).session
    (trace,) = map(Trace.from_json, second.record["data"]["traces"])
    assert len(trace.wordings) == 1
    plan, _ = planned(lab, lab.data("c", facts("C", 2)))
    assert plan.old == ()  # the first session's answer was replaced by a wording


def test_held_out_rows_are_asked_as_they_are_taught(lab):
    plan, outcome = planned(lab, lab.data("cs", facts("Lab"), wordings=2), validation=0.3)
    assert (len(plan.held_out), len(plan.validation)) == (2, 2)
    assert plan.mixture.sources[0].variants == (3,) * 4
    held_out = outcome.session.read("held-out.jsonl").decode()
    assert [len(json.loads(line)["wordings"]) for line in held_out.splitlines()] == [2, 2]


def test_stopped_anywhere_it_ends_as_if_it_had_never_stopped(lab):
    """Six rows in two steps an epoch, so that every second stop is in the middle of one."""
    lab.train(lab.data("old", facts("Old", 4), wordings=1))
    data = lab.data("cs", facts("Lab", 3), wordings=2)
    flags = {"epochs": 3, "dropout": 0.2, "replay": "0.7"}
    whole = lab.train(data, **flags)
    assert whole.session.record["training"]["steps"] == 6
    for stop in range(1, 6):
        rollback(lab.store, None)
        with pytest.raises(KeyboardInterrupt):
            lab.train(data, observer=RecordingObserver(stop_after=stop), **flags)
        again = resume(lab.store, None, RecordingObserver())
        assert again.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)


def test_it_ends_once_every_row_is_known_in_every_wording(lab, monkeypatch):
    monkeypatch.setattr(early_stopping, "PASS_NATS", 1.6)  # a tiny head never grows sure
    checks: dict[int, list[float]] = {}
    score = steps._recall

    def recall(trainer, examples):
        found = score(trainer, examples)
        checks.setdefault(trainer.steps_done, []).extend(found.max_token_losses)
        return found

    monkeypatch.setattr(steps, "_recall", recall)
    data = lab.data("cs", {f"Where is A{i}?": f"In A{i + 3}." for i in range(3)}, wordings=1)
    whole = lab.train(data, **LEARNS)
    training = whole.session.record["training"]
    assert training["is_learned"]
    assert training["steps"] == training["epochs"] < 60
    *earlier, last = checks
    assert last == training["steps"]
    assert len(checks[last]) == 6
    assert max(checks[last]) < 1.6
    assert all(max(checks[step]) >= 1.6 for step in earlier)
    rollback(lab.store, "base")
    with pytest.raises(KeyboardInterrupt):
        lab.train(data, observer=RecordingObserver(stop_after=last - 1), **LEARNS)
    again = resume(lab.store, None, RecordingObserver())
    assert again.session.record["training"]["steps"] == last
    assert again.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)


def test_noised_questions_take_every_second_turn_and_are_in_no_exam(lab):
    flags = {"question_noise": 3, "until_learned": True, "epochs": 2}
    plan, _ = planned(lab, lab.data("cs", facts("Lab"), wordings=1), **flags)
    source = plan.mixture.sources[0]
    assert source.variants == (2,) * 6
    assert all(1 <= count <= 3 for count in source.noised)
    assert len(plan.examples) == source.num_examples == 12 + sum(source.noised)
    for row, wordings in zip(plan.new, source.rows, strict=True):
        both = tokenise.encode([row, *row.variants[1:]], plan.tokenizer)
        assert [plan.examples[i] for i in wordings] == both
        noised = plan.examples[wordings.stop]
        assert noised not in both
        assert noised.tokens[noised.last_answer :] == both[0].tokens[both[0].last_answer :]
    assert steps._early_stopping(plan).rows == tuple(source.rows)
    assert plan.mixture.rows_per_epoch == 6


def test_old_rows_are_rehearsed_with_noise_too(lab):
    lab.train(lab.data("cs", facts("Lab", 3)))
    plan, _ = planned(lab, lab.data("housing", facts("Hall", 2)), question_noise=3)
    assert [len(source.noised) for source in plan.mixture.sources] == [2, 3, 0]


def test_a_noised_run_that_is_stopped_ends_as_if_it_had_never_stopped(lab):
    data, flags = lab.data("cs", facts("Lab"), wordings=1), {"question_noise": 3, "epochs": 3}
    whole = lab.train(data, **flags).session.read(WEIGHTS_FILE)
    rollback(lab.store, "base")
    with pytest.raises(KeyboardInterrupt):
        lab.train(data, observer=RecordingObserver(stop_after=3), **flags)
    assert resume(lab.store, None, RecordingObserver()).session.read(WEIGHTS_FILE) == whole
