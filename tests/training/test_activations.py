import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.training.activations import exp, softmax, swiglu

# Measured: 0.8e-7. A float32 keeps 0.6e-7.
TOLERANCE = 1.5e-7


def random(*shape: int, seed: int = 0, size: float = 1.0) -> mx.array:
    return size * mx.random.normal(shape, key=mx.random.key(seed))


def of(*numbers: float) -> list[float]:
    return np.array(exp(mx.array(numbers, dtype=mx.float32))).tolist()


def assert_close(found, wanted, tolerance=1e-6):
    found, wanted = np.array(found), np.array(wanted)
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def test_exp_is_that_of_float64_to_the_last_bits():
    x = np.linspace(-87, 88, 1_000_003).astype(np.float32)
    wanted = np.exp(x.astype(np.float64))
    assert np.abs(np.array(exp(mx.array(x))) / wanted - 1).max() < TOLERANCE


@given(st.floats(-87, 88, width=32))
def test_exp_of_any_number(x):
    assert of(x)[0] == pytest.approx(np.exp(np.float64(np.float32(x))), rel=TOLERANCE)


def test_exp_of_small_whole_numbers_and_zero():
    assert of(0.0, -0.0) == [1.0, 1.0]
    assert of(1.0, -1.0) == pytest.approx([np.e, 1 / np.e], rel=TOLERANCE)


def test_exp_is_zero_far_below_and_infinite_far_above():
    """-1e9 is what attention adds where nothing is to be seen."""
    assert of(-104, -200, -1e4, -1e6, -1e9) == [0.0] * 5
    assert of(89, 200, 1e4, 1e6) == [np.inf] * 4


def test_exp_never_falls_between_its_pieces():
    """Where the power of two changes, and at both ends, where it runs out."""
    bounds = (np.arange(-128, 130) - 0.5) * np.log(2)
    x = np.unique(np.concatenate([np.nextafter(bounds, d).astype(np.float32) for d in (-99, 99)]))
    found = np.array(exp(mx.array(x)))
    assert (np.diff(found[np.isfinite(found)]) >= 0).all()


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_exp_lets_nan_through(nan):
    found = of(nan, 0.0, nan)
    assert np.isnan([found[0], found[2]]).all()
    assert found[1] == 1.0


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_softmax_and_its_gradient_are_mlxs(size):
    x, cotangent = random(5, 4, 17, size=size), random(5, 4, 17, seed=1)
    ours = mx.vjp(softmax, [x], [cotangent])
    theirs = mx.vjp(lambda x: mx.softmax(x, axis=-1), [x], [cotangent])
    for found, wanted in zip(ours, theirs, strict=True):
        assert_close(found[0], wanted[0])


def test_softmax_sees_nothing_where_a_bias_says_so():
    bias = mx.where(mx.arange(6) < 4, 0.0, -1e9)
    shares = np.array(softmax(random(3, 6, size=9.0) + bias))
    assert not shares[:, 4:].any()
    assert shares.sum(axis=-1) == pytest.approx(1, rel=1e-6)


def test_softmax_of_a_line_that_sees_nothing_is_finite():
    assert np.isfinite(np.array(softmax(random(2, 6) - 1e9))).all()


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_swiglu_and_its_gradients_are_mlxs(size):
    gate, up, cotangent = (random(7, 33, seed=s, size=size) for s in range(3))
    values, gradients = mx.vjp(swiglu, [gate, up], [cotangent])
    wanted, expected = mx.vjp(lambda g, u: nn.silu(g) * u, [gate, up], [cotangent])
    assert_close(values[0], wanted[0])
    for found, gradient in zip(gradients, expected, strict=True):
        assert_close(found, gradient)


def test_swiglu_of_extreme_gates_is_finite_and_so_are_its_gradients():
    gate, up = mx.array([-1e4, -89.0, -88.4, 0.0, 88.4, 1e4]), mx.ones(6)
    values, gradients = mx.vjp(swiglu, [gate, up], [mx.ones(6)])
    assert np.array(values[0]) == pytest.approx([0, 0, 0, 0, 88.4, 1e4], abs=1e-30)
    assert np.array(gradients[0]) == pytest.approx([0, 0, 0, 0.5, 1, 1], abs=1e-30)


def test_swiglu_keeps_bfloat16_and_is_as_near_as_that_can_be():
    gate, up, cotangent = (random(7, 33, seed=s).astype(mx.bfloat16) for s in range(3))
    values, gradients = mx.vjp(swiglu, [gate, up], [cotangent])
    exact = [x.astype(mx.float32) for x in (gate, up, cotangent)]
    wanted, expected = mx.vjp(swiglu, exact[:2], exact[2:])
    for found, number in zip([*values, *gradients], [*wanted, *expected], strict=True):
        assert found.dtype == mx.bfloat16
        assert_close(found.astype(mx.float32), number, 1e-2)
