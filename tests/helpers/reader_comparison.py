"""Shows damaged safetensors files to our reader, to the format's own, and to MLX."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from tempfile import NamedTemporaryFile

import mlx.core as mx
import numpy as np
import safetensors

from helpers.safetensors_mutants import mutant
from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.safetensors import DTYPE_BYTES, Header

# Why ours may refuse what the format's reader accepts; each is a choice, none an accident.
STRICTER = re.compile(
    r"the header does not begin with \{|duplicate key |has the unknown field |is not an object|"
    r"has a dtype other than |has a dimension of \d+; MLX holds 2,147,483,647"
)


@dataclass
class ReaderCounts:
    """How many mutants of each kind were accepted by both, refused by ours alone, or by both."""

    accepted: Counter = field(default_factory=Counter)
    stricter: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)


def compare_readers(ours: Callable[[bytes], Header], count: int, *, seed: int = 0) -> ReaderCounts:
    """Show mutants to our reader, to the format's own, and those that ours accepts to MLX.

    Raises:
        AssertionError: Ours accepts what the format's reader refuses, or reads it otherwise than
            that reader or MLX does, or refuses for a reason that is none of those chosen what the
            other accepts.
    """
    random = Random(seed)
    verdicts = ReaderCounts()
    for _ in range(count):
        kind, data = mutant(random)
        _compare(kind, data, ours, verdicts)
    return verdicts


def _compare(
    kind: str, data: bytes, ours: Callable[[bytes], Header], verdicts: ReaderCounts
) -> None:
    theirs = read_by_rust(data)
    try:
        header = ours(data)
    except DamagedStoreError as error:
        assert "\n" not in str(error), (kind, data)
        assert theirs is None or STRICTER.search(str(error)), (kind, str(error), data)
        (verdicts.refused if theirs is None else verdicts.stricter)[kind] += 1
        return
    assert theirs is not None, f"{kind}: the Rust reader refuses {data!r}"
    found = {n: (t.dtype, [*t.shape], data[t.begin : t.end]) for n, t in header.tensors.items()}
    assert found == theirs, f"{kind}: read otherwise than the Rust reader does: {data!r}"
    _compare_with_mlx(kind, data, found)
    verdicts.accepted[kind] += 1


def read_by_rust(data: bytes) -> dict | None:
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in tensors}


def _compare_with_mlx(kind: str, data: bytes, found: dict) -> None:
    """Check that MLX finds the same tensors, or refuses: it knows fewer types."""
    with NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        try:
            arrays = mx.load(file.name)
        except (RuntimeError, ValueError):
            return
        mx.eval(arrays)
    assert arrays.keys() == found.keys(), f"{kind}: MLX finds other tensors in {data!r}"
    for name, (dtype, shape, held) in found.items():
        array = arrays[name]
        assert [*array.shape] == shape, f"{kind}: MLX gives {name!r} another shape: {data!r}"
        if array.dtype.size == DTYPE_BYTES[dtype]:  # it widens what it has no type for
            read = np.array(array.reshape(-1, stream=mx.cpu).view(mx.uint8, stream=mx.cpu))
            assert read.tobytes() == held, f"{kind}: MLX reads other bytes: {data!r}"
