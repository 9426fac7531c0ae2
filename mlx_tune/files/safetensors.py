"""Safetensors files, read by the format's own reader and checked for what MLX would misread.

MLX accepts overlapping tensors, holes, trailing bytes and keys given twice, and cuts dimensions to
32 bits, so no file is shown to it before the ``safetensors`` package accepted it. What that lets
pass and nobody writes is refused here: names given twice, unknown fields, tensors written as lists,
types that MLX cannot compute with, dimensions it cannot hold, a header that does not begin with
``{``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors

from mlx_tune.errors import DamagedStoreError
from mlx_tune.files import strict_json
from mlx_tune.text import one_line, quoted

MAX_DIMENSION = 2**31 - 1
DOCTOR = "run `mlx-tune doctor`"

# Those that the oldest reader this package allows knows: later ones added types that MLX cannot
# compute with.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip

_FIELDS = {"dtype", "shape", "data_offsets"}
_LENGTH_BYTES = 8


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


def parse(data: bytes, place: Path | str, *, fix: str = DOCTOR) -> Header:
    """Return what a file in memory holds, every rule checked; its bytes are copied meanwhile.

    Args:
        data: The whole file.
        place: Its name, for messages.
        fix: What the person should do about a damaged one.

    Raises:
        DamagedStoreError: It breaks a rule of the format; which, and the tensor where it is known.
    """
    with _refusals(place, fix):
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        return _header(data[_LENGTH_BYTES : _LENGTH_BYTES + _header_length(data)])


def read_header(path: Path, *, fix: str = DOCTOR) -> Header:
    """Return what a file on disk holds, by its header and its size: weights are gigabytes.

    Args:
        path: A file, or a link to one.
        fix: What the person should do about a damaged one.

    Raises:
        DamagedStoreError: It breaks a rule of the format, or is no regular file.
    """
    if not path.is_file():  # opening a FIFO would wait for ever
        raise DamagedStoreError(f"{path}: missing, or not a regular file; {fix}")
    with (
        _refusals(path, fix),
        safetensors.safe_open(path, framework="numpy"),
        path.open("rb") as file,
    ):
        return _header(file.read(_header_length(file.read(_LENGTH_BYTES))))


@contextmanager
def _refusals(place: Path | str, fix: str) -> Iterator[None]:
    """Turn what is wrong into the one line a person gets."""
    try:
        yield
    except safetensors.SafetensorError as error:
        # It quotes names as they are, however long and with whatever is in them.
        _, _, reason = str(error).partition(": ")  # behind "Error while deserializing header"
        problem = one_line(f"not a sound safetensors file: {reason}", 240)
        raise DamagedStoreError(f"{place}: {problem}; {fix}") from None
    except ValueError as error:
        raise DamagedStoreError(f"{place}: not a sound safetensors file: {error}; {fix}") from None


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH_BYTES], "little")


def _header(raw: bytes) -> Header:
    """Return a header that the format's own reader has accepted, if MLX reads it alike."""
    if not raw.startswith(b"{"):
        raise ValueError("the header does not begin with {")
    entries: dict[str, Any] = strict_json.loads(raw)
    metadata = entries.pop("__metadata__", None)  # MLX writes null where it was given none
    if not isinstance(metadata, dict | None):
        raise ValueError("__metadata__ is not an object")
    start = _LENGTH_BYTES + len(raw)
    tensors = {name: _tensor(f"tensor {quoted(name)}", one, start) for name, one in entries.items()}
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    return Header(tensors=dict(ordered), metadata=metadata or {})


def _tensor(owner: str, fields: Any, start: int) -> Tensor:
    if not isinstance(fields, dict):
        raise ValueError(f"{owner} is not an object")
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(f"{owner} has the unknown field {quoted(min(unknown))}")
    dtype, shape, (begin, end) = (fields[name] for name in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"{owner} has a dtype other than {', '.join(DTYPE_BYTES)}")
    if max(shape, default=0) > MAX_DIMENSION:
        raise ValueError(f"{owner} has a dimension of {max(shape)}; MLX holds {MAX_DIMENSION:,}")
    return Tensor(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)
