"""An adapter that another program trained, whatever file it came in."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tune.errors import DamagedStoreError, InputError
from mlx_tune.files import strict_json
from mlx_tune.files.safetensors import Header, parse
from mlx_tune.store.adapter_check import check_finite
from mlx_tune.training.adapter import Adapter, Factors

MAX_SCALE = 1e38
"""The most that a product of factors may be multiplied by: float32 holds it."""


@dataclass(frozen=True, kw_only=True)
class ForeignAdapter:
    """What a file or folder of another program holds.

    Attributes:
        format: ``peft``, ``mlx-lm`` or ``gguf``.
        adapter: Its factors as float32, of one rank and scale.
        base: What it calls the base model; None where it does not say.
        sha256: Of its weights (hex).
        row_order: llama.cpp's name of the architecture where the rows of attention's projections
            are in its order; None where they are in ours.
    """

    format: str
    adapter: Adapter
    base: str | None
    sha256: str
    row_order: str | None = None


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """A safetensors file of another program, checked.

    Attributes:
        header: What the strict reader found in it.
        arrays: Its tensors by name, lazily.
        sha256: Of all of it (hex).
    """

    header: Header
    arrays: Mapping[str, mx.array]
    sha256: str


def read_tensors(place: Path, data: bytes, *, fix: str) -> TensorFile:
    """Check a safetensors file of another program before MLX sees it.

    Args:
        place: Its name, for messages.
        data: The whole file.
        fix: What the person should do about a damaged one.

    Raises:
        InputError: It breaks the rules of its format.
        NotFiniteError: A tensor holds a NaN or an infinity.
    """
    try:
        header = parse(data, place, fix=fix)
    except DamagedStoreError as error:  # it is no store's
        raise InputError(str(error)) from None
    check_finite(data, header, place, fix=fix)
    arrays = mx.load(io.BytesIO(data), format="safetensors")
    assert isinstance(arrays, dict)
    return TensorFile(header=header, arrays=arrays, sha256=hashlib.sha256(data).hexdigest())


def read_object(place: Path, data: bytes, *, fix: str) -> dict[str, Any]:
    """Return the JSON object that a file of another program is.

    Raises:
        InputError: It is none.
    """
    try:
        found = strict_json.loads(data)
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON ({error}); {fix}") from None
    if not isinstance(found, dict):
        raise InputError(f"{place}: not a JSON object; {fix}")
    return found


def evened(factors: Factors, scales: Mapping[str, float]) -> Adapter:
    """Return modules of several ranks and scales as an adapter of one.

    Args:
        factors: By module path, float32 (in_dims, rank) and (rank, out_dims).
        scales: By module path, what their product is multiplied by.
    """
    rank = max(lora_a.shape[1] for lora_a, _ in factors.values())
    (scale, _), *_ = Counter(scales.values()).most_common(1)
    made = {}
    for path, (lora_a, lora_b) in factors.items():
        missing = rank - lora_a.shape[1]
        if scales[path] != scale:
            lora_b = lora_b * (scales[path] / scale)
        if missing:
            lora_a = mx.pad(lora_a, [(0, 0), (0, missing)])
            lora_b = mx.pad(lora_b, [(0, missing), (0, 0)])
        made[path] = (mx.contiguous(lora_a), mx.contiguous(lora_b))
    mx.eval(made)
    return Adapter(factors=made, rank=rank, scale=scale)
