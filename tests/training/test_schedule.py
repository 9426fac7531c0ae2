import math

import pytest

from mlx_tune.training.optimizer import learning_rate, warmup_steps


@pytest.mark.parametrize(
    ("rows", "steps", "expected"), [(106, 70, 10), (9, 20, 0), (2000, 750, 50), (400, 5, 4)]
)
def test_warmup_is_a_tenth_of_the_new_rows_at_most_fifty(rows, steps, expected):
    assert warmup_steps(rows, steps) == expected


def test_the_rate_rises_linearly_to_its_peak_then_falls_by_cosine_to_zero():
    rates = [learning_rate(t, peak=1.0, planned_steps=70, warmup=10) for t in range(1, 71)]
    assert rates[:10] == pytest.approx([t / 10 for t in range(1, 11)])
    assert rates[39] == pytest.approx(0.5)  # half-way from 10 to 70
    assert rates[54] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert rates[69] == pytest.approx(0.0)


def test_a_run_of_one_step_still_learns():
    assert learning_rate(1, peak=0.3, planned_steps=1, warmup=0) == 0.3
