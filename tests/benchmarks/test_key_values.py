from benchmarks import retention
from benchmarks.key_values import name, subject
from mlx_tune.data.read import read


def test_the_same_seed_gives_the_same_pairs_and_a_smaller_set_is_a_larger_ones_beginning():
    assert subject(3, 1, 5) == subject(3, 1, 40)[:5]
    assert len({str(subject(*drawn, 40)) for drawn in ((3, 1), (3, 0), (4, 1))}) == 3


def test_keys_and_values_are_eight_letters_or_digits_and_none_comes_twice():
    rows = [row for index in range(3) for row in subject(0, index, 200)]
    words = [w for row in rows for w in (row["instruction"].split()[4], row["response"])]
    assert all(len(word) == 8 and word.isalnum() and word == word.lower() for word in words)
    assert len(set(words)) == len(words) == 1200
    assert rows[0]["instruction"] == f"The value of key {words[0]} is?"


def test_the_rows_are_a_data_file(tmp_path):
    setup = retention.Setup(
        base="tiny", facts="kvr", sessions=2, rows=4, epochs=None, until_learned=True
    )
    made = retention.task_of(tmp_path, setup, retention.Chain(arm="none", order=0, seed=0), 2)
    assert made.name == name(1) == "keys-2"
    assert [row.answer for row in read([made.data[0]])] == [r["response"] for r in subject(0, 1, 4)]
