from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data.tokenise import Example
from mlx_tune.training.batches import collate, epoch, micro_batches, shared_prefix


def example(*tokens: int, taught: int = 1, place: str = "") -> Example:
    flags = [False] * (len(tokens) - taught) + [True] * taught
    return Example(tokens=tokens, supervised=tuple(flags), place=place)


@given(rows=st.integers(1, 50), batch=st.integers(1, 12), number=st.integers(0, 5))
def test_every_row_is_seen_once_an_epoch_the_partial_batch_too(rows, batch, number):
    examples = [example(i, i, i) for i in range(rows)]
    steps = list(epoch(examples, seed=3, number=number, effective_batch=batch))
    assert len(steps) == -(-rows // batch)
    assert Counter(e.tokens[0] for step in steps for e in step) == Counter(range(rows))


def test_the_order_depends_on_seed_and_epoch_alone():
    examples = [example(i, i) for i in range(30)]

    def order(seed, number):
        steps = epoch(examples, seed=seed, number=number, effective_batch=8)
        return [e.tokens[0] for step in steps for e in step]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_micro_batches_put_rows_of_similar_length_together():
    examples = [example(*range(n)) for n in (9, 3, 8, 4)]
    widths = [b.tokens.shape for b in micro_batches(examples, size=2, prefix_tokens=0)]
    assert widths == [(2, 3), (2, 8)]  # the last token of a row is no input


def test_targets_are_predicted_from_the_token_before_them():
    batch = collate([example(5, 6, 7, 8, taught=2), example(5, 6, 9, taught=1)], prefix_tokens=1)
    assert np.array(batch.tokens).tolist() == [[6, 7], [6, 0]]
    assert np.array(batch.targets).tolist() == [7, 8, 9]
    flat = np.array(batch.tokens).reshape(-1)
    assert flat[np.array(batch.positions)].tolist() == [6, 7, 6]
    assert np.array(batch.rows).tolist() == [0, 0, 1]


def test_the_shared_prefix_ends_a_token_before_anything_supervised():
    common = tuple(range(20))
    examples = [example(*common, 30, taught=3), example(*common, 31, taught=1)]
    # 21 tokens with 3 taught: the first supervised is number 18, so at most 17 may be shared.
    assert shared_prefix(examples) == 17


@pytest.mark.parametrize("shared", [0, 7])
def test_a_prefix_too_short_to_pay_is_not_used(shared):
    common = tuple(range(shared))
    assert shared_prefix([example(*common, 50, 51, 1), example(*common, 60, 61, 1)]) == 0


def test_one_row_alone_shares_nothing():
    assert shared_prefix([example(*range(40))]) == 0
