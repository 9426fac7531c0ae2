import mlx.core as mx
import pytest

from helpers import tiny
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import network


def test_the_teacher_is_the_student_without_its_adapter():
    model = tiny.model()
    called = network(model, scale=2.0)
    batch = collate(tiny.rows(), ())
    factors = dict(tiny.adapter_for(model).factors)
    untrained = {path: (a, mx.zeros_like(b)) for path, (a, b) in factors.items()}

    def divergence(factors):
        return called.divergence({}, factors, batch)[0]

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
