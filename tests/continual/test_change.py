import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.continual.change import Change, change_norms, weight_norms
from mlx_tune.errors import IncompatibleError
from mlx_tune.training.adapter import Adapter

PATH = "model.layers.1.mlp.down_proj"


def adapter(a, b, scale: float = 1.0) -> Adapter:
    a, b = mx.array(a), mx.array(b)
    return Adapter(factors={PATH: (a, b)}, rank=a.shape[1], scale=scale)


def drawn(seed: int, rank: int, *, in_dims: int = 24, out_dims: int = 40) -> Adapter:
    random = np.random.default_rng(seed)
    return adapter(
        random.normal(size=(in_dims, rank)).astype(np.float32),
        random.normal(size=(rank, out_dims)).astype(np.float32),
        scale=0.5 + seed,
    )


def written_out(adapters) -> np.ndarray:
    """The slow twin: the sum of the changes as matrices, in float64."""
    return sum(
        a.scale * (np.array(x).astype(np.float64) @ np.array(y).astype(np.float64))
        for a in adapters
        for x, y in [a.factors[PATH]]
    )


def test_the_norm_by_hand():
    found = change_norms([], [adapter([[1.0], [2.0]], [[3.0, 4.0, 5.0]], scale=2.0)])
    assert found == {PATH: pytest.approx(2 * math.sqrt(5) * math.sqrt(50), rel=1e-12)}


def test_nothing_between_two_places_is_exactly_nothing():
    assert change_norms([], []) == {}
    assert Change(norms={}).norm == 0.0
    assert Change(norms={}).of_base is None
    assert Change(norms={}).layers() == []


@given(
    minus=st.lists(st.integers(1, 30), min_size=0, max_size=3),
    plus=st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_the_norm_is_that_of_the_matrices_written_out(minus, plus):
    """Also where the ranks together exceed the layer's sides."""
    left = [drawn(i, rank) for i, rank in enumerate(minus)]
    right = [drawn(i + 7, rank) for i, rank in enumerate(plus)]
    wanted = np.linalg.norm(written_out(right) - (written_out(left) if left else 0))
    assert change_norms(left, right)[PATH] == pytest.approx(wanted, rel=1e-12)
    assert change_norms(right, left)[PATH] == pytest.approx(wanted, rel=1e-12)
    assert change_norms([], [*left, *right])[PATH] != pytest.approx(wanted, rel=1e-6) or not left


def test_two_chains_that_nearly_cancel_are_told_apart_exactly():
    a = drawn(1, 8)
    x, y = a.factors[PATH]
    nudged = Adapter(factors={PATH: (x, y.at[0, 0].add(1e-6))}, rank=8, scale=a.scale)
    wanted = np.linalg.norm(written_out([nudged]) - written_out([a]))
    assert 0 < wanted < 1e-6 * np.linalg.norm(written_out([a]))
    assert change_norms([a], [nudged])[PATH] == pytest.approx(wanted, rel=1e-6)
    # The formula with a trace, also in float64, does not: it squares before it subtracts.
    down = np.concatenate([np.array(x), np.array(x)], axis=1).astype(np.float64)
    ups = [sign * a.scale * np.array(b.factors[PATH][1]).astype(np.float64)
           for b, sign in ((a, -1), (nudged, 1))]  # fmt: skip
    up = np.concatenate(ups)
    trace = float(np.sum((down.T @ down) * (up @ up.T)))
    assert math.sqrt(max(trace, 0)) != pytest.approx(wanted, rel=1e-6)


def test_no_matrix_of_the_layers_own_size_is_made():
    """Written out, this layer's change would take 320 GB."""
    side = 200_000
    a = adapter(np.ones((side, 2), np.float32), np.ones((2, side), np.float32))
    assert change_norms([], [a])[PATH] == pytest.approx(2.0 * side, rel=1e-9)


def test_a_layers_norm_is_the_root_of_its_modules_squares_in_the_layers_order():
    change = Change(
        norms={
            "model.layers.10.mlp.up_proj": 3.0,
            "model.layers.10.self_attn.q_proj": 4.0,
            "model.layers.2.mlp.up_proj": 12.0,
        },
        base_norms={
            "model.layers.10.mlp.up_proj": 30.0,
            "model.layers.10.self_attn.q_proj": 40.0,
        },
    )
    first, last = change.layers()
    assert (first.path, first.number, first.norm, first.of_base) == (
        "model.layers.2", "2", 12.0, None,
    )  # fmt: skip
    assert (last.path, last.norm, last.of_base) == ("model.layers.10", 5.0, 0.1)
    assert last.modules == {"mlp.up_proj": 3.0, "self_attn.q_proj": 4.0}
    assert change.norm == 13.0
    assert change.of_base is None  # of one module it is not known


def test_the_bases_weights_are_measured_and_quantised_ones_left_out():
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    paths = [PATH, "model.layers.0.self_attn.q_proj"]
    wanted = {
        path: np.linalg.norm(np.array(dict(model.named_modules())[path].weight.astype(mx.float32)))
        for path in paths
    }
    assert weight_norms(model, paths) == {p: pytest.approx(wanted[p], rel=1e-6) for p in paths}
    nn.quantize(model, group_size=32, bits=4)
    assert weight_norms(model, paths) == {}


def test_adapters_of_two_bases_are_refused():
    with pytest.raises(IncompatibleError) as error:
        change_norms([drawn(1, 2)], [drawn(2, 2, in_dims=30)])
    assert str(error.value) == (
        f"{PATH}: the adapters are for layers of different sizes, (24, 40) and (30, 40); only "
        "sessions of one base are compared"
    )
