"""When training may stop, and which checkpoint is the best."""

import math

import pytest

from mlx_tune.continual.early_stopping import (
    PASS_NATS,
    EarlyStopping,
    ValidationScore,
    best_score,
    scores_from_json,
    scores_to_json,
)

CRITERION = EarlyStopping(rows=tuple((row,) for row in range(20)), min_epochs=3)
LEARNED, FAILING = 0.1, 1.0
ALL = range(100)


def test_a_token_is_known_when_no_other_can_be_likelier():
    assert math.exp(-PASS_NATS) == 0.5


def test_it_is_due_once_nearly_all_rows_seem_known_and_every_old_one_had_its_turns():
    nearly = [FAILING] + [LEARNED] * 19
    for came in (ALL, range(5)):  # all of them now, or most of them earlier
        assert CRITERION.is_due(3, nearly, came)
        assert not CRITERION.is_due(2, nearly, came)
        assert not CRITERION.is_due(3, [FAILING] * 2 + [LEARNED] * 18, came)
        assert not CRITERION.is_due(3, [math.nan] * 2 + [LEARNED] * 18, came)
    never = [LEARNED] * 18 + [math.inf] * 2
    assert not CRITERION.is_due(3, never, range(18))


def test_without_rows_to_know_it_is_never_due():
    assert not EarlyStopping(rows=(), min_epochs=0).is_due(9, [], ALL)


def test_a_row_seems_known_by_the_wording_that_came_last():
    """The others were seen epochs ago, or never, and need not be as they were then."""
    worded = EarlyStopping(rows=tuple(range(i, i + 3) for i in range(0, 60, 3)), min_epochs=0)
    losses = [FAILING, math.inf, LEARNED] * 20
    assert worded.is_due(1, losses, range(2, 60, 3))
    assert not worded.is_due(1, losses, range(0, 60, 3))
    # Rows that did not come count by the best that was ever seen of them: the check tells the rest.
    assert worded.is_due(1, losses, ())
    assert not worded.is_due(1, [FAILING, math.inf, FAILING] * 20, ())
    assert worded.is_due(1, [LEARNED, math.inf, LEARNED] * 20, ())
    assert not worded.is_due(1, [math.inf] * 60, ())


def test_a_check_asks_every_question_as_taught_and_then_the_other_wordings():
    worded = EarlyStopping(rows=(range(6), range(6, 7), range(7, 13)), min_epochs=0)
    assert list(worded.parts()) == [([0, 6, 7], 0), ([1, 2, 3, 4, 5, 8, 9, 10, 11, 12], 1)]
    assert list(CRITERION.parts()) == [(list(range(20)), 0)]


def test_one_in_ten_of_the_other_wordings_may_fail():
    losses = [FAILING] + [LEARNED] * 9
    assert CRITERION.update(40, losses, may_fail=1).is_met(40)
    failed = CRITERION.update(40, [FAILING, *losses], may_fail=1)
    assert (failed.failing, failed.is_met(40)) == (1, False)
    assert not CRITERION.update(40, losses).is_met(40)


def test_it_is_met_when_every_row_was_known_after_that_very_step():
    met = CRITERION.update(40, [LEARNED] * 20)
    assert met.is_met(40)
    assert not met.is_met(41)
    assert not CRITERION.is_met(0)
    failed = CRITERION.update(40, [LEARNED] * 19 + [PASS_NATS])  # one half is not over one half
    assert (failed.failing, failed.is_met(40)) == (1, False)
    assert not CRITERION.update(40, [math.nan] * 20).is_met(40)


def test_its_result_survives_a_checkpoint():
    checked = CRITERION.update(40, [LEARNED] * 20)
    assert CRITERION.resumed(checked.to_json()) == checked


def score(step: int, right: int, loss: float | None) -> ValidationScore:
    return ValidationScore(step=step, right=right, asked=4, loss=loss)


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf, -math.inf])
def test_a_score_without_a_finite_loss_is_never_the_best(wrong):
    assert best_score([score(1, 1, 9.0), score(2, 4, wrong)]) == score(1, 1, 9.0)
    assert best_score([score(2, 4, wrong)]) is None
    assert best_score([]) is None


def test_the_best_is_most_often_right_then_of_the_lowest_loss_then_the_first():
    assert best_score([score(1, 3, 0.1), score(2, 4, 9.0)]) == score(2, 4, 9.0)
    assert best_score([score(1, 4, 0.2), score(2, 4, 0.1), score(3, 3, 0.0)]) == score(2, 4, 0.1)
    assert best_score([score(2, 4, 0.1), score(1, 4, 0.1)]) == score(1, 4, 0.1)


def test_where_no_row_is_ever_right_nothing_is_best():
    """Their loss rises while the taught rows are learned."""
    assert best_score([score(1, 0, 7.1), score(2, 0, 7.9)]) is None
    assert best_score([score(1, 0, 0.1), score(2, 1, 7.9)]) == score(2, 1, 7.9)


def test_scores_read_back_as_they_were_written():
    scores = [score(1, 0, 0.1 + 0.2), score(2, 3, None)]
    assert scores_from_json(scores_to_json(scores)) == scores
