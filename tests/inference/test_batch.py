import sys
from dataclasses import replace
from threading import Thread

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_tune.errors import UsageError
from mlx_tune.inference import batch
from mlx_tune.inference.batch import answers

LENGTHS = [1, 2, 40, 7, 7, 1, 23, 90, 3, 12]
LIMIT = 12


def prompts(lengths=LENGTHS):
    random = np.random.default_rng(0)
    return [random.integers(3, 250, length).tolist() for length in lengths]


def alone(model, prompt, end_ids, limit=LIMIT):
    """The greedy answer by the model's own first choices, without a cache."""
    said = []
    while len(said) < limit and not (said and said[-1] in end_ids):
        logits = model(mx.array([[*prompt, *said]]))[0, -1]
        said.append(int(np.array(mx.argmax(logits))))
    return said


def ending_some(model, asked):
    """A tokenizer whose end token comes in the middle of some answers, and in others not at all."""
    long = [alone(model, prompt, frozenset()) for prompt in asked]
    inner = [{*said[1:-1]} for said in long]
    end = next(t for found in inner for t in sorted(found) if 0 < sum(t in i for i in inner) < 8)
    return replace(tiny.tokenizer(), end_ids=frozenset({end}))


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2"])
def test_answers_at_once_are_those_of_each_prompt_alone(model_type, width, monkeypatch):
    monkeypatch.setattr(batch, "WIDTH", width)
    model, asked = tiny.model(model_type=model_type), prompts()
    tokenizer = ending_some(model, asked)
    found = answers(model, tokenizer, asked, max_tokens=LIMIT)
    assert found == [alone(model, prompt, tokenizer.end_ids) for prompt in asked]
    ended = [said[-1] in tokenizer.end_ids for said in found]
    assert any(ended)
    assert {len(said) for said, end in zip(found, ended, strict=True) if not end} == {LIMIT}


def test_an_architecture_that_may_not_batch_answers_one_by_one(monkeypatch):
    model, asked = tiny.model(model_type="gemma2"), prompts()
    monkeypatch.setattr(sys.modules["mlx_lm.generate"], "BatchGenerator", None)
    assert len(answers(model, tiny.tokenizer(), asked, max_tokens=3)) == len(asked)


def test_another_thread_gets_the_same_answers():
    asked, found = prompts([5, 9]), []

    def work():
        model = tiny.model()  # arrays belong to the thread that made them
        found.append(answers(model, tiny.tokenizer(), asked, max_tokens=4))

    wanted = answers(tiny.model(), tiny.tokenizer(), asked, max_tokens=4)
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert found == [wanted]


def test_an_answer_ends_where_the_model_can_read_no_further():
    model = tiny.model(max_position_embeddings=20)
    nothing_ends = replace(tiny.tokenizer(), end_ids=frozenset())
    found = answers(model, nothing_ends, prompts([5, 18]), max_tokens=9)
    assert [len(said) for said in found] == [9, 2]


def test_a_prompt_that_the_model_cannot_read_is_refused():
    model = tiny.model(max_position_embeddings=20)
    with pytest.raises(UsageError, match="21 tokens long and the model reads 20"):
        answers(model, tiny.tokenizer(), prompts([5, 21]), max_tokens=9)


def test_nothing_asked_is_nothing_answered():
    assert answers(tiny.model(), tiny.tokenizer(), [], max_tokens=9) == []
