import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.continual.methods.orthogonal import METHOD, overlap
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.optimizer import AdamW, global_norm

PATH = "model.layers.0.self_attn.q_proj"


def adapter(lora_a, path: str = PATH) -> Adapter:
    lora_a = mx.array(lora_a, dtype=mx.float32)
    rank = lora_a.shape[1]
    return Adapter(factors={path: (lora_a, mx.zeros((rank, 5)))}, rank=rank, scale=2.0)


def value(array) -> float:
    return float(np.array(array))


def test_the_overlap_by_hand():
    past, new = adapter([[1.0], [2.0]]), adapter([[3.0, -1.0], [-4.0, 0.5]])
    # Columns: 1·3 + 2·(−4) = −5 and 1·(−1) + 2·0.5 = 0.
    assert value(overlap(new.factors, [past])) == 25.0
    assert value(METHOD.penalty(new.factors, [past])) == 12.5


def test_every_past_adapter_and_every_module_counts():
    past = adapter([[1.0], [0.0]])
    both = {**adapter([[2.0], [7.0]]).factors, **adapter([[3.0], [7.0]], "other").factors}
    assert value(overlap(both, [past])) == 4.0
    assert value(overlap(both, [past, past])) == 8.0
    assert value(overlap(both, [past, adapter([[1.0], [0.0]], "other")])) == 13.0


@given(size=st.integers(2, 12), seed=st.integers(0, 9))
def test_directions_at_right_angles_do_not_overlap(size, seed):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    half = size // 2
    found = overlap(adapter(7 * basis[:, half:]).factors, [adapter(basis[:, :half])])
    assert value(found) < 1e-10 * size**2


@given(old=st.integers(1, 5), new=st.integers(1, 5), seed=st.integers(0, 9))
def test_earlier_adapters_may_be_of_any_rank(old, new, seed):
    random = np.random.default_rng(seed)
    past, factor = random.normal(size=(8, old)), random.normal(size=(8, new))
    found = value(overlap(adapter(factor).factors, [adapter(past)]))
    assert found == pytest.approx(np.square(past.T @ factor).sum(), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=seed) for seed in (1, 2)]
    factors = tiny.adapter_for(model, seed=3).factors
    measured, gradients = tiny.measured(lambda f: METHOD.penalty(f, past), factors)
    path = sorted(factors)[0]
    gradient = gradients[f"{path}.lora_a"]
    direction = 1e-3 * np.random.default_rng(0).normal(size=gradient.shape)

    def exact(lora_a) -> float:  # in float64, so that a short way may be gone
        olds = [np.array(adapter.factors[path][0], dtype=np.float64) for adapter in past]
        return 0.5 * sum(np.square(old.T @ lora_a).sum() for old in olds)

    here = np.array(factors[path][0], dtype=np.float64)
    rise = exact(here + direction) - exact(here - direction)
    assert 2 * (gradient * direction).sum() == pytest.approx(rise, rel=1e-4)
    assert not gradients[f"{path}.lora_b"].any()
    assert measured > 0


def test_a_step_down_the_penalty_reduces_the_overlap():
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=1)]
    factors = dict(tiny.adapter_for(model, seed=2).factors)
    optimizer = AdamW()
    moments = optimizer.init(factors)
    found = [value(overlap(factors, past))]
    for step in range(1, 6):
        gradients = mx.grad(lambda f: METHOD.penalty(f, past))(factors)
        factors, moments = optimizer.update(
            factors, gradients, moments, norm=global_norm(gradients), rate=1e-3, step=step
        )
        found.append(value(overlap(factors, past)))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.95 * found[0]
