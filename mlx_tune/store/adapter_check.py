"""An adapter's two files, checked before they are committed and before MLX sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, IncompatibleError, InputError, NotFiniteError
from mlx_tune.files.records import from_json
from mlx_tune.files.safetensors import DOCTOR, DTYPE_BYTES, MAX_DIMENSION, Header, Tensor, parse
from mlx_tune.text import quoted

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"

_FACTOR = re.compile(r"([A-Za-z0-9_.]+)\.(lora_[ab])")
_MAX_SCALE = 3e38  # what float32 holds
# The bits of an exponent: all of them set mean an infinity or a NaN.
_EXPONENTS = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a sound adapter's files say.

    Attributes:
        paths: Of the modules that are adapted, in order of name.
        rank: The inner dimension of every pair.
        scale: Multiplier of the product, alpha / rank.
    """

    paths: tuple[str, ...]
    rank: int
    scale: float


def check_adapter(weights: bytes, config: bytes, place: Path | str) -> Checked:
    """Check that two files are an adapter: float32 pairs of one rank, every number finite.

    Args:
        weights: adapters.safetensors.
        config: adapter_config.json.
        place: Whose they are, for messages.

    Raises:
        DamagedStoreError: A file is malformed.
        InputError: A factor lacks its partner, is not float32, or holds a NaN or an infinity.
        IncompatibleError: The factors are not of the rank the config names; the first three.
    """
    rank, scale = _read_config(config, f"{place}/{CONFIG_FILE}")
    tensors = check_factors(weights, place := f"{place}/{WEIGHTS_FILE}").tensors
    paths = _paired(tensors, place)
    differences = []
    for path in paths:
        down, up = tensors[f"{path}.lora_a"].shape, tensors[f"{path}.lora_b"].shape
        if not (len(down) == len(up) == 2 and down[1] == up[0] == rank):
            differences.append(f"{path}: {down}, {up}")
    if differences:
        raise IncompatibleError(
            f"{place}: not of the rank {rank} that {CONFIG_FILE} names; expected (in, {rank}), "
            f"({rank}, out): {'; '.join(differences[:3])}"
        )
    return Checked(paths=paths, rank=rank, scale=scale)


def check_factors(data: bytes, place: Path | str) -> Header:
    """Check a file of float32 tensors, every number finite: an adapter's, or its optimizer's.

    Raises:
        DamagedStoreError: It is no sound safetensors file.
        InputError: A tensor is not float32, or holds a NaN or an infinity.
    """
    header = parse(data, place)
    for name, tensor in header.tensors.items():
        if tensor.dtype != "F32":
            raise InputError(f"{place}: {quoted(name)} is {tensor.dtype}; expected F32, float32")
    check_finite(data, header, place)
    return header


def check_finite(
    data: bytes,
    header: Header,
    place: Path | str,
    *,
    fix: str = "train again with a lower --learning-rate",
) -> None:
    """Refuse a NaN or an infinity in any F64, F32, F16 or BF16 tensor.

    Args:
        data: The whole file.
        header: What the strict reader found in it.
        place: Its name, for messages.
        fix: What the person should do.

    Raises:
        NotFiniteError: The first tensor that holds some, how many, and how many tensors more do.
    """
    counts = {name: _count_not_finite(data, tensor) for name, tensor in header.tensors.items()}
    bad = [name for name, count in counts.items() if count]
    if bad:
        total = math.prod(header.tensors[bad[0]].shape)
        more = f", and so on in {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise NotFiniteError(
            f"{place}: {quoted(bad[0])} holds numbers that are not finite, {counts[bad[0]]:,} of "
            f"{total:,}{more}; {fix}"
        )


def _count_not_finite(data: bytes, tensor: Tensor) -> int:
    if tensor.dtype not in _EXPONENTS:
        return 0
    import numpy as np

    width = DTYPE_BYTES[tensor.dtype]
    count = (tensor.end - tensor.begin) // width
    bits = np.frombuffer(data, dtype=f"<u{width}", count=count, offset=tensor.begin)
    exponent = bits.dtype.type(_EXPONENTS[tensor.dtype])
    return int(np.count_nonzero((bits & exponent) == exponent))


def _read_config(config: bytes, place: str) -> tuple[int, float]:
    """Return rank and scale."""
    parameters = from_json(config, place).get("lora_parameters")
    found = parameters if isinstance(parameters, dict) else {}
    rank: Any = found.get("rank")
    scale: Any = found.get("scale")
    wrong = None
    if type(rank) is not int or not 1 <= rank <= MAX_DIMENSION:
        wrong = 'rank" missing or malformed; expected a whole number from 1'
    elif type(scale) not in (int, float) or not -_MAX_SCALE <= scale <= _MAX_SCALE:
        wrong = 'scale" missing or malformed; expected a number that float32 holds'
    if wrong:
        raise DamagedStoreError(f'{place}: "lora_parameters.{wrong}; {DOCTOR}')
    return rank, float(scale)


def _paired(tensors: Mapping[str, Tensor], place: str) -> tuple[str, ...]:
    """Return the modules whose two factors are there; nothing else may be."""
    if not tensors:
        raise InputError(f"{place}: holds no factors; expected a lora_a and a lora_b of each layer")
    for name in sorted(tensors):
        factor = _FACTOR.fullmatch(name)
        if not factor:
            raise InputError(f"{place}: {quoted(name)} is no lora_a or lora_b of a layer")
        if f"{factor[1]}.lora_a" not in tensors or f"{factor[1]}.lora_b" not in tensors:
            raise InputError(f"{place}: {quoted(name)} stands alone; expected a pair")
    return tuple(sorted({name.rpartition(".")[0] for name in tensors}))
