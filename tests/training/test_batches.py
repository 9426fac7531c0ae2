from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.data import read, tokenise
from mlx_tune.data.tokenise import Example
from mlx_tune.training.batches import (
    Batches,
    MicroBatch,
    collate,
    padding,
    shape_of,
    shared_prefix,
)
from mlx_tune.training.mixture import UNKNOWN_LOSS, DataSource, Mixture
from mlx_tune.training.shapes import Shape, cover, few_shapes

example = tiny.example
DATA = Path(__file__).parents[2] / "data" / "cs.json"
SYSTEM = tuple(range(20, 40))  # as long as a template's system prompt


def batches(examples, **changes) -> Batches:
    options = {
        "epochs": 1, "batch_size": 4, "effective_batch": 8, "seed": 0,
        "mixture": Mixture.of_all(len(examples)),
    }  # fmt: skip
    return Batches(examples=examples, **(options | changes))


def steps_of(all_of: Batches, number: int = 0) -> list[list[int]]:
    return list(all_of.steps(number, [UNKNOWN_LOSS] * len(all_of.examples)))


def parts_of(all_of: Batches) -> list[list[Example]]:
    return [all_of.rows(part) for part in all_of.micro_batches(range(len(all_of.examples)))]


def words(batch: MicroBatch) -> list[list[int]]:
    """What stands in each line of the grid, empty cells included."""
    return np.array(batch.tokens[batch.layout.grid]).tolist()


def taught(batch: MicroBatch) -> list[tuple[int, int]]:
    """Each supervised token after the one it is predicted from."""
    before = np.array(batch.tokens)[np.array(batch.positions)]
    counted = np.array(batch.weights) > 0
    return list(
        zip(before[counted].tolist(), np.array(batch.targets)[counted].tolist(), strict=True)
    )


@given(rows=st.integers(1, 50), batch=st.integers(1, 12), number=st.integers(0, 5))
def test_every_row_is_seen_once_an_epoch_the_partial_batch_too(rows, batch, number):
    all_of = batches([example(i, i, i) for i in range(rows)], seed=3, effective_batch=batch)
    steps = steps_of(all_of, number)
    assert len(steps) == -(-rows // batch)
    assert Counter(i for step in steps for i in step) == Counter(range(rows))


@given(
    lengths=st.lists(st.integers(2, 9), min_size=8, max_size=8),
    losses=st.lists(st.floats(0, 9), min_size=8, max_size=8),
)
def test_no_wording_that_comes_for_its_loss_makes_a_larger_micro_batch_than_was_planned(
    lengths, losses
):
    source = DataSource(size=4, per_epoch=3, variants=(3, 1, 2, 2), min_passes=1)
    planned = batches(
        [example(*range(length)) for length in lengths],
        epochs=4, batch_size=2, mixture=Mixture(sources=(source,)),
    )  # fmt: skip
    largest = max(shape.flat for shape in planned.needed)
    for step in planned.steps(3, losses):
        for part in planned.micro_batches(step):
            assert shape_of(planned.rows(part), ()).flat <= largest


@given(rows=st.integers(1, 20), size=st.integers(1, 6))
def test_every_row_of_a_step_is_in_one_micro_batch(rows, size):
    step = [example(i, *range(i % 5 + 2)) for i in range(rows)]
    parts = parts_of(batches(step, batch_size=size))
    assert Counter(e.tokens[0] for part in parts for e in part) == Counter(range(rows))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)


def test_the_order_depends_on_seed_and_epoch_alone():
    examples = [example(i, i) for i in range(30)]

    def order(seed, number):
        return [i for step in steps_of(batches(examples, seed=seed), number) for i in step]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_micro_batches_put_rows_of_similar_length_together():
    step = [example(*range(n)) for n in (9, 3, 8, 4)]
    parts = parts_of(batches(step, batch_size=2))
    assert [[len(e.tokens) for e in part] for part in parts] == [[3, 4], [8, 9]]


