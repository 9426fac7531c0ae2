"""A judge who shows damaged safetensors files to our reader and to the Rust reader."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import safetensors

from helpers.safetensors_mutants import mutant
from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage.strict_safetensors import Header

# Why ours may refuse what the Rust reader accepts; each is a choice, none an accident.
STRICTER = re.compile(
    r"the header begins with |gives .* twice|has the unknown field |is a list; expected an object|"
    r'has the dtype ("F4"|"F8_E8M0"|"F6_E2M3"|"C64"|an object);|'
    r"shape of tensor .* holds \d+; expected whole numbers from 0 to 2,147,483,647"
)


@dataclass
class ReaderCounts:
    """How many mutants of each kind were accepted by both, refused by ours alone, or by both."""

    accepted: Counter = field(default_factory=Counter)
    stricter: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)


def compare_readers(ours: Callable[[bytes], Header], count: int, *, seed: int = 0) -> ReaderCounts:
    """Show mutants to our reader and to the Rust reader.

    Raises:
        AssertionError: Ours accepts what the other refuses, reads it otherwise, or refuses for a
            reason that is none of those chosen what the other accepts.
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
    verdicts.accepted[kind] += 1


def read_by_rust(data: bytes) -> dict | None:
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in tensors}
