"""Records as JSON, written in one way and read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.files import strict_json


def to_json(record: Mapping[str, Any], place: Path) -> bytes:
    """Return a record as indented JSON with sorted keys, UTF-8, a newline at the end.

    Raises:
        UsageError: A NaN, an infinity, or a value that JSON cannot hold; where it stands.
    """
    return (_dump(record, place, indent=2) + "\n").encode()


def to_line(record: Mapping[str, Any], place: Path) -> str:
    """Return a record as one compact line of JSON with sorted keys, without its newline.

    Raises:
        UsageError: A NaN, an infinity, or a value that JSON cannot hold; where it stands.
    """
    return _dump(record, place, separators=(",", ":"))


def from_json(data: bytes, place: Path | str) -> dict[str, Any]:
    """Return the object that JSON bytes hold, read strictly.

    Raises:
        DamagedStoreError: The bytes are no such JSON; the place says where.
    """
    try:
        record = strict_json.loads(data)
    except ValueError as error:
        problem = f"not valid JSON ({error})"
        raise DamagedStoreError(f"{place}: {problem}; run `mlx-tune doctor`") from None
    if not isinstance(record, dict):
        raise DamagedStoreError(f"{place}: not a JSON object; run `mlx-tune doctor`")
    return record


def refuse_taken(place: str, given: Iterable[str], own: Iterable[str]) -> None:
    """Refuse names that this package writes itself.

    Raises:
        UsageError: Which of them were given.
    """
    taken = sorted(set(given) & set(own))
    if taken:
        raise UsageError(f"{place}: {', '.join(taken)} is mlx-tune's to write; leave it out")


def _dump(record: Mapping[str, Any], place: Path, **style: Any) -> str:
    try:
        text = json.dumps(
            dict(record), sort_keys=True, ensure_ascii=False, allow_nan=False, **style
        )
        text.encode()  # an unpaired surrogate passes json.dumps and cannot be written
    except (TypeError, ValueError) as error:
        odd = [
            f'"{where}" is {number}, which JSON cannot hold'
            for where, number in _floats(record, "")
            if not math.isfinite(number)
        ]
        raise UsageError(f"{place}: {odd[0] if odd else error}; leave it out") from error
    return text


def _floats(value: Any, where: str) -> Iterator[tuple[str, float]]:
    """Yield every float inside a record with its place, such as ``losses[3]`` or ``a.b``."""
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _floats(child, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _floats(child, f"{where}[{index}]")
