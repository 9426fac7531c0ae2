"""When is everything learned?"""

import math

from mlx_tune.continual.early_stopping import PASS_NATS, EarlyStopping

EXAM = EarlyStopping(rows=tuple(range(20)), least_epochs=3)
KNOWN, UNKNOWN = 0.1, 1.0


def test_a_token_is_known_when_no_other_can_be_likelier():
    assert math.exp(-PASS_NATS) == 0.5


def test_it_is_due_once_nearly_all_rows_seem_known_and_every_old_one_had_its_turns():
    nearly = [UNKNOWN] + [KNOWN] * 19
    assert EXAM.is_due(3, nearly)
    assert not EXAM.is_due(2, nearly)
    assert not EXAM.is_due(3, [UNKNOWN] * 2 + [KNOWN] * 18)
    assert not EXAM.is_due(3, [math.inf] * 2 + [KNOWN] * 18)  # two that never came
    assert not EXAM.is_due(3, [math.nan] * 2 + [KNOWN] * 18)


def test_without_rows_to_know_it_is_never_due():
    assert not EarlyStopping(rows=(), least_epochs=0).is_due(9, [])


def test_it_is_passed_when_every_row_was_known_after_that_very_step():
    passed = EXAM.sat(40, [KNOWN] * 20)
    assert passed.is_passed(40)
    assert not passed.is_passed(41)
    assert not EXAM.is_passed(0)
    failed = EXAM.sat(40, [KNOWN] * 19 + [PASS_NATS])  # one half is not over one half
    assert (failed.unknown, failed.is_passed(40)) == (1, False)
    assert not EXAM.sat(40, [math.nan] * 20).is_passed(40)


def test_its_result_survives_a_checkpoint():
    sat = EXAM.sat(40, [KNOWN] * 20)
    assert EXAM.resumed(sat.to_json()) == sat
