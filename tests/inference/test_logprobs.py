import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vocabularies
from mlx_tune.inference.logprobs import IMPOSSIBLE, Scored, scored, top
from mlx_tune.inference.spelling import spelling

VALUES = st.lists(st.sampled_from([-0.5, -1.0, -2.5, -7.0, -np.inf, np.nan]), min_size=1)


@given(values=VALUES, k=st.integers(0, 12), rows=st.booleans())
def test_the_likeliest_come_first_and_of_equals_the_lower_number(values, k, rows):
    logprobs = mx.array([values] if rows else values, dtype=mx.float32)
    possible = [(-value, token) for token, value in enumerate(values) if np.isfinite(value)]
    assert top(logprobs, k) == [(token, -less) for less, token in sorted(possible)[:k]]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_more_than_the_vocabulary_gives_the_vocabulary(dtype):
    assert top(mx.array([-2.0, -1.0], dtype=dtype), 1000) == [(1, -1.0), (0, -2.0)]


def test_the_chosen_token_is_scored_beside_the_likeliest():
    tokenizer = vocabularies.byte_level()
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    logprobs = mx.full((len(spelling(tokenizer).pieces),), -9.0)
    logprobs[a], logprobs[b] = -0.25, -1.5
    chosen, best = scored(logprobs, b, 2, spelling(tokenizer))
    assert chosen == Scored(token=b, text="b", spelt=b"b", logprob=-1.5)
    assert [one.token for one in best] == [a, b]


def test_a_token_that_is_half_a_character_is_written_by_its_bytes():
    tokenizer = vocabularies.sentencepiece()
    tokens = tokenizer.encode("数")[1:]
    logprobs = mx.zeros((len(spelling(tokenizer).pieces),))
    found = [scored(logprobs, token, 0, spelling(tokenizer))[0] for token in tokens]
    assert [one.text for one in found] == ["\\xe6", "\\x95", "\\xb0"]
    assert b"".join(one.spelt for one in found).decode() == "数"


def test_the_first_token_of_an_answer_has_no_space_that_is_not_the_answers():
    tokenizer = vocabularies.sentencepiece()
    token = tokenizer.encode("kůň")[0]
    logprobs = mx.zeros((len(spelling(tokenizer).pieces),))
    texts = [
        scored(logprobs, token, 0, spelling(tokenizer), first=f)[0].text for f in (True, False)
    ]
    assert texts == ["kůň", " kůň"]


def test_what_cannot_come_has_a_number_that_json_can_write():
    tokenizer = vocabularies.byte_level()
    for number in (-mx.inf, mx.nan):
        logprobs = mx.full((len(spelling(tokenizer).pieces),), number)
        chosen, best = scored(logprobs, 5, 3, spelling(tokenizer))
        assert (chosen.logprob, best) == (IMPOSSIBLE, [])
