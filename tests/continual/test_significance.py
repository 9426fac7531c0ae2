from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.recall import PairedChanges, mcnemar, sign_test

COUNTS = st.integers(min_value=0, max_value=60)


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),  # 2 of 32
        (6, 0, 0.03125),  # 2 of 64
        (8, 1, 0.0390625),  # 2 · (1 + 9) of 512
        (7, 1, 0.0703125),  # 2 · (1 + 8) of 256
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (3, 3, 1.0),
        (4, 3, 1.0),  # 2 · (1 + 7 + 21 + 35) of 128
        (12, 5, 2 * (1 + 17 + 136 + 680 + 2380 + 6188) / 2**17),
    ],
)
def test_p_is_what_a_hand_finds(worse, better, p):
    assert PairedChanges(worse=worse, better=better).p == p


@given(COUNTS, COUNTS)
def test_p_is_the_share_of_all_outcomes_at_least_as_uneven(worse, better):
    """Every outcome counted, one by one, with no use of symmetry."""
    n = worse + better
    uneven = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(worse - better))
    assert PairedChanges(worse=worse, better=better).p == float(Fraction(uneven, 2**n))


@given(COUNTS, COUNTS)
def test_p_is_a_probability_and_the_same_both_ways(worse, better):
    p = PairedChanges(worse=worse, better=better).p
    assert 0 < p <= 1
    assert p == PairedChanges(worse=better, better=worse).p


@given(COUNTS, COUNTS)
def test_a_further_loss_never_makes_chance_more_likely(worse, better):
    p = PairedChanges(worse=worse, better=better).p
    if worse >= better:
        assert PairedChanges(worse=worse + 1, better=better).p <= p
    if worse > better > 0:
        assert PairedChanges(worse=worse, better=better - 1).p <= p


def test_thousands_of_changes_are_exact_still():
    """1,800 against 2,200 is 6.31 standard deviations, with the correction of one half."""
    p = PairedChanges(worse=2200, better=1800).p
    assert p == float(Fraction(2 * sum(comb(4000, k) for k in range(1801)), 2**4000))
    assert 1e-10 < p < 1e-9
    assert PairedChanges(worse=9000, better=9000).p == 1
    assert PairedChanges(worse=9000, better=0).p < 1e-300


def test_a_gain_is_no_loss_however_sure_it_is():
    assert PairedChanges(worse=6, better=0).is_loss(0.05)
    assert not PairedChanges(worse=0, better=6).is_loss(0.05)
    assert not PairedChanges(worse=5, better=0).is_loss(0.05)
    assert not PairedChanges(worse=6, better=0).is_loss(0.03125)


def test_only_questions_that_changed_are_counted():
    before = (True, True, True, False, False)
    after = (True, False, False, True, False)
    assert mcnemar(before, after) == PairedChanges(worse=2, better=1)
    assert sign_test((0.5, 1.0, 2.0, 3.0), (0.5, 1.1, 1.9, 4.0)) == PairedChanges(worse=2, better=1)


@pytest.mark.parametrize("compare", [mcnemar, sign_test])
def test_other_questions_after_than_before_are_refused(compare):
    with pytest.raises(ValueError, match="shorter"):
        compare((1, 0), (1,))
    assert compare((), ()) == PairedChanges(worse=0, better=0)
