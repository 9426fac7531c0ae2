"""Records as JSON, written in one way and read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, UsageError


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
    """Return the object that JSON bytes hold; keys given twice, NaN and infinity are refused.

    Raises:
        DamagedStoreError: The bytes are no such JSON; the place says where.
    """
    try:
        # Decoded here: json itself would take UTF-16 as well.
        text = data.decode("utf-8")
        record = json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(
            f"{place}: not valid JSON ({error}); run `mlx-tune doctor`"
        ) from None
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
        text.encode()  # a lone surrogate passes json.dumps and cannot be written
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: {_complaint(record) or error}; leave it out") from error
    return text


def _complaint(record: Mapping[str, Any]) -> str | None:
    for where, number in _floats(record, ""):
        if not math.isfinite(number):
            return f'"{where}" is {number}, which JSON cannot hold'
    return None


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f'the key "{twice}" stands twice')
    return record


def _finite(text: str) -> float:
    """Return a number; one too large for a float would be an infinity that nothing can write."""
    number = float(text)
    if math.isinf(number):
        _refuse(text)
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")