def test_targets_are_predicted_from_the_token_before_them():
    rows = [example(5, 6, 7, 8, taught=2), example(5, 6, 9, taught=1)]
    for prefix, grid in ((), [[5, 6, 7], [5, 6, 0]]), ((5,), [[5, 0], [6, 7], [6, 0]]):
        batch = collate(rows, prefix)
        assert words(batch) == grid  # the last token of a row is no input
        assert taught(batch) == [(6, 7), (7, 8), (6, 9)]


@st.composite
def packed(draw):
    """Rows with supervised tokens anywhere, behind a prefix, and a shape they fit in."""
    prefix = tuple(range(1, 1 + draw(st.integers(0, 5))))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        own = draw(st.lists(st.integers(50, 99), min_size=2, max_size=6))
        flags = draw(st.lists(st.booleans(), min_size=len(own) - 2, max_size=len(own) - 2))
        tokens = (*prefix, *own)
        rows.append(
            Example(tokens=tokens, supervised=(*(False,) * len(prefix), False, *flags, True))
        )
    needed = cover([shape_of(rows, prefix)])
    width = needed.width + draw(st.integers(0, 2))
    cells = (needed.rows + (needed.prefix > 0)) * width - needed.prefix
    least = needed.flat if width == needed.width else min(needed.flat + 1, cells)
    return (
        rows,
        prefix,
        Shape(
            rows=needed.rows,
            prefix=needed.prefix,
            flat=draw(st.integers(least, cells)),
            width=width,
            supervised=needed.supervised + draw(st.integers(0, 3)),
        ),
    )


@given(packed())
def test_a_micro_batch_has_the_shape_it_was_given_and_the_rows_in_it(case):
    rows, prefix, padded = case
    batch = collate(rows, prefix, padded)
    begin = len(prefix) if len(rows) > 1 else 0
    lines = padded.rows + (begin > 0)
    assert batch.layout.prefix == padded.prefix == begin
    assert batch.tokens.shape == batch.layout.cells.shape == (padded.tokens,)
    assert batch.layout.grid.shape == (lines, padded.width)
    for array in (batch.positions, batch.targets, batch.weights):
        assert array.shape == (padded.supervised,)
    texts = [prefix] * (begin > 0) + [row.tokens[begin:-1] for row in rows]
    for line, text in zip(words(batch), texts, strict=True):
        assert line == [*text, *[0] * (padded.width - len(text))]
    assert np.array(batch.tokens)[:begin].tolist() == list(prefix[:begin])


