"""How likely a text is: every token of it, however long."""

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_tune.inference.prompt_scores import prompt_logprobs


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
