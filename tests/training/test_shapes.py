from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tune.training.shapes import LIMIT, Shape, cover, few_shapes

HEAD_SHARE = 0.2  # of a token's work in the layers, for a token that is taught


def shape(
    flat: int, supervised: int = 1, *, rows: int = 2, prefix: int = 0, width: int = 0
) -> Shape:
    return Shape(rows=rows, prefix=prefix, flat=flat, width=width or flat, supervised=supervised)


@st.composite
def shapes(draw) -> Shape:
    count = draw(st.integers(1, 2))
    width = draw(st.integers(1, 20))
    flat = draw(st.integers(width + count - 1, width * count))
    return Shape(
        rows=count,
        prefix=draw(st.sampled_from([0, 5])) if count > 1 else 0,
        flat=flat,
        width=width,
        supervised=draw(st.integers(count, flat)),
    )


needs = st.dictionaries(shapes(), st.integers(1, 9), min_size=1, max_size=7)


def work(groups, needed) -> float:
    """Tokens computed by all groups, each as long as its longest; the head's at their share."""
    return sum(
        sum(needed[s] for s in group)
        * (max(s.tokens for s in group) + HEAD_SHARE * max(s.supervised for s in group))
        for group in groups
    )


def cuts(items: list[Shape]):
    """All ways to cut a sorted list into neighbours."""
    for where in product([False, True], repeat=len(items) - 1):
        groups = [[items[0]]]
        for item, begins in zip(items[1:], where, strict=True):
            groups.append([item]) if begins else groups[-1].append(item)
        yield groups


def grouped(chosen) -> list[list[Shape]]:
    groups: dict[Shape, list[Shape]] = {}
    for needed, padded in chosen.items():
        groups.setdefault(padded, []).append(needed)
    return list(groups.values())


@given(needs, st.integers(1, 5))
def test_every_needed_shape_fits_in_the_one_it_is_padded_to(needed, limit):
    chosen = few_shapes(needed, limit)
    assert chosen.keys() == needed.keys()
    for own, padded in chosen.items():
        assert (padded.rows, padded.prefix) == (own.rows, own.prefix)
        assert padded.width >= max(own.width, own.prefix)
        assert padded.flat >= own.flat
        assert padded.supervised >= own.supervised
        # An empty cell of the grid reads a padding token, so where there is one there is another.
        cells = (padded.rows + (padded.prefix > 0)) * padded.width
        assert padded.tokens == cells or own.tokens < padded.tokens < cells


@given(needs, st.integers(1, 5))
def test_there_are_no_more_shapes_than_the_limit_or_than_kinds_of_micro_batch(needed, limit):
    kinds = {(s.rows, s.prefix) for s in needed}
    assert len(set(few_shapes(needed, limit).values())) <= max(limit, len(kinds))


@given(needs, st.integers(1, 5))
@settings(max_examples=200)
def test_no_other_cut_adds_less_work(needed, limit):
    kinds: dict[tuple[int, int], list[Shape]] = {}
    for own in sorted(needed):
        kinds.setdefault((own.rows, own.prefix), []).append(own)
    least = min(
        work([group for groups in choice for group in groups], needed)
        for choice in product(*map(list, map(cuts, kinds.values())))
        if sum(map(len, choice)) <= max(limit, len(kinds))
    )
    assert work(grouped(few_shapes(needed, limit)), needed) == pytest.approx(least)


@given(needs, st.integers(1, 5), st.randoms())
def test_the_order_in_which_needs_are_met_does_not_matter(needed, limit, random):
    turned = list(needed.items())
    random.shuffle(turned)
    assert few_shapes(dict(turned), limit) == few_shapes(needed, limit)


def test_two_lengths_by_hand():
    """Three shapes for two: the two rare ones, or the two near ones, together?"""
    near, nearer, far = shape(10), shape(12), shape(40)
    chosen = few_shapes(Counter({near: 5, nearer: 5, far: 5}), 2)
    assert chosen[near] == chosen[nearer] != chosen[far]
    # 28 tokens more for one micro-batch cost less than 2 tokens more for twenty.
    chosen = few_shapes(Counter({near: 20, nearer: 1, far: 1}), 2)
    assert chosen[near] != chosen[nearer] == chosen[far]


def test_the_limit_is_eight():
    needed = Counter({shape(10 + i): 1 for i in range(30)})
    assert LIMIT == len(set(few_shapes(needed).values())) == 8


def test_as_many_shapes_as_fit_need_no_padding_but_a_cell_for_what_is_empty():
    needed = Counter({shape(7, width=4): 1, shape(8, width=4): 1})
    chosen = few_shapes(needed, 8)
    # Of eight cells seven are taken: the eighth reads a token of padding. Where all are, none.
    assert [chosen[s].flat for s in sorted(needed)] == [8, 8]
    assert cover([shape(6, width=4)]).flat == 7


def test_the_grid_is_as_wide_as_its_widest_line_the_prefix_too():
    short = shape(4, prefix=9, width=3)
    padded = cover([short, shape(6, 5, prefix=9, width=4)])
    assert padded == shape(7, 5, prefix=9, width=9)
