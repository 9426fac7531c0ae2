"""A hundred thousand damaged safetensors files, shown to our reader and to the Rust reader."""

import pytest

from helpers.reader_comparison import compare_readers
from helpers.safetensors_mutants import KINDS
from mlx_tune.files.safetensors import parse

pytestmark = pytest.mark.slow

MUTANTS = 100_000


def test_of_100000_mutated_headers_none_is_accepted_that_the_rust_reader_refuses():
    verdicts = compare_readers(lambda data: parse(data, "x"), MUTANTS, seed=2)
    accepted, stricter = verdicts.accepted.total(), verdicts.stricter.total()
    refused = verdicts.refused.total()
    print(
        f"{MUTANTS:,} mutants of {len(KINDS)} kinds: {accepted:,} accepted by both, "
        f"{refused:,} refused by both, {stricter:,} by ours alone"
    )
    assert accepted + refused + stricter == MUTANTS
    assert verdicts.refused.keys() == {kind.__name__ for kind in KINDS}
    assert accepted >= MUTANTS // 100
    assert verdicts.accepted["nothing"] > 0
    assert verdicts.refused["nothing"] == verdicts.stricter["nothing"] == 0
