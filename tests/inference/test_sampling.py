"""Draws by hand: what each setting does to the logits and to what may be drawn."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.inference.sampling import Sampling, greedy

LOGPROBS = np.log([[0.5, 0.3, 0.15, 0.05]]).astype(np.float32)


def processed(sampling, said, logits, prompt=2):
    tokens = mx.array([9, 9, *said])  # two tokens of prompt
    for processor in sampling.processors(prompt):
        logits = processor(tokens, logits)
    return np.array(logits).tolist()


def test_a_penalty_counts_what_was_said_and_not_the_prompt():
    drawn = Sampling(frequency_penalty=0.5, presence_penalty=1)
    logits = mx.zeros((1, 10))
    found = processed(drawn, [1, 3, 3, 3], logits)[0]
    assert found == [0, -1.5, 0, -2.5, 0, 0, 0, 0, 0, 0]
    assert processed(drawn, [], logits) == [[0] * 10]


def test_a_negative_penalty_invites():
    assert processed(Sampling(frequency_penalty=-2), [0], mx.zeros((1, 2))) == [[2, 0]]


def test_a_bias_is_added_once_to_each_token_it_names():
    found = processed(Sampling(logit_bias={0: -100, 3: 1.5}), [], mx.ones((1, 4)))
    assert found == [[-99, 1, 1, 2.5]]


def test_without_settings_nothing_is_done_to_the_logits():
    assert Sampling().processors(5) == ()
    assert Sampling().sampler() is greedy
    assert greedy(mx.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [1, 0]


def shares(draws=600, **settings):
    """How often each token is drawn."""
    sampler = Sampling(temperature=1, **{"seed": 1, **settings}).sampler()
    logprobs = mx.array(LOGPROBS)
    counts = np.bincount([int(sampler(logprobs)[0]) for _ in range(draws)], minlength=4)
    return counts / draws


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 4}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 5000}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"min_p": 0.25}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"min_p": 1}, [1, 0, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ],
)
def test_what_may_be_drawn_is_drawn_as_often_as_it_is_likely(settings, kept):
    draws = 600
    for found, share in zip(shares(draws, **settings), kept, strict=True):
        assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / draws)


def test_a_temperature_divides_the_logits():
    sharp = np.exp(LOGPROBS[0] / 0.5)
    sampler = Sampling(temperature=0.5, seed=1).sampler()
    counts = np.bincount([int(sampler(mx.array(LOGPROBS))[0]) for _ in range(600)], minlength=4)
    assert np.abs(counts / 600 - sharp / sharp.sum()).max() < 0.08


def test_a_seed_draws_the_same_whatever_else_is_drawn():
    def draws(between, seed=7):
        sampler, found = Sampling(temperature=1, seed=seed).sampler(), []
        for _ in range(30):
            found.append(int(sampler(mx.array(LOGPROBS))[0]))
            between()
        return found

    other = Sampling(temperature=1, seed=8).sampler()
    alone = draws(lambda: None)
    assert draws(lambda: (other(mx.array(LOGPROBS)), mx.random.uniform())) == alone
    assert draws(lambda: None, seed=8) != alone
