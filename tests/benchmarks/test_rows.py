import pytest

from benchmarks import rows
from benchmarks.sides.job import TokenRow
from helpers import tiny


def test_drawn_rows_share_a_prefix_and_have_lengths_spread_evenly():
    made = rows.drawn(count=5, shortest=10, longest=30, prefix=4, vocabulary=96)
    assert made.lengths == [10, 15, 20, 25, 30]
    assert len({tuple(row.tokens[:4]) for row in made.rows}) == 1
    assert len({tuple(row.tokens[:5]) for row in made.rows}) > 1
    assert all(0 < token < 96 for row in made.rows for token in row.tokens)


def test_the_second_half_of_what_follows_the_prefix_is_taught():
    (row,) = rows.drawn(count=1, shortest=14, longest=14, prefix=4, vocabulary=96).rows
    assert (row.answer, row.supervised) == (9, 5)


@pytest.mark.parametrize(("shortest", "longest"), [(5, 9), (20, 10)])
def test_rows_without_room_are_refused(shortest, longest):
    with pytest.raises(ValueError, match=f"lengths {shortest} to {longest} with a prefix of 4"):
        rows.drawn(count=2, shortest=shortest, longest=longest, prefix=4, vocabulary=96)


def test_the_plain_set_is_the_data_file_row_by_row():
    made = rows.plain(tiny.tokenizer())
    assert len(made.rows) == 106
    assert made.describe().startswith("106 rows of ")


def test_the_mixed_set_is_the_same_each_time_and_mixed():
    made, again = rows.mixed(tiny.tokenizer()), rows.mixed(tiny.tokenizer())
    assert made.rows == again.rows
    assert len(made.rows) == 64
    assert made.lengths[-1] > 5 * made.lengths[0]


def test_a_row_is_taught_its_answer_and_the_token_that_ends_it():
    tokenizer = tiny.tokenizer()
    row = rows.plain(tokenizer).rows[0]
    answer = tokenizer.decode_raw(row.tokens[row.answer :])
    assert answer.startswith("The Computer Science main office is room 104")
    assert row.tokens[-1] in tokenizer.end_ids


def test_counts_of_a_set_are_described():
    made = rows.RowSet(name="two", how="", rows=[TokenRow([1, 2, 3], 2), TokenRow([1] * 1000, 1)])
    assert made.describe() == "2 rows of 3 to 1000 tokens (1,003 in all, 1,000 taught)"
