"""Safetensors files, read at least as strictly as the format's own reader does.

MLX accepts overlapping tensors, holes, trailing bytes and keys given twice, and cuts dimensions to
32 bits, so no file is shown to it before its header was read here. The rules are those of the
format and of its Rust reader; beyond them are refused, because nobody writes them: names given
twice, unknown fields, a header that does not begin with ``{``, and dimensions MLX cannot hold.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from mlx_tune.errors import DamagedStoreError
from mlx_tune.store.session import quoted

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSION = 2**31 - 1
DOCTOR = "run `mlx-tune doctor`"

# Those that the oldest Rust reader this package allows knows: later ones added types that MLX
# cannot compute with.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip

_FIELDS = ("dtype", "shape", "data_offsets")
_LENGTH_BYTES = 8
_MAX_SIZE = 2**64 - 1
_WHOLE = re.compile("0|[1-9][0-9]{0,19}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor lies and what it is.

    Attributes:
        dtype: As the format spells it, such as ``F32``.
        shape: Its dimensions; empty for a single number.
        begin: Of its bytes, counted from the start of the file.
        end: One past its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a sound file holds.

    Attributes:
        tensors: By name, in the order of their bytes.
        metadata: Text by name, as the writer liked; empty when there is none.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


class _UnsoundError(Exception):
    """What is wrong, without the place."""


class _Number(str):
    """A number as it is spelt: ``json`` would make -0, 1.0 and NaN look like what they are not."""


class _Object(list[tuple[str, object]]):
    """The fields of an object in order, so that one given twice is still there to be seen."""


def parse(data: bytes, place: Path | str, *, fix: str = DOCTOR) -> Header:
    """Return what a file in memory holds, every rule checked.

    Args:
        data: The whole file.
        place: Its name, for messages.
        fix: What the person should do about a damaged one.

    Raises:
        DamagedStoreError: It breaks a rule of the format; the tensor and the rule.
    """
    with _refusals(place, fix):
        length = _header_length(data[:_LENGTH_BYTES], len(data))
        return _header(data[_LENGTH_BYTES : _LENGTH_BYTES + length], len(data))


def read_header(path: Path, *, fix: str = DOCTOR) -> Header:
    """Return what a file on disk holds, by its header and its size: weights are gigabytes.

    Args:
        path: A file, or a link to one.
        fix: What the person should do about a damaged one.

    Raises:
        DamagedStoreError: It breaks a rule of the format, or is no regular file.
    """
    with _refusals(path, fix):
        if not path.is_file():  # opening a FIFO would wait for ever
            raise _UnsoundError("missing, or not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _header(file.read(_header_length(file.read(_LENGTH_BYTES), size)), size)


@contextmanager
def _refusals(place: Path | str, fix: str) -> Iterator[None]:
    """Turn what is wrong into the one line a person gets."""
    try:
        yield
    except _UnsoundError as error:
        raise DamagedStoreError(f"{place}: {error}; {fix}") from None


def _header_length(prefix: bytes, size: int) -> int:
    if size < _LENGTH_BYTES:
        raise _UnsoundError(f"{_bytes(size)} long; a safetensors file begins with {_LENGTH_BYTES}")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _UnsoundError(
            f"claims a header of {_bytes(length)}; the limit is {MAX_HEADER_BYTES:,}"
        )
    if length > size - _LENGTH_BYTES:
        raise _UnsoundError(
            f"claims a header of {_bytes(length)}, and {size - _LENGTH_BYTES:,} follow: cut short"
        )
    return length


def _header(raw: bytes, size: int) -> Header:
    start = _LENGTH_BYTES + len(raw)
    metadata: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in _fields(_document(raw), "the header").items():
        if name == "__metadata__":
            metadata = _metadata(value)
        else:
            tensors[name] = _tensor(f"tensor {quoted(name)}", value, start)
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_layout(ordered, start, size)
    return Header(tensors=ordered, metadata=metadata)


def _document(raw: bytes) -> object:
    """Return the header's JSON, objects as their pairs and numbers as their spelling."""
    try:
        # Not json.loads(raw): it would guess at UTF-16 and UTF-32.
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _UnsoundError(f"byte {error.start} of the header is not UTF-8") from None
    if not text.startswith("{"):
        raise _UnsoundError(f"the header begins with {_shown(text[:1])}, not with {{")
    try:
        return json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_Number,
        )
    except RecursionError:
        raise _UnsoundError("the header is nested too deeply") from None
    except ValueError as error:
        raise _UnsoundError(f"the header is not JSON ({error})") from None


def _fields(value: object, owner: str) -> dict[str, object]:
    """Return an object's fields; each is there once and its name is text that can be written."""
    if not isinstance(value, _Object):
        raise _UnsoundError(f"{owner} is {_shown(value)}; expected an object")
    fields: dict[str, object] = {}
    for name, child in value:
        if name in fields:
            raise _UnsoundError(f"{owner} gives {quoted(name)} twice")
        _check_text(name)
        fields[name] = child
    return fields


