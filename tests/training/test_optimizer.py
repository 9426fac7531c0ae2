import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.models import runtime
from mlx_tune.training.optimizer import AdamW, global_norm, learning_rate, warmup_steps

PATHS = {"first": (5, 3), "second": (4, 2)}
RATE = 1e-2
WAYS = [
    pytest.param(False, id="eager"),
    pytest.param(
        True,
        id="compiled",
        marks=pytest.mark.skipif(not runtime.can_compile(), reason="there is no g++"),
    ),
]


def tree(seed: int, size: float = 1.0) -> dict[str, tuple[mx.array, mx.array]]:
    """Factors, or gradients, of rank 2."""
    random = np.random.default_rng(seed)
    return {
        path: tuple(
            mx.array(size * random.normal(size=shape).astype(np.float32))
            for shape in ((in_dims, 2), (2, out_dims))
        )
        for path, (in_dims, out_dims) in PATHS.items()
    }


def leaves(factors) -> list[np.ndarray]:
    return [np.array(factor) for path in PATHS for factor in factors[path]]


def run(optimizer: AdamW, gradients: list, rates: list[float]):
    factors, moments = tree(0), optimizer.init(tree(0))
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        factors, moments = optimizer.update(
            factors, gradient, moments, norm=global_norm(gradient), rate=rate, step=step
        )
    return leaves(factors)


def by_hand(gradients: list, rates: list[float], lora_plus_ratio: float) -> list[np.ndarray]:
    """AdamW without decay, in float64, after the paper's lines."""
    values = [value.astype(np.float64) for value in leaves(tree(0))]
    m, v = ([np.zeros_like(value) for value in values] for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = [leaf.astype(np.float64) for leaf in leaves(gradient)]
        norm = np.sqrt(sum((leaf**2).sum() for leaf in g))
        if norm > 1:
            g = [leaf / norm for leaf in g]
        for i in range(len(values)):
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            corrected = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            own = rate * (lora_plus_ratio if i % 2 else 1)
            values[i] = values[i] - own * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return values


# The first two gradients are clipped to norm 1, the last two are not.
GRADIENTS = [tree(1), tree(2, 30.0), tree(3, 0.05), tree(4, 0.1)]
RATES = [RATE, RATE / 2, RATE, RATE / 3]


@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("lora_plus_ratio", [1.0, 16.0])
def test_four_steps_by_hand_two_of_them_clipped(compiled, lora_plus_ratio):
    found = run(AdamW(lora_plus_ratio=lora_plus_ratio, compiled=compiled), GRADIENTS, RATES)
    start = leaves(tree(0))
    for ours, wanted, begun in zip(
        found, by_hand(GRADIENTS, RATES, lora_plus_ratio), start, strict=True
    ):
        moved = np.abs(wanted - begun).max()
        assert np.abs(ours - wanted).max() <= 1e-4 * moved  # float32 of a number of about 1


@pytest.mark.parametrize("ratio", [2.0, 16.0])
def test_the_first_update_of_lora_b_is_the_ratio_times_as_far_and_of_lora_a_as_far(ratio):
    """From zero moments an update is the rate, with the gradient's sign."""
    start = leaves(tree(0))
    plain, plus = (run(AdamW(lora_plus_ratio=r), GRADIENTS[:1], RATES[:1]) for r in (1.0, ratio))
    gradient = leaves(GRADIENTS[0])
    for i in range(4):
        own = ratio if i % 2 else 1.0
        assert plain[i] - start[i] == pytest.approx(-RATE * np.sign(gradient[i]), rel=1e-4)
        assert plus[i] - start[i] == pytest.approx(own * (plain[i] - start[i]), rel=1e-4)


def test_a_factor_without_a_gradient_stays_where_it_is():
    """No weight decay: as A in the first step, while B is zero."""
    nothing = {path: (0 * a, b) for path, (a, b) in tree(1).items()}
    found = run(AdamW(), [nothing], [RATE])
    for i in (0, 2):
        assert np.array_equal(found[i], leaves(tree(0))[i])


def test_the_global_norm_is_that_of_all_numbers_in_one_row():
    wanted = np.linalg.norm(np.concatenate([leaf.ravel() for leaf in leaves(tree(5))]))
    assert global_norm(tree(5)).item() == pytest.approx(wanted, rel=1e-6)


def test_moments_begin_at_zero_in_the_tree_of_the_factors():
    factors = tree(0)
    for moment in AdamW().init(factors):
        assert moment.keys() == factors.keys()
        for zeros, factor in zip(leaves(moment), leaves(factors), strict=True):
            assert zeros.shape == factor.shape
            assert not zeros.any()


@pytest.mark.parametrize(
    ("rows", "steps", "expected"), [(106, 70, 10), (9, 20, 0), (2000, 750, 50), (400, 5, 4)]
)
def test_warmup_is_a_tenth_of_the_new_rows_at_most_fifty(rows, steps, expected):
    assert warmup_steps(rows, steps) == expected


def test_the_rate_rises_linearly_to_its_peak_then_falls_by_cosine_to_zero():
    rates = [learning_rate(t, peak=1.0, decay_steps=70, warmup=10) for t in range(1, 71)]
    assert rates[:10] == pytest.approx([t / 10 for t in range(1, 11)])
    assert rates[39] == pytest.approx(0.5)  # half-way from 10 to 70
    assert rates[54] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert rates[69] == pytest.approx(0.0)


def test_a_run_of_one_step_still_learns():
    assert learning_rate(1, peak=0.3, decay_steps=1, warmup=0) == 0.3


def test_the_rate_stays_at_its_lowest_after_the_decay():
    rates = [
        learning_rate(t, peak=1.0, decay_steps=30, warmup=10, lowest=0.1) for t in range(1, 51)
    ]
    assert rates[9] == 1.0
    assert rates[19] == pytest.approx(0.55)  # half-way from 1 to 0.1
    assert rates[29:] == [pytest.approx(0.1)] * 21
