import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from mlx_tune.continual.methods.self_distill import distillation_loss
from mlx_tune.training.batches import collate
from mlx_tune.training.network import network


def softmax(logits) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def logits(seed: int, *, tokens: int = 3, size: float = 3.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(tokens, 7)) * size
    return drawn.astype(np.float32)


def loss(teacher, student, weights) -> float:
    return float(np.array(distillation_loss(*map(mx.array, (teacher, student, weights)))))


def test_two_words_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    found = loss([[math.log(3), 0.0]], [[5.0, 5.0]], [2.0])
    assert found == pytest.approx(2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


@given(teacher=st.integers(0, 99), student=st.integers(100, 199))
def test_it_is_the_weighted_sum_of_the_divergences(teacher, student):
    t, s, weights = logits(teacher), logits(student), [1.0, 0.0, 0.5]
    p, q = softmax(t.astype(np.float64)), softmax(s.astype(np.float64))
    wanted = (np.array(weights)[:, None] * p * np.log(p / q)).sum()
    assert loss(t, s, weights) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 99), shift=st.floats(-50, 50))
def test_what_says_the_same_has_no_loss(seed, shift):
    teacher = logits(seed)
    assert abs(loss(teacher, teacher + np.float32(shift), [1.0, 1.0, 1.0])) < 1e-4


@given(seed=st.integers(0, 99))
def test_the_gradient_is_the_difference_of_the_two(seed):
    teacher, student, weights = logits(seed), logits(seed + 1000), np.array([1.0, 0.0, 0.25])
    arrays = mx.array(teacher), mx.array(student), mx.array(weights, dtype=mx.float32)
    of_teacher, of_student = mx.grad(distillation_loss, argnums=(0, 1))(*arrays)
    wanted = weights[:, None] * (softmax(student) - softmax(teacher))
    np.testing.assert_allclose(np.array(of_student), wanted, atol=1e-6)
    assert not np.array(of_teacher).any()


def test_logits_far_apart_give_a_finite_loss():
    assert loss([[1e4, 0.0]], [[0.0, 1e4]], [1.0]) == pytest.approx(1e4)
    assert np.isfinite(loss([[-1e4, 1e4]], [[1e4, -1e4]], [1.0]))


def test_half_precision_is_measured_in_float32():
    teacher, student = mx.array(logits(1)), mx.array(logits(2))
    halves = [array.astype(mx.bfloat16) for array in (teacher, student)]
    found = distillation_loss(*halves, mx.ones(3))
    assert found.dtype == mx.float32
    wide = distillation_loss(*(half.astype(mx.float32) for half in halves), mx.ones(3))
    assert found.item() == wide.item()


def test_the_teacher_is_the_student_without_its_adapter():
    model = tiny.model()
    called = network(model, scale=2.0)
    batch = collate(tiny.rows(), ())
    factors = dict(tiny.adapter_for(model).factors)
    untrained = {path: (a, mx.zeros_like(b)) for path, (a, b) in factors.items()}

    def divergence(factors):
        teacher = called.logits({}, batch)
        return distillation_loss(teacher, called.logits(factors, batch), batch.weights)

    assert divergence(untrained).item() == pytest.approx(0.0, abs=1e-4)
    drifted, gradients = tiny.measured(divergence, factors)
    assert drifted > 0.01
    smaller = {
        path: tuple(
            factor - 1e-3 * mx.array(gradients[f"{path}.{name}"])
            for factor, name in zip(pair, ("lora_a", "lora_b"), strict=True)
        )
        for path, pair in factors.items()
    }
    assert divergence(smaller).item() < drifted
