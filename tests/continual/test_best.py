import math

import pytest

from mlx_tune.continual.early_stopping import (
    ValidationScore,
    best_score,
    scores_from_json,
    scores_to_json,
)


def score(step: int, right: int, loss: float | None) -> ValidationScore:
    return ValidationScore(step=step, right=right, asked=4, loss=loss)


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf, -math.inf])
def test_a_score_without_a_finite_loss_is_never_the_best(wrong):
    assert best_score([score(1, 0, 9.0), score(2, 4, wrong)]) == score(1, 0, 9.0)
    assert best_score([score(2, 4, wrong)]) is None
    assert best_score([]) is None


def test_scores_read_back_as_they_were_written():
    scores = [score(1, 0, 0.1 + 0.2), score(2, 3, None)]
    assert scores_from_json(scores_to_json(scores)) == scores
