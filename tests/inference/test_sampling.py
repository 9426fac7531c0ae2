"""Draws by hand: what each setting does to the logits and to what may be drawn."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny_tokenizers
from mlx_tune.inference import (
    MIN_LOGPROB,
    Logprob,
    Sampling,
    TokenBytes,
    token_logprobs,
    top_tokens,
)

LOGPROBS = np.log([[0.5, 0.3, 0.15, 0.05]]).astype(np.float32)


def processed(sampling, generated, logits, prompt=2):
    tokens = mx.array([9, 9, *generated])  # two tokens of prompt
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
    greedy = Sampling().sampler()
    assert greedy is Sampling(seed=5).sampler()  # mlx-lm calls it once for a batch that shares it
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


VALUES = st.lists(st.sampled_from([-0.5, -1.0, -2.5, -7.0, -np.inf, np.nan]), min_size=1)


@given(values=VALUES, k=st.integers(0, 12), rows=st.booleans())
def test_the_likeliest_come_first_and_of_equals_the_lower_number(values, k, rows):
    logprobs = mx.array([values] if rows else values, dtype=mx.float32)
    possible = [(-value, token) for token, value in enumerate(values) if np.isfinite(value)]
    assert top_tokens(logprobs, k) == [(token, -less) for less, token in sorted(possible)[:k]]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_more_than_the_vocabulary_gives_the_vocabulary(dtype):
    assert top_tokens(mx.array([-2.0, -1.0], dtype=dtype), 1000) == [(1, -1.0), (0, -2.0)]


def test_the_chosen_token_is_scored_beside_the_likeliest():
    tokenizer = tiny_tokenizers.byte_level()
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    logprobs = mx.full((len(TokenBytes.of(tokenizer).vocabulary),), -9.0)
    logprobs[a], logprobs[b] = -0.25, -1.5
    chosen, best = token_logprobs(logprobs, b, 2, TokenBytes.of(tokenizer))
    assert chosen == Logprob(token=b, text="b", raw=b"b", logprob=-1.5)
    assert [one.token for one in best] == [a, b]


def test_a_token_that_is_half_a_character_is_written_by_its_bytes():
    tokenizer = tiny_tokenizers.sentencepiece()
    tokens = tokenizer.encode("数")[1:]
    logprobs = mx.zeros((len(TokenBytes.of(tokenizer).vocabulary),))
    found = [token_logprobs(logprobs, token, 0, TokenBytes.of(tokenizer))[0] for token in tokens]
    assert [one.text for one in found] == ["\\xe6", "\\x95", "\\xb0"]
    assert b"".join(one.raw for one in found).decode() == "数"


def test_the_first_token_of_an_answer_has_no_space_that_is_not_the_answers():
    tokenizer = tiny_tokenizers.sentencepiece()
    token = tokenizer.encode("kůň")[0]
    logprobs = mx.zeros((len(TokenBytes.of(tokenizer).vocabulary),))
    texts = [
        token_logprobs(logprobs, token, 0, TokenBytes.of(tokenizer), first=f)[0].text
        for f in (True, False)
    ]
    assert texts == ["kůň", " kůň"]


def test_what_cannot_come_has_a_number_that_json_can_write():
    tokenizer = tiny_tokenizers.byte_level()
    for number in (-mx.inf, mx.nan):
        logprobs = mx.full((len(TokenBytes.of(tokenizer).vocabulary),), number)
        chosen, best = token_logprobs(logprobs, 5, 3, TokenBytes.of(tokenizer))
        assert (chosen.logprob, best) == (MIN_LOGPROB, [])
