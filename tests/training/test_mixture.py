"""Which rows an epoch has."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.mixture import BASE, LABELS, MERGED, UNKNOWN_LOSS, DataSource, Mixture


def unknown(rows: int) -> list[float]:
    return [UNKNOWN_LOSS] * rows


def test_a_mixture_of_labels_alone_distils_nothing():
    own = DataSource(size=2, per_epoch=2, teacher=LABELS)
    taught = DataSource(size=2, per_epoch=2, teacher=BASE)
    settings = {
        "rank": 2, "scale": 2.0, "epochs": 1, "batch_size": 2, "grad_accumulation": 1,
        "learning_rate": 1e-3, "new_rows": 2, "seed": 0,
    }  # fmt: skip
    assert not TrainingConfig(**settings).distils
    assert not TrainingConfig(**settings, mixture=Mixture(sources=(own,))).distils
    assert TrainingConfig(**settings, mixture=Mixture(sources=(own, taught))).distils


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
        if min_passes and (number + 1) * source.per_epoch >= min_passes * rows:
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
    assert (mixture.num_examples, mixture.rows_per_epoch) == (9, 6)
    assert mixture.depends_on_losses == depends
    assert mixture.epoch(0, unknown(9)) == [0, 1, 2, 3, 4, 7]
    assert mixture.epoch(1, unknown(9)) == [0, 1, 2, 5, 6, 8]
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_a_source_without_rows_per_epoch_is_never_taken():
    assert DataSource(size=4, per_epoch=0).epoch(3, unknown(4)) == []
    assert DataSource(size=0, per_epoch=0, min_passes=3).epoch(0, []) == []


def test_an_epoch_has_each_row_in_one_of_its_wordings_in_turn():
    source = DataSource(size=3, per_epoch=3, variants=(3, 1, 2))
    assert source.rows == [range(3), range(3, 4), range(4, 6)]
    assert [source.epoch(n, unknown(6)) for n in range(4)] == [
        [0, 3, 4], [1, 3, 5], [2, 3, 4], [0, 3, 5]
    ]  # fmt: skip


def test_an_epoch_has_as_many_rows_in_one_wording_as_in_another():
    source = DataSource(size=8, per_epoch=8, variants=(4,) * 8)
    for number in range(5):
        wordings = Counter(i % 4 for i in source.epoch(number, unknown(32)))
        assert wordings == {0: 2, 1: 2, 2: 2, 3: 2}


def test_a_row_that_comes_in_turn_goes_on_with_its_next_wording():
    source = DataSource(size=3, per_epoch=2, variants=(2, 2, 2))
    assert [source.epoch(n, unknown(6)) for n in range(4)] == [[0, 3], [1, 4], [2, 5], [0, 3]]


def test_a_row_that_comes_for_its_loss_comes_in_its_worst_wording():
    source = DataSource(size=3, per_epoch=2, variants=(2, 3, 1), min_passes=0)
    losses = [0.1, 0.4, 2.0, 3.0, 1.0, 0.5]
    assert source.epoch(0, losses) == [3, 5]
    never_trained = [*losses[:1], UNKNOWN_LOSS, *losses[2:]]
    assert source.epoch(0, never_trained) == [1, 3]


@given(
    variants=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    share=st.floats(0.05, 1.0),
    min_passes=st.none() | st.integers(0, 4),
    epochs=st.integers(1, 12),
    data=st.data(),
)
def test_wordings_change_neither_how_many_rows_come_nor_how_often(
    variants, share, min_passes, epochs, data
):
    rows = len(variants)
    shared = {"size": rows, "per_epoch": max(1, int(share * rows)), "min_passes": min_passes}
    source, plain = DataSource(variants=tuple(variants), **shared), DataSource(**shared)
    row_of = [row for row, several in enumerate(variants) for _ in range(several)]
    losses = data.draw(st.lists(st.floats(0, 20), min_size=len(row_of), max_size=len(row_of)))
    of_rows = [max(losses[i] for i in examples) for examples in source.rows]
    met = Counter()
    for number in range(epochs):
        chosen = source.epoch(number, losses)
        assert [row_of[i] for i in chosen] == plain.epoch(number, of_rows)
        met.update(chosen)
    if min_passes is None:
        for examples in source.rows:
            assert max(met[i] for i in examples) - min(met[i] for i in examples) <= 1


def test_examples_are_numbered_row_after_row_and_source_after_source():
    mixture = Mixture(
        sources=(
            DataSource(size=2, per_epoch=2, variants=(2, 1)),
            DataSource(size=2, per_epoch=1, variants=(1, 3)),
            DataSource(size=2, per_epoch=1, teacher=BASE),
        )
    )
    assert (mixture.num_examples, mixture.rows_per_epoch) == (9, 4)
    assert [list(row) for row in mixture.rows] == [[0, 1], [2], [3], [4, 5, 6], [7], [8]]
    assert [mixture.source_of(i).teacher for i in (6, 7)] == ["labels", BASE]
    assert mixture.epoch(0, unknown(9)) == [0, 2, 3, 7]
    assert mixture.epoch(1, unknown(9)) == [1, 2, 5, 8]
    with pytest.raises(IndexError, match="example 9 of 9"):
        mixture.source_of(9)


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
    older = [{key: one[key] for key in ("rows", "places", "rounds")} for one in record[:1]]
    assert Mixture.from_json(older).sources == mixture.sources[:1]
    worded = Mixture(sources=(DataSource(size=3, per_epoch=3, variants=(2, 1, 1)),))
    assert worded.to_json() == [{**record[0], "variants": [2, 1, 1]}]
    assert Mixture.from_json(worded.to_json()) == worded


def test_every_second_visit_is_to_a_noised_question():
    source = DataSource(size=2, per_epoch=2, variants=(2, 1), noised=(1, 2))
    assert [list(row) for row in source.rows] == [[0, 1], [3]]
    assert (source.num_wordings, source.num_examples) == (3, 6)
    epochs = [source.epoch(number, unknown(6)) for number in range(5)]
    assert epochs == [[0, 4], [2, 3], [1, 5], [2, 3], [0, 4]]
    mixture = Mixture(sources=(source, DataSource(size=2, per_epoch=1)))
    assert [list(row) for row in mixture.rows] == [[0, 1], [3], [6], [7]]
    assert mixture.to_json()[0]["noised"] == [1, 2]
    assert "noised" not in mixture.to_json()[1]
    assert Mixture.from_json(mixture.to_json()) == mixture
    plain = DataSource(size=2, per_epoch=2, noised=(0, 3))
    assert [plain.epoch(number, unknown(5)) for number in range(4)] == [
        [0, 2],
        [0, 1],
        [0, 3],
        [0, 1],
    ]


def test_what_comes_for_its_loss_comes_as_it_was_worded():
    source = DataSource(size=2, per_epoch=1, min_passes=0, variants=(2, 1), noised=(1, 1))
    assert source.epoch(0, [0.1, 0.9, 5.0, 0.5, 7.0]) == [1]
    assert source.epoch(0, [0.1, 0.2, 5.0, 0.5, 7.0]) == [3]
    assert source.epoch(1, [0.1, 0.2, 5.0, 0.5, 7.0]) == [4]
    assert source.epoch(2, [0.1, 0.2, 5.0, 0.5, 7.0]) == [3]


def test_where_all_rows_come_they_stay_in_turn():
    source = DataSource(size=2, per_epoch=2, min_passes=1, variants=(2, 1), noised=(1, 2))
    losses = [9.0, 0.1, 0.1, 9.0, 0.1, 0.1]
    assert not source.depends_on_losses
    epochs = [source.epoch(number, losses) for number in range(4)]
    assert epochs == [[0, 4], [2, 3], [1, 5], [2, 3]]
