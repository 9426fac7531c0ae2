"""Which rows come in which epoch."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.training.mixture import UNSEEN, DataSource, Mixture


def unseen(rows: int) -> list[float]:
    return [UNSEEN] * rows


def test_all_rows_come_in_every_epoch():
    assert Mixture.of_all(3).epoch(7, unseen(3)) == [0, 1, 2]


def test_turns_go_round_by_hand():
    turns = DataSource(rows=5, places=2)
    assert [turns.epoch(n, unseen(5)) for n in range(4)] == [[0, 1], [2, 3], [0, 4], [1, 2]]


def test_after_the_rounds_the_rows_known_worst_have_the_places():
    turns = DataSource(rows=5, places=3, rounds=1)
    hardest = [0.1, 4.0, 0.2, 3.0, 0.3]
    assert turns.epoch(0, hardest) == [0, 1, 2]
    assert turns.epoch(1, hardest) == [1, 3, 4]  # 3 and 4 by turn, then the worst of the others
    assert turns.epoch(2, hardest) == [1, 3, 4]
    assert turns.epoch(2, [9.0, *hardest[1:]]) == [0, 1, 3]


def test_a_row_that_never_came_is_known_worst():
    assert DataSource(rows=3, places=1, rounds=0).epoch(0, [5.0, UNSEEN, 6.0]) == [1]


@given(
    rows=st.integers(1, 30),
    share=st.floats(0.05, 1.0),
    rounds=st.none() | st.integers(0, 4),
    epochs=st.integers(1, 12),
    hardest=st.lists(st.floats(0, 20), min_size=30, max_size=30),
)
def test_every_epoch_is_full_no_row_comes_twice_and_rounds_are_kept(
    rows, share, rounds, epochs, hardest
):
    turns = DataSource(rows=rows, places=max(1, int(share * rows)), rounds=rounds)
    met = Counter()
    for number in range(epochs):
        chosen = turns.epoch(number, hardest[:rows])
        assert len(chosen) == len(set(chosen)) == turns.places
        met.update(chosen)
        if rounds and number + 1 >= turns.epochs_of_rounds:
            assert min(met[i] for i in range(rows)) >= rounds
        if rounds is None:
            assert max(met.values()) - min(met[i] for i in range(rows)) <= 1


@pytest.mark.parametrize(("rounds", "chooses"), [(None, False), (3, True)])
def test_kinds_are_numbered_through(rounds, chooses):
    mixture = Mixture(
        kinds=(
            DataSource(rows=3, places=3),
            DataSource(rows=4, places=2, rounds=rounds),
            DataSource(rows=2, places=1),
        )
    )
    assert (mixture.rows, mixture.places, mixture.chooses) == (9, 6, chooses)
    assert mixture.epochs_of_rounds == (6 if rounds else 0)  # three visits to 4 rows, 2 an epoch
    assert mixture.epoch(0, unseen(9)) == [0, 1, 2, 3, 4, 7]
    assert mixture.epoch(1, unseen(9)) == [0, 1, 2, 5, 6, 8]
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_rows_without_places_never_come():
    assert DataSource(rows=4, places=0).epoch(3, unseen(4)) == []
    assert DataSource(rows=0, places=0, rounds=3).epoch(0, []) == []
