"""Rows in several wordings, from the data file to the rehearsal of a later session."""

import json
import signal

import pytest

from helpers.training_lab import RecordingObserver, facts
from mlx_tune.cli.plan_view import _mixture, plan_json
from mlx_tune.data.tokenise import encode
from mlx_tune.errors import InputError, Interrupted
from mlx_tune.store.runs import Run
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.training.mixture import Forms
from mlx_tune.workflows.plan import plan_training
from mlx_tune.workflows.run import resume
from mlx_tune.workflows.steps import _early_stopping
from mlx_tune.workflows.store_commands import rollback

NOISE = {"question_noise": 3}


def rows_of(subject, count=4):
    rows = []
    for i, (question, answer) in enumerate(facts(subject, count).items()):
        wordings = [f"{subject} {i}, please", f"find {subject} {i}"]
        rows.append({"instruction": question, "response": answer, "wordings": wordings})
    return rows


@pytest.fixture
def reworded(lab):
    def write(name, rows):
        path = lab.root / f"{name}.json"
        path.write_text(json.dumps(rows))
        return path

    return write


def plan(lab, *data, **flags):
    return plan_training(lab.request(*data, **flags), say=lambda line: None)


def test_an_epoch_has_one_wording_of_each_row(lab, reworded):
    found = plan(lab, reworded("cs", rows_of("Lab")), **NOISE)
    source = found.mixture.sources[0]
    assert source.forms == (Forms(wordings=3, noised=3),) * 4
    assert (found.mixture.rows_per_epoch, len(found.examples)) == (4, 24)
    assert found.planned_steps == 2 * 1  # two epochs of four rows, four at a time
    for row, start in zip(found.new, source.starts, strict=False):
        wordings = list(found.examples[start : start + 3])
        assert wordings == encode([row, *row.reworded], found.tokenizer)
        answers = {tuple(e.tokens[e.last_answer :]) for e in found.examples[start : start + 6]}
        assert len(answers) == 1
    assert plan_json(found)["rows"] == {
        "new": 4, "wordings": 12, "rehearsed": 0, "held_out": 0,
        "an_epoch": {"new": 4, "old": 0, "general": 0},
    }  # fmt: skip
    assert "4 new in 12 wordings" in _mixture(found)


def test_rows_with_one_wording_are_counted_as_ever(lab):
    found = plan(lab, lab.data("cs", facts("Lab")))
    assert found.mixture.sources[0].forms == ()
    assert "wordings" not in _mixture(found)


def test_the_exam_asks_every_wording_and_nothing_noised(lab, reworded):
    found = plan(lab, reworded("cs", rows_of("Lab")), until_learned=True, **NOISE)
    wanted = [6 * row + wording for row in range(4) for wording in range(3)]
    assert list(_early_stopping(found).rows) == wanted


def test_a_later_session_rehearses_all_wordings(lab, reworded):
    session = lab.train(reworded("cs", rows_of("Lab")), **NOISE).session
    kept = [json.loads(line) for line in session.read("data.jsonl").splitlines()]
    assert [row["wordings"] for row in kept] == [row["wordings"] for row in rows_of("Lab")]
    found = plan(lab, reworded("housing", rows_of("Hall")), **NOISE)
    new, old, _ = found.mixture.sources
    assert [forms.wordings for forms in (*new.forms, *old.forms)] == [3] * 8
    assert all(forms.noised for forms in old.forms)
    assert found.mixture.starts == (0, new.examples, len(found.examples), len(found.examples))
    assert found.old[0].wordings == ("Lab 0, please", "find Lab 0")


def test_stopped_at_every_step_it_ends_as_if_it_had_never_stopped(lab, reworded):
    data, flags = reworded("cs", rows_of("Lab", 6)), {**NOISE, "epochs": 3}
    whole = lab.train(data, **flags)
    rollback(lab.store, "base")
    observer = RecordingObserver(signal_after=(1, signal.SIGINT))
    with pytest.raises(Interrupted):
        lab.train(data, observer=observer, **flags)
    for _ in range(4):
        with pytest.raises(Interrupted):
            resume(lab.store, None, RecordingObserver(signal_after=(1, signal.SIGINT)))
    pieces = resume(lab.store, None, RecordingObserver())
    assert pieces.session.read(WEIGHTS_FILE) == whole.session.read(WEIGHTS_FILE)
    recorded = Run.open(observer.run.path).record["mixture"][0]
    assert recorded["forms"] == [[3, 3]] * 6


def test_a_row_with_a_wording_that_is_too_long_is_left_out_whole(lab, reworded):
    rows = rows_of("Lab", 40)
    rows[3]["wordings"][1] = "please " * 40 + "find it"
    found = plan(lab, reworded("cs", rows), max_length=200, allow_long=True)
    assert [row.question for row in found.review.too_long] == ["Where is Lab 3?"]
    assert len(found.new) == 39


def test_a_wording_may_not_be_an_earlier_sessions_probe(lab, reworded):
    old = [{"prompt": "Where is A?", "completion": "In 1.", "paraphrases": ["Find A"]}]
    lab.train(reworded("old", old))
    new = [{"prompt": "Say A", "completion": "In 1.", "wordings": ["find a"]}]
    with pytest.raises(InputError, match=r'wording "find a" is a paraphrase of .*data\.jsonl:1'):
        plan(lab, reworded("new", new))
