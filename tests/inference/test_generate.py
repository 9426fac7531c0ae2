import subprocess
import sys
from dataclasses import replace
from threading import Thread

import mlx.core as mx
import numpy as np
import pytest

from helpers import tiny
from mlx_tune.errors import UsageError
from mlx_tune.inference import Sampling, batch_generate, generate, prompt_logprobs

LENGTHS = [1, 2, 40, 7, 7, 1, 23, 90, 3, 12]
LIMIT = 12


def prompts(lengths=LENGTHS):
    random = np.random.default_rng(0)
    return [random.integers(3, 250, length).tolist() for length in lengths]


def alone(model, prompt, end_ids, limit=LIMIT):
    """The greedy answer by the model's own first choices, without a cache."""
    answer = []
    while len(answer) < limit and not (answer and answer[-1] in end_ids):
        logits = model(mx.array([[*prompt, *answer]]))[0, -1]
        answer.append(int(np.array(mx.argmax(logits))))
    return answer


def ending_some(model, several):
    """A tokenizer whose end token comes in the middle of some answers, and in others not at all."""
    long = [alone(model, prompt, frozenset()) for prompt in several]
    inner = [{*answer[1:-1]} for answer in long]
    end = next(t for found in inner for t in sorted(found) if 0 < sum(t in i for i in inner) < 8)
    return replace(tiny.tokenizer(), end_ids=frozenset({end}))


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2"])
def test_answers_at_once_are_those_of_each_prompt_alone(model_type, width, monkeypatch):
    monkeypatch.setattr(generate, "BATCH_SIZE", width)
    model, several = tiny.model(model_type=model_type), prompts()
    tokenizer = ending_some(model, several)
    found = batch_generate(model, tokenizer, several, max_tokens=LIMIT)
    assert found == [alone(model, prompt, tokenizer.end_ids) for prompt in several]
    ended = [answer[-1] in tokenizer.end_ids for answer in found]
    assert any(ended)
    assert {len(answer) for answer, end in zip(found, ended, strict=True) if not end} == {LIMIT}


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_each_answer_may_have_a_limit_of_its_own(model_type):
    model, several = tiny.model(model_type=model_type), prompts()
    nothing_ends = replace(tiny.tokenizer(), end_ids=frozenset())
    limits = [1 + i for i in range(len(several))]
    found = batch_generate(model, nothing_ends, several, max_tokens=limits)
    whole = batch_generate(model, nothing_ends, several, max_tokens=LIMIT)
    assert found == [answer[:limit] for answer, limit in zip(whole, limits, strict=True)]


def test_an_architecture_that_may_not_batch_answers_one_by_one(monkeypatch):
    model, several = tiny.model(model_type="gemma2"), prompts()
    monkeypatch.setattr(sys.modules["mlx_lm.generate"], "BatchGenerator", None)
    assert len(batch_generate(model, tiny.tokenizer(), several, max_tokens=3)) == len(several)


def test_another_thread_gets_the_same_answers():
    several, found = prompts([5, 9]), []

    def work():
        model = tiny.model()  # arrays belong to the thread that made them
        found.append(batch_generate(model, tiny.tokenizer(), several, max_tokens=4))

    wanted = batch_generate(tiny.model(), tiny.tokenizer(), several, max_tokens=4)
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert found == [wanted]


def test_an_answer_ends_where_the_model_can_read_no_further():
    model = tiny.model(max_position_embeddings=20)
    nothing_ends = replace(tiny.tokenizer(), end_ids=frozenset())
    found = batch_generate(model, nothing_ends, prompts([5, 18]), max_tokens=9)
    assert [len(answer) for answer in found] == [9, 2]


def test_a_prompt_that_the_model_cannot_read_is_refused():
    model = tiny.model(max_position_embeddings=20)
    with pytest.raises(UsageError, match="21 tokens long and the model reads 20"):
        batch_generate(model, tiny.tokenizer(), prompts([5, 21]), max_tokens=9)


def test_nothing_asked_is_nothing_answered():
    assert batch_generate(tiny.model(), tiny.tokenizer(), [], max_tokens=9) == []


@pytest.mark.parametrize("length", [2, 128, 129, 130, 300])
def test_a_text_in_parts_is_as_likely_as_in_one(length):
    model = tiny.model()
    tokens = np.random.default_rng(0).integers(3, 250, length).tolist()
    found = list(prompt_logprobs(model, tokens))
    logits = model(mx.array([tokens]))[0, :-1]
    wanted = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    assert len(found) == length - 1
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(np.array(one) - other).max() < 1e-4


def test_one_token_alone_has_no_likelihood():
    assert list(prompt_logprobs(tiny.model(), [5])) == []


def test_half_precision_is_widened_before_it_is_normalised():
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    (found,) = prompt_logprobs(model, [5, 6])
    assert found.dtype == mx.float32
    assert abs(float(mx.exp(found).sum()) - 1) < 1e-5


def test_generation_does_without_the_packages_of_the_server():
    code = "import sys, mlx_tune.inference; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_sampled_answers_depend_on_their_own_seeds_alone(model_type):
    model, tokenizer = tiny.model(model_type=model_type), tiny.tokenizer()
    (prompt,) = prompts([7])

    def sampled(*seeds):
        sampling = [Sampling(temperature=1.0, seed=seed) for seed in seeds]
        several = [prompt] * len(seeds)
        return batch_generate(model, tokenizer, several, max_tokens=8, sampling=sampling)

    first, second, again = sampled(1, 2, 1)
    assert first == again != second
    assert sampled(2) == [second]
