import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.training.loss import (
    Head,
    bounded_cross_entropy,
    bounded_divergence,
    cross_entropy,
    divergence,
)

TOKENS, DIMS, VOCABULARY = 11, 64, 96


def quantised(module: nn.Module, **form) -> nn.Module:
    return module.to_quantized(group_size=32, **({"bits": 4} | form))


HEADS = {
    "an embedding": lambda: nn.Embedding(VOCABULARY, DIMS),
    "a head of its own": lambda: nn.Linear(DIMS, VOCABULARY, bias=False),
    "a 4-bit embedding": lambda: quantised(nn.Embedding(VOCABULARY, DIMS)),
    "a 4-bit head": lambda: quantised(nn.Linear(DIMS, VOCABULARY, bias=False)),
    "an mxfp4 head": lambda: quantised(nn.Linear(DIMS, VOCABULARY, bias=False), mode="mxfp4"),
}


def head(name: str) -> Head:
    mx.random.seed(0)
    return Head(HEADS[name]())


def states(size: float = 1.0, dtype=mx.float32) -> mx.array:
    return (size * mx.random.normal((TOKENS, DIMS), key=mx.random.key(1))).astype(dtype)


TARGETS = mx.random.randint(0, VOCABULARY, (TOKENS,), key=mx.random.key(2))
# Two tokens of padding, one of them amid the others, and a weight that is neither 0 nor 1.
WEIGHTS = mx.array([1, 1, 0, 1, 1, 0.5, 1, 1, 1, 1, 0], dtype=mx.float32)


def bounded(*arguments, **options):
    return bounded_cross_entropy(*arguments, **options)[0]


def naive(own: Head, states: mx.array) -> mx.array:
    return (WEIGHTS * cross_entropy(own(states), TARGETS)).sum()


def measured(loss, states):
    value, gradient = mx.value_and_grad(loss)(states)
    return float(np.array(value)), np.array(gradient.astype(mx.float32))


def assert_same(found, wanted, tolerance=1e-5):
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    assert np.abs(found[1] - wanted[1]).max() <= tolerance * np.abs(wanted[1]).max()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("chunk", [None, 1, 5, TOKENS, 100])
def test_a_loss_in_chunks_equals_the_naive_one_and_so_does_its_gradient(name, chunk):
    own = head(name)
    found = measured(lambda s: bounded(own, s, TARGETS, WEIGHTS, chunk=chunk), states())
    assert_same(found, measured(lambda s: naive(own, s), states()))


@pytest.mark.parametrize("size", [0.01, 30.0, 500.0])  # logits of up to 0.02, 60 and 1000
def test_nearly_equal_and_far_apart_logits_are_as_exact(size):
    own = head("a head of its own")
    found = measured(lambda s: bounded(own, s, TARGETS, WEIGHTS, chunk=4), states(size))
    assert_same(found, measured(lambda s: naive(own, s), states(size)))


def test_the_gradient_follows_what_is_done_with_the_loss():
    own = head("an embedding")

    def ours(s):
        return 0.25 * bounded(own, s * 2, TARGETS, WEIGHTS, chunk=3) + s.sum()

    assert_same(
        measured(ours, states()), measured(lambda s: 0.25 * naive(own, s * 2) + s.sum(), states())
    )


def test_every_tokens_own_loss_is_told_beside_the_sum_and_has_no_gradient():
    own = head("a head of its own")
    wanted = np.array(cross_entropy(own(states()), TARGETS))
    for chunk in (None, 4):
        _, found = bounded_cross_entropy(own, states(), TARGETS, WEIGHTS, chunk=chunk)
        assert np.array(found) == pytest.approx(wanted, rel=1e-5)
    _, gradient = measured(
        lambda s: bounded_cross_entropy(own, s, TARGETS, WEIGHTS)[1].sum(), states()
    )
    assert not gradient.any()


def test_a_token_of_weight_zero_teaches_nothing():
    own = head("an embedding")
    _, gradient = measured(lambda s: bounded(own, s, TARGETS, WEIGHTS, chunk=4), states())
    rests = np.array(WEIGHTS) == 0
    assert not gradient[rests].any()
    assert np.abs(gradient[~rests]).max(axis=1).min() > 0


def test_bfloat16_states_have_a_bfloat16_gradient_and_a_float32_loss():
    own = head("a head of its own")
    value, gradient = mx.value_and_grad(lambda s: bounded(own, s, TARGETS, WEIGHTS, chunk=4))(
        states(dtype=mx.bfloat16)
    )
    assert (value.dtype, gradient.dtype) == (mx.float32, mx.bfloat16)
    wanted = measured(lambda s: naive(own, s), states())
    assert_same((value.item(), np.array(gradient.astype(mx.float32))), wanted, 0.02)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_word_known_for_certain_costs_nothing_and_not_less(dtype):
    """Its logit is one of those that are summed, roundings included."""
    module = nn.Embedding(512, 256)
    module.weight = 0.06 * mx.random.normal((512, 256), key=mx.random.key(0))
    module.set_dtype(dtype)
    own, targets = Head(module), mx.arange(64)
    sure = (40 * module.weight[:64].astype(mx.float32)).astype(dtype)  # logits of about 37
    assert not np.array(cross_entropy(own(sure), targets)).any()
    for i in range(64):
        word = slice(i, i + 1)
        loss = bounded(own, sure[word], targets[word], mx.ones(1))
        assert loss.item() == 0


def by_entropy(own, states, targets, weights, chunk):
    return bounded(own, states, targets, weights, chunk=chunk)


def by_divergence(own, states, targets, weights, chunk):
    teacher = mx.stop_gradient(states) / 2
    return bounded_divergence(own, teacher, states, targets, weights, chunk=chunk)[0]