@given(packed())
def test_every_supervised_token_is_taught_once_from_its_own_row(case):
    rows, prefix, padded = case
    batch = collate(rows, prefix, padded)
    pairs = [
        (row.tokens[t - 1], row.tokens[t]) for row in rows for t in np.flatnonzero(row.supervised)
    ]
    assert taught(batch) == pairs
    cells = np.array(batch.layout.cells)[np.array(batch.positions)[: len(pairs)]]
    line = [i for i, row in enumerate(rows) for _ in range(sum(row.supervised))]
    first = 1 if batch.layout.prefix else 0
    assert (cells // padded.width - first).tolist() == line


@given(packed())
def test_a_micro_batch_survives_its_parts(case):
    rows, prefix, padded = case
    batch = collate(rows, prefix, padded)
    back = MicroBatch.from_arrays(batch.arrays())
    assert back.layout == batch.layout
    assert all(getattr(back, n) is getattr(batch, n) for n in ("tokens", "positions", "weights"))
    assert back.targets is batch.targets


@given(packed())
def test_the_shape_of_rows_is_that_of_their_arrays_but_for_padding(case):
    rows, prefix, _ = case
    own = shape_of(rows, prefix)
    batch = collate(rows, prefix)
    added = 1 if own.tokens < batch.layout.grid.size else 0  # what empty cells read
    assert own.tokens + added == batch.tokens.size
    assert own.supervised == batch.targets.size
    assert max(own.width, own.prefix) == batch.layout.grid.shape[1]


def test_what_a_run_needs_is_what_its_steps_meet():
    examples = [example(*SYSTEM, *range(50, 53 + i % 7), taught=2) for i in range(29)]
    all_of = batches(examples, epochs=3, prefix=SYSTEM)
    met = Counter()
    chosen = few_shapes(all_of.needed, 4)
    for number in range(3):
        for step in steps_of(all_of, number):
            for rows in map(all_of.rows, all_of.micro_batches(step)):
                own = shape_of(rows, SYSTEM)
                met[own] += 1
                batch = collate(rows, SYSTEM, chosen[own])
                assert batch.tokens.size == chosen[own].tokens
    assert met == all_of.needed
    assert sum(met.values()) == 3 * 8  # of 29 rows: three steps of two fours, and one of 4 and 1


def test_the_shared_prefix_ends_a_token_before_anything_supervised():
    common = tuple(range(20))
    examples = [example(*common, 30, taught=3), example(*common, 31, taught=1)]
    # 21 tokens with 3 taught: the first supervised is number 18, so at most 17 may be shared.
    assert shared_prefix(examples) == common[:17]


def test_the_shared_prefix_ends_where_rows_part():
    examples = [example(*SYSTEM, a, 7, 8, 9) for a in (1, 2, 3)]
    assert shared_prefix(examples) == SYSTEM
    examples.append(example(*SYSTEM[:12], 1, 2, 3, 4))
    assert shared_prefix(examples) == SYSTEM[:12]


def test_a_row_that_is_the_beginning_of_another_is_shared_but_for_its_end():
    assert shared_prefix([example(*SYSTEM), example(*SYSTEM, 1, 2)]) == SYSTEM[:18]


@pytest.mark.parametrize("shared", [0, 7])
def test_a_prefix_too_short_to_pay_is_not_used(shared):
    common = tuple(range(shared))
    assert shared_prefix([example(*common, 50, 51, 1), example(*common, 60, 61, 1)]) == ()


def test_one_row_alone_shares_nothing():
    assert shared_prefix([example(*range(40))]) == ()
    assert collate([example(*SYSTEM, 1, 2)], SYSTEM).layout.prefix == 0
    assert collate([example(*SYSTEM, 1, 2)] * 2, SYSTEM).layout.prefix == 20


def test_a_text_row_among_chats_turns_the_prefix_off_in_its_own_micro_batch_alone():
    chats = [example(*SYSTEM, 50 + i, *range(60, 70 + i), taught=3) for i in range(7)]
    text = example(*range(100, 125), taught=24)
    assert shared_prefix([text, *chats]) == SYSTEM
    all_of = batches([text, *chats], prefix=SYSTEM)
    prefixes = [collate(part, SYSTEM).layout.prefix for part in parts_of(all_of)]
    assert prefixes == [20, 0]


def test_a_text_that_begins_as_the_chats_do_is_taught_in_full():
    """Its supervised tokens are in the prefix, so its micro-batch goes without."""
    chats = [example(*SYSTEM, 50 + i, 60, 61, taught=1) for i in range(3)]
    text = example(*SYSTEM, 70, taught=20)
    assert shared_prefix([*chats, text]) == SYSTEM
    batch = collate([chats[0], text], SYSTEM)
    assert batch.layout.prefix == 0
    assert taught(batch)[1:] == list(zip(text.tokens[:-1], text.tokens[1:], strict=True))


def test_no_rows_share_nothing():
    assert shared_prefix([]) == ()


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_real_rows_are_padded_by_less_than_a_tenth(size):
    rows = tokenise.encode(read.read([DATA]), tiny.tokenizer())
    assert len(rows) == 106
    all_of = batches(
        rows, epochs=5, batch_size=size, effective_batch=max(8, size), prefix=shared_prefix(rows)
    )
    needed = all_of.needed
    chosen = few_shapes(needed)
    assert len(set(chosen.values())) <= 8
    assert 0 <= padding(chosen, needed) < 0.1  # measured: 0.005 to 0.03


def test_padding_by_hand():
    small, large = (Shape(rows=2, prefix=0, flat=n, width=n, supervised=1) for n in (6, 9))
    padded = Shape(rows=2, prefix=0, flat=10, width=9, supervised=1)
    # 2 micro-batches of 6 and 1 of 9, each computed as 10.
    found = padding({small: padded, large: padded}, Counter({small: 2, large: 1}))
    assert found == pytest.approx(9 / 30)
