"""Where tokens lie, against what the words say, cell by cell, and against MLX's own gradients."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.training.batches import MicroBatch, collate, shape_of
from mlx_tune.training.layout import Layout
from mlx_tune.training.shapes import Shape, cover

HEADS, DIMS = 3, 2


@st.composite
def batches(draw) -> MicroBatch:
    """Rows of any lengths, behind a prefix or not, in their own shape or a larger one."""
    prefix = draw(st.integers(0, 6))
    lengths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=4))
    rows = [tiny.example(*range(1, prefix + length + 2)) for length in lengths]
    shared = tuple(range(1, prefix + 1))
    needed = cover([shape_of(rows, shared)])
    width = needed.width + draw(st.integers(0, 3))
    cells = (len(rows) + (prefix > 0)) * width - prefix
    least = needed.flat if width == needed.width else min(needed.flat + 1, cells)
    padded = Shape(
        rows=len(rows),
        prefix=prefix,
        flat=draw(st.integers(least, cells)),
        width=width,
        supervised=len(rows) + draw(st.integers(0, 2)),
    )
    return collate(rows, shared, padded)


def lines(layout: Layout) -> list[list[int]]:
    """The tokens of each line, by their flat index: what the arrays are to say."""
    found: list[list[int]] = [[] for _ in range(layout.grid.shape[0])]
    for token, cell in enumerate(np.array(layout.cells).tolist()):
        line, column = divmod(cell, layout.grid.shape[1])
        assert column == len(found[line]), "a line's tokens follow one another"
        found[line].append(token)
    return found


def numbers(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def assert_equal(found, wanted):
    assert np.abs(np.array(found) - np.array(wanted)).max() <= 1e-6


def compared(ours, plain, flat: mx.array, alive: np.ndarray):
    """Compare values, and gradients for what comes back from cells that hold a token."""
    value = plain(flat)
    assert_equal(ours(flat) * alive, value * alive)
    cotangent = numbers(*value.shape, seed=1) * mx.array(alive)
    (found,), (wanted,) = (mx.vjp(f, [flat], [cotangent])[1] for f in (ours, plain))
    assert_equal(found, wanted)


def occupied(layout: Layout) -> np.ndarray:
    """Which cells hold a token, (lines, 1, width, 1)."""
    filled = np.zeros(layout.grid.size, dtype=np.float32)
    filled[np.array(layout.cells)] = 1
    return filled.reshape(layout.grid.shape)[:, None, :, None]


@given(batches())
def test_every_token_has_a_cell_of_its_own_and_every_cell_a_token_to_read(batch):
    grid, cells = np.array(batch.layout.grid), np.array(batch.layout.cells)
    assert len(set(cells.tolist())) == batch.tokens.size
    assert (grid.ravel()[cells] == np.arange(batch.tokens.size)).all()
    empty = np.setdiff1d(np.arange(grid.size), cells)
    assert (np.array(batch.tokens)[grid.ravel()[empty]] == 0).all()  # words are 1 and more


@given(batches())
def test_queries_lie_by_line_and_their_gradients_are_those_of_a_plain_take(batch):
    layout, flat = batch.layout, numbers(batch.tokens.size, HEADS * DIMS)

    def plain(flat):
        taken = mx.take(flat, layout.grid, axis=0)
        return taken.reshape(*layout.grid.shape, HEADS, DIMS).transpose(0, 2, 1, 3)

    compared(lambda x: layout.queries(x, HEADS), plain, flat, occupied(layout))


@given(batches())
def test_keys_are_the_prefix_and_a_rows_own_and_their_gradients_those_of_a_plain_take(batch):
    layout, flat = batch.layout, numbers(batch.tokens.size, HEADS * DIMS)
    count = layout.grid.shape[0]

    def plain(flat):
        prefix = mx.broadcast_to(mx.arange(layout.prefix), (count, layout.prefix))
        cells = mx.concatenate([prefix.astype(mx.int32), layout.grid], axis=1)
        taken = mx.take(flat, cells, axis=0)
        return taken.reshape(*cells.shape, HEADS, DIMS).transpose(0, 2, 1, 3)

    alive = occupied(layout)
    if layout.prefix:  # its own line looks at the first part alone
        alive[0, :, : layout.prefix] = 0
    before = np.ones((count, 1, layout.prefix, 1), dtype=np.float32)
    alive = np.concatenate([before, alive], axis=2)
    compared(lambda x: layout.keys(x, HEADS), plain, flat, alive)


@given(batches())
def test_flat_is_the_inverse_of_queries_and_so_are_the_gradients(batch):
    layout, flat = batch.layout, numbers(batch.tokens.size, HEADS * DIMS)
    assert_equal(layout.flat(layout.queries(flat, HEADS)), flat)
    grid = numbers(layout.grid.shape[0], HEADS, layout.grid.shape[1], DIMS, seed=2)

    def plain(grid):
        cells = grid.transpose(0, 2, 1, 3).reshape(-1, HEADS * DIMS)
        return mx.take(cells, layout.cells, axis=0)

    cotangent = numbers(*flat.shape, seed=3)
    (found,), (wanted,) = (mx.vjp(f, [grid], [cotangent])[1] for f in (layout.flat, plain))
    assert_equal(layout.flat(grid), plain(grid))
    assert_equal(found * occupied(layout), wanted * occupied(layout))


@given(batches(), st.sampled_from([None, 1, 2, 3, 8]))
@settings(max_examples=50)
def test_a_query_sees_its_own_row_and_the_prefix_up_to_itself_and_a_window_back(batch, window):
    layout = batch.layout
    count, width = layout.grid.shape
    found = np.array(layout.bias(window))
    assert found.shape == (count, 1, width, layout.prefix + width)
    offsets = np.array(layout.offsets())
    for line, tokens in enumerate(lines(layout)):
        first = layout.prefix if line or not layout.prefix else 0
        assert offsets[line] == first
        is_prefix = layout.prefix > 0 and line == 0
        for column in range(layout.prefix if is_prefix else len(tokens)):
            at = first + column
            keys = np.arange(layout.prefix + (0 if is_prefix else width))
            seen = (keys <= at) & (keys > at - (window or 99))
            expected = np.zeros(layout.prefix + width, dtype=bool)
            expected[: len(seen)] = seen
            assert ((found[line, 0, column] == 0) == expected).all()
            assert (found[line, 0, column][~expected] <= -1e9).all()


@pytest.mark.parametrize("window", [None, 3])
def test_a_rows_padding_comes_after_all_that_sees_it(window):
    batch = collate(tiny.rows(3), tiny.rows(3)[0].tokens[:10])
    bias = np.array(batch.layout.bias(window))
    for line, tokens in enumerate(lines(batch.layout)):
        words = np.array(batch.tokens)[tokens]
        real = int((words != 0).sum())
        assert (words[:real] != 0).all()
        first = (10 if line else 0) + real
        assert (bias[line, 0, :real, first:] < 0).all()