def _metadata(value: object) -> dict[str, str]:
    found: dict[str, str] = {}
    if value is None:  # MLX writes null where it was given none
        return found
    for name, text in _fields(value, "__metadata__").items():
        if not _is_text(text):
            raise _UnsoundError(
                f"__metadata__ has {_shown(text)} for {quoted(name)}; expected text"
            )
        _check_text(text)
        found[name] = text
    return found


def _tensor(owner: str, value: object, start: int) -> Tensor:
    fields = _fields(value, owner)
    for name in _FIELDS:
        if name not in fields:
            raise _UnsoundError(f'{owner} lacks "{name}"')
    for name in fields:
        if name not in _FIELDS:
            raise _UnsoundError(f"{owner} has the unknown field {quoted(name)}")
    dtype, (begin, end) = _dtype(owner, fields["dtype"]), _offsets(owner, fields["data_offsets"])
    shape = _shape(owner, fields["shape"])
    taken = _size(owner, dtype, shape)
    if taken != end - begin:
        raise _UnsoundError(
            f"{owner} is {dtype} of shape {_listed(shape)}, which takes {_bytes(taken)}; "
            f"data_offsets give it {end - begin:,}"
        )
    return Tensor(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)


def _dtype(owner: str, value: object) -> str:
    if not _is_text(value) or value not in DTYPE_BYTES:
        raise _UnsoundError(
            f"{owner} has the dtype {_shown(value)}; known are {', '.join(DTYPE_BYTES)}"
        )
    return value


def _offsets(owner: str, value: object) -> list[int]:
    offsets = _whole_numbers(f"data_offsets of {owner}", value, _MAX_SIZE)
    if len(offsets) != 2:
        raise _UnsoundError(f"data_offsets of {owner} are {len(offsets)} numbers; expected 2")
    if offsets[1] < offsets[0]:
        raise _UnsoundError(
            f"{owner} ends at byte {offsets[1]:,}, before its begin at {offsets[0]:,}"
        )
    return offsets


def _shape(owner: str, value: object) -> list[int]:
    return _whole_numbers(f"shape of {owner}", value, MAX_DIMENSION)


def _size(owner: str, dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of a shape. A product that overflows on the way counts, a 0 after it or not.

    The Rust reader multiplies in 64 bits, from left to right.
    """
    size = 1
    for dimension in (*shape, 8 * DTYPE_BYTES[dtype]):
        size *= dimension
        if size > _MAX_SIZE:
            raise _UnsoundError(
                f"{owner} has the shape {_listed(shape)}, more than 64 bits can count"
            )
    return size // 8


def _whole_numbers(owner: str, value: object, limit: int) -> list[int]:
    if not isinstance(value, list) or isinstance(value, _Object):
        raise _UnsoundError(f"{owner} is {_shown(value)}; expected a list of whole numbers")
    return [_whole(owner, item, limit) for item in value]


def _whole(owner: str, value: object, limit: int) -> int:
    """Return a whole number; 1.0, 1e0 and -0 are none, as the Rust reader has it."""
    if not isinstance(value, _Number) or not _WHOLE.fullmatch(value) or int(value) > limit:
        raise _UnsoundError(
            f"{owner} holds {_shown(value)}; expected whole numbers from 0 to {limit:,}"
        )
    return int(value)


def _check_layout(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    """Check that tensors lie end to end from the header to the end of the file.

    Args:
        tensors: In the order of their bytes.
        start: Where the header ends.
        size: Of the file.
    """
    at = start
    for name, tensor in tensors.items():
        owner = f"tensor {quoted(name)}"
        if tensor.begin < at:
            raise _UnsoundError(
                f"{owner} overlaps the one before it by {_bytes(at - tensor.begin)}"
            )
        if tensor.begin > at:
            raise _UnsoundError(
                f"{owner} comes after {_bytes(tensor.begin - at)} that no tensor claims"
            )
        if tensor.end > size:
            raise _UnsoundError(f"{owner} lacks its last {_bytes(tensor.end - size)}: cut short")
        at = tensor.end
    if at != size:
        raise _UnsoundError(f"ends with {_bytes(size - at)} that no tensor claims")


def _check_text(text: str) -> None:
    half = _LONE_SURROGATE.search(text)
    if half:
        raise _UnsoundError(f"the header holds \\u{ord(half[0]):04x}, half of a character")


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, _Number)


def _shown(value: object) -> str:
    """Return what was found, in words or quoted, on one line."""
    if isinstance(value, _Number):
        return value if len(value) <= 30 else value[:30] + "…"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "an object" if isinstance(value, _Object) else "a list"
    return json.dumps(value)  # null, true or false


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _listed(shape: Sequence[int]) -> str:
    more = ["…"] if len(shape) > 8 else []
    return f"[{', '.join([*map(str, shape[:8]), *more])}]"
