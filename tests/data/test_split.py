import pytest

from mlx_tune.data.rows import split
from mlx_tune.errors import InputError

ROWS = list(range(10))  # what they are does not matter to a split


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 1), (0.11, 2), (0.9, 9)])
def test_a_share_is_rounded_up_to_whole_rows(share, count):
    kept, held_out = split(ROWS, share, seed=0)
    assert len(held_out) == count
    assert sorted(kept + held_out) == ROWS
    assert (kept, held_out) == (sorted(kept), sorted(held_out))  # in the order they came in


def test_a_seed_chooses_the_same_rows_again_and_another_seed_others():
    assert split(ROWS, 0.3, seed=1) == split(ROWS, 0.3, seed=1)
    assert len({tuple(split(ROWS, 0.3, seed=seed)[1]) for seed in range(20)}) > 10


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match=r"--validation 0\.6 of 2 rows leaves none to train on"):
        split(ROWS[:2], 0.6, seed=0)
    assert split([], 0.5, seed=0) == ([], [])
