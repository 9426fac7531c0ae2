"""Which rows an epoch has."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.training.mixture import BASE, MERGED, UNKNOWN_LOSS, DataSource, Forms, Mixture


def unknown(rows: int) -> list[float]:
    return [UNKNOWN_LOSS] * rows


def test_every_epoch_has_all_rows():
    assert Mixture.of_all(3).epoch(7, unknown(3)) == [0, 1, 2]


def test_the_rotation_begins_again_after_the_last_row():
    source = DataSource(size=5, per_epoch=2)
    assert [source.epoch(n, unknown(5)) for n in range(4)] == [[0, 1], [2, 3], [0, 4], [1, 2]]


def test_after_the_min_passes_an_epoch_has_the_rows_with_the_highest_loss():
    source = DataSource(size=5, per_epoch=3, min_passes=1)
    losses = [0.1, 4.0, 0.2, 3.0, 0.3]
    assert source.epoch(0, losses) == [0, 1, 2]
    assert source.epoch(1, losses) == [1, 3, 4]  # 3 and 4 of the rotation, then the highest loss
    assert source.epoch(2, losses) == [1, 3, 4]
    assert source.epoch(2, [9.0, *losses[1:]]) == [0, 1, 3]


def test_a_row_without_a_known_loss_comes_before_all_others():
    assert DataSource(size=3, per_epoch=1, min_passes=0).epoch(0, [5.0, UNKNOWN_LOSS, 6.0]) == [1]


@given(
    rows=st.integers(1, 30),
    share=st.floats(0.05, 1.0),
    min_passes=st.none() | st.integers(0, 4),
    epochs=st.integers(1, 12),
    losses=st.lists(st.floats(0, 20), min_size=30, max_size=30),
)
def test_an_epoch_is_full_has_no_row_twice_and_min_passes_are_kept(
    rows, share, min_passes, epochs, losses
):
    source = DataSource(size=rows, per_epoch=max(1, int(share * rows)), min_passes=min_passes)
    met = Counter()
    for number in range(epochs):
        chosen = source.epoch(number, losses[:rows])
        assert len(chosen) == len(set(chosen)) == source.per_epoch
        met.update(chosen)
        if min_passes and number + 1 >= source.epochs_of_min_passes:
            assert min(met[i] for i in range(rows)) >= min_passes
        if min_passes is None:
            assert max(met.values()) - min(met[i] for i in range(rows)) <= 1


@pytest.mark.parametrize(("min_passes", "depends"), [(None, False), (3, True)])
def test_rows_are_numbered_source_after_source(min_passes, depends):
    mixture = Mixture(
        sources=(
            DataSource(size=3, per_epoch=3),
            DataSource(size=4, per_epoch=2, min_passes=min_passes),
            DataSource(size=2, per_epoch=1),
        )
    )
    assert (mixture.size, mixture.rows_per_epoch, mixture.depends_on_losses) == (9, 6, depends)
    # Three passes over 4 rows, 2 an epoch.
    assert mixture.epochs_of_min_passes == (6 if min_passes else 0)
    assert mixture.epoch(0, unknown(9)) == [0, 1, 2, 3, 4, 7]
    assert mixture.epoch(1, unknown(9)) == [0, 1, 2, 5, 6, 8]
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_a_source_without_rows_per_epoch_is_never_taken():
    assert DataSource(size=4, per_epoch=0).epoch(3, unknown(4)) == []
    assert DataSource(size=0, per_epoch=0, min_passes=3).epoch(0, []) == []


def test_the_record_of_a_run_keeps_the_names_of_its_format():
    mixture = Mixture(
        sources=(
            DataSource(size=3, per_epoch=3),
            DataSource(size=4, per_epoch=2, min_passes=3, teacher=MERGED),
            DataSource(size=2, per_epoch=1, teacher=BASE, weight=0.5),
        )
    )
    record = [
        {"rows": 3, "places": 3, "rounds": None, "teacher": "rows", "weight": 1.0},
        {"rows": 4, "places": 2, "rounds": 3, "teacher": "folded", "weight": 1.0},
        {"rows": 2, "places": 1, "rounds": None, "teacher": "base", "weight": 0.5},
    ]
    assert mixture.to_json() == record
    assert Mixture.from_json(record) == mixture


def test_the_forms_of_a_row_take_turns_and_every_second_visit_is_noised():
    assert [Forms(wordings=3).example(n) for n in range(5)] == [0, 1, 2, 0, 1]
    assert [Forms(wordings=2, noised=3).example(n) for n in range(8)] == [0, 2, 1, 3, 0, 4, 1, 2]
    assert [Forms(noised=2).example(n) for n in range(5)] == [0, 1, 0, 2, 0]


def test_an_epoch_has_one_example_of_each_row():
    source = DataSource(size=3, per_epoch=3, forms=(Forms(2, 1), Forms(), Forms(1, 2)))
    assert (source.starts, source.examples) == ((0, 3, 4, 7), 7)
    assert [list(source.wordings_of(row)) for row in range(3)] == [[0, 1], [3], [4]]
    epochs = [source.epoch(n, unknown(7)) for n in range(5)]
    assert epochs == [[0, 3, 4], [2, 3, 6], [1, 3, 4], [2, 3, 5], [0, 3, 4]]
    mixture = Mixture(sources=(source, DataSource(size=2, per_epoch=1)))
    assert (mixture.size, mixture.starts, mixture.rows_per_epoch) == (9, (0, 7, 9), 4)
    assert mixture.source_of(6) is source
    assert mixture.source_of(7) is mixture.sources[1]
    assert mixture.epoch(0, unknown(9)) == [0, 3, 4, 7]
    assert Mixture.from_json(mixture.to_json()) == mixture
    assert mixture.to_json()[0]["forms"] == [[2, 1], [1, 0], [1, 2]]
    assert "forms" not in mixture.to_json()[1]


def test_the_hardest_wording_decides_how_hard_a_row_is():
    source = DataSource(size=2, per_epoch=1, min_passes=0, forms=(Forms(2, 1), Forms(1, 1)))
    assert source.epoch(0, [0.1, 0.9, 5.0, 0.5, 7.0]) == [0]
    assert source.epoch(0, [0.1, 0.2, 5.0, 0.5, 7.0]) == [3]


@given(
    rows=st.lists(st.builds(Forms, st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=9),
    per_epoch=st.integers(1, 9),
)
def test_all_forms_come(rows, per_epoch):
    source = DataSource(size=len(rows), per_epoch=min(per_epoch, len(rows)), forms=tuple(rows))
    met = Counter()
    for number in range(200 * len(rows)):
        met.update(source.epoch(number, unknown(source.examples)))
    assert set(met) == set(range(source.examples))
