"""A session that teaches calls of tools, from its data file to what a later session makes of it."""

import json
from dataclasses import replace

import pytest

from helpers import chat_templates, tiny
from helpers.training_lab import RecordingObserver, TrainingLab, facts
from mlx_tune.errors import InputError
from mlx_tune.workflows.plan import plan_training
from mlx_tune.workflows.workspace import read_rows

TOOL = {"name": "look", "parameters": {"properties": {"at": {}}}}
LEARNS = {"learning_rate": 0.02, "epochs": 80, "rank": 8}


@pytest.fixture
def lab(tmp_path_factory, tmp_path):
    """A store and a tiny base whose template has tools."""
    base = tiny.base_folder(
        tmp_path_factory.mktemp("bases") / "tools", template=chat_templates.QWEN25
    )
    return TrainingLab(root=tmp_path, base=base)


def calling(lab, place="A"):
    """Write a row that answers a question with a call."""
    function = {"name": "look", "arguments": json.dumps({"at": place})}
    row = {
        "messages": [
            {"role": "user", "content": "Where?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "paraphrases": ["Whereabouts?"],
    }
    path = lab.root / "calls.json"
    path.write_text(json.dumps([row]))
    return path


def test_a_call_is_learned_word_for_word_graded_kept_and_rehearsed(lab):
    first = RecordingObserver()
    outcome = lab.train(calling(lab), observer=first, **LEARNS)
    (recall,) = outcome.session.record["recall"]
    assert recall["verbatim"]["outcomes"] == [1]
    assert recall["as_taught"]["outcomes"] == ["right"]
    assert recall["other_words"]["asked"] == 1
    (plan,) = first.plans
    assert read_rows(outcome.session) == list(plan.new)
    later = plan_training(lab.request(lab.data("cs", facts("Lab", 1))), say=print)
    assert later.old == plan.new
    before, again = plan.examples[0], later.examples[1]
    assert again == replace(before, place=again.place)
    changed = plan_training(lab.request(calling(lab, "B")), say=print)
    ((new, old),) = changed.review.rehearsal.changed
    assert (new.answer, old.answer) == (
        '{"name": "look", "arguments": {"at": "B"}}',
        '{"name": "look", "arguments": {"at": "A"}}',
    )


def test_a_call_that_the_base_cannot_render_is_refused_before_anything_is_trained(lab, tiny_base):
    path, observer = calling(lab), RecordingObserver()
    with pytest.raises(InputError) as caught:
        lab.train(path, observer=observer, base=str(tiny_base))
    assert str(caught.value) == (
        f'{path}:1: the base\'s chat template leaves out the tool "look"; use a base model whose '
        "template has it, or leave the row out"
    )
    assert not observer.plans
    assert not [*lab.store.glob("sessions/*")]