@pytest.mark.parametrize("loss", [by_entropy, by_divergence])
def test_a_chunk_bounds_the_logits_that_are_held(loss):
    """Eight chunks: 4 MiB of logits at a time, and not the 32 MiB of all."""
    rows, words = 512, 1 << 14
    own = Head(nn.Linear(8, words, bias=False))
    inputs = mx.random.normal((rows, 8), key=mx.random.key(0))
    targets, weights = mx.zeros(rows, dtype=mx.int32), mx.ones(rows)
    mx.eval(own.rows(targets), inputs, weights)

    def peak(chunk):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(mx.value_and_grad(lambda s: loss(own, s, targets, weights, chunk))(inputs))
        return mx.get_peak_memory() - before

    assert peak(64) < 0.2 * peak(None)


def test_cross_entropy_by_hand():
    logits = mx.log(mx.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    found = np.array(cross_entropy(logits, mx.array([1, 2])))
    assert found == pytest.approx([np.log(4), -np.log(0.8)], rel=1e-5)


def test_the_bounded_loss_by_hand():
    """Logits are the states themselves: shares of a half, a quarter and a quarter."""
    own = Head(nn.Linear(3, 3, bias=False))
    own._module.weight = mx.eye(3)
    logits = mx.log(mx.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    loss, gradient = measured(
        lambda s: bounded(own, s, mx.array([1, 2]), mx.array([1.0, 0.5]), chunk=1),
        logits,
    )
    assert loss == pytest.approx(np.log(4) - 0.5 * np.log(0.8), rel=1e-6)
    assert gradient[0] == pytest.approx([0.5, -0.75, 0.25], abs=1e-6)
    assert gradient[1] == pytest.approx([0.05, 0.05, -0.1], abs=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_a_heads_words_are_the_rows_its_logits_are_made_of(name):
    own = head(name)
    ids = mx.array([3, 0, 95, 3])
    by_words = states() @ own.rows(ids).T
    assert np.allclose(np.array(by_words), np.array(own(states())[:, ids]), atol=1e-4)


def softmax(logits) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def logits(seed: int, *, tokens: int = 3, size: float = 3.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(tokens, 7)) * size
    return drawn.astype(np.float32)


def distilled(teacher, student, weights) -> mx.array:
    return (weights * divergence(teacher, student)).sum()


def apart(teacher, student, weights) -> float:
    return float(np.array(distilled(*map(mx.array, (teacher, student, weights)))))


def test_two_words_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    found = apart([[math.log(3), 0.0]], [[5.0, 5.0]], [2.0])
    assert found == pytest.approx(2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


@given(teacher=st.integers(0, 99), student=st.integers(100, 199))
def test_it_is_the_weighted_sum_of_the_divergences(teacher, student):
    t, s, weights = logits(teacher), logits(student), [1.0, 0.0, 0.5]
    p, q = softmax(t.astype(np.float64)), softmax(s.astype(np.float64))
    wanted = (np.array(weights)[:, None] * p * np.log(p / q)).sum()
    assert apart(t, s, weights) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 99), shift=st.floats(-50, 50))
def test_what_says_the_same_has_no_apart(seed, shift):
    teacher = logits(seed)
    assert abs(apart(teacher, teacher + np.float32(shift), [1.0, 1.0, 1.0])) < 1e-4


@given(seed=st.integers(0, 99))
def test_the_gradient_is_the_difference_of_the_two(seed):
    teacher, student, weights = logits(seed), logits(seed + 1000), np.array([1.0, 0.0, 0.25])
    arrays = mx.array(teacher), mx.array(student), mx.array(weights, dtype=mx.float32)
    of_teacher, of_student = mx.grad(distilled, argnums=(0, 1))(*arrays)
    wanted = weights[:, None] * (softmax(student) - softmax(teacher))
    np.testing.assert_allclose(np.array(of_student), wanted, atol=1e-6)
    assert not np.array(of_teacher).any()


def test_logits_far_apart_give_a_finite_apart():
    assert apart([[1e4, 0.0]], [[0.0, 1e4]], [1.0]) == pytest.approx(1e4)
    assert np.isfinite(apart([[-1e4, 1e4]], [[1e4, -1e4]], [1.0]))


def test_half_precision_is_measured_in_float32():
    teacher, student = mx.array(logits(1)), mx.array(logits(2))
    halves = [array.astype(mx.bfloat16) for array in (teacher, student)]
    found = distilled(*halves, mx.ones(3))
    assert found.dtype == mx.float32
    wide = distilled(*(half.astype(mx.float32) for half in halves), mx.ones(3))
    assert found.item() == wide.item()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("chunk", [None, 1, 5, TOKENS, 100])
def test_a_divergence_in_chunks_equals_the_naive_one_and_so_does_its_gradient(name, chunk):
    own = head(name)
    teacher = states() + 0.3 * states(2.0)[::-1]
    found = measured(
        lambda s: bounded_divergence(own, teacher, s, TARGETS, WEIGHTS, chunk=chunk)[0], states()
    )
    wanted = measured(lambda s: distilled(own(teacher), own(s), WEIGHTS), states())
    assert wanted[0] > 0.1
    assert_same(found, wanted)


def test_a_divergence_tells_each_tokens_own_loss_and_leaves_the_teacher_alone():
    own, teacher = head("an embedding"), states(2.0)
    _, told = bounded_divergence(own, teacher, states(), TARGETS, WEIGHTS, chunk=4)
    assert np.array(told) == pytest.approx(
        np.array(cross_entropy(own(states()), TARGETS)), rel=1e-5
    )
    _, gradient = measured(
        lambda t: bounded_divergence(own, t, states(), TARGETS, WEIGHTS, chunk=4)[0], teacher
    )
    assert not gradient.any()
