import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.continual.recall import GeneralChange, general_change, score

NATS = st.floats(0, 1e3)
PROBES = st.lists(st.tuples(NATS, NATS, st.integers(1, 40)), min_size=1, max_size=20)


def test_the_rise_is_that_of_the_mean_over_all_tokens():
    # (3 + 1 + 2) / (2 + 1 + 5) − (1 + 2 + 2) / 8
    found = general_change([1.0, 2.0, 2.0], [3.0, 1.0, 2.0], [2, 1, 5])
    assert found == GeneralChange(nats_per_token=0.125, asked=3, rose=1, fell=1)


def test_nothing_asked_is_no_rise():
    assert general_change([], [], []) == GeneralChange(nats_per_token=0.0, asked=0, rose=0, fell=0)


def test_lists_of_unlike_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        general_change([1.0, 2.0], [1.0, 2.0], [3])


@given(PROBES)
def test_the_way_back_is_the_same_rise_downward(probes):
    base, now, tokens = zip(*probes, strict=True)
    there, back = general_change(base, now, tokens), general_change(now, base, tokens)
    assert back.nats_per_token == -there.nats_per_token
    assert (back.rose, back.fell) == (there.fell, there.rose)


@given(PROBES)
def test_a_model_that_answers_as_the_base_does_has_not_risen(probes):
    base, _, tokens = zip(*probes, strict=True)
    assert general_change(base, base, tokens) == GeneralChange(
        nats_per_token=0.0, asked=len(base), rose=0, fell=0
    )


def test_the_rise_is_the_difference_of_two_scores():
    rows, other = tiny.rows(), tiny.model(seed=1)
    before, after = score(tiny.model(), rows), score(other, rows)
    found = general_change(before.losses, after.losses, [sum(row.supervised) for row in rows])
    assert found.nats_per_token == pytest.approx(after.loss - before.loss, abs=1e-9)
    assert found.rose + found.fell == found.asked == len(rows)
