"""LoRA adapters of mlx-lm, read: two files in a folder, in the names that sessions have too."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tune.errors import InputError
from mlx_tune.text import quoted
from mlx_tune.training.adapter import ADAPTED, CONFIG_FILE, WEIGHTS_FILE
from mlx_tune.training.foreign import MAX_SCALE, ForeignAdapter, evened, read_object, read_tensors

_FACTOR = re.compile(r"([A-Za-z0-9_.]+)\.lora_([ab])")
_FIX = "copy the adapter again"


def is_mlx_lm(folder: Path) -> bool:
    """Return whether a folder has an adapter of mlx-lm, by the name of its weights."""
    return (folder / WEIGHTS_FILE).is_file()


def read_mlx_lm(folder: Path) -> ForeignAdapter:
    """Read an adapter that `mlx_lm.lora`, or a program built on it, wrote.

    Raises:
        InputError: A file is missing or damaged, or the adapter is no plain LoRA of linear layers.
        NotFiniteError: A factor holds a NaN or an infinity.
    """
    place = folder / CONFIG_FILE
    if not place.is_file():
        raise InputError(f"{place}: missing, or not a file; mlx-lm writes it beside the weights")
    config = read_object(place, place.read_bytes(), fix=_FIX)
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        reason = "is no sum of a base and a product of two factors"
        raise InputError(f"{place}: fine_tune_type is {quoted(str(kind))}, which {reason}")
    parameters = config.get("lora_parameters")
    scale: Any = parameters.get("scale") if isinstance(parameters, dict) else None
    if type(scale) not in (int, float) or not 0 < scale <= MAX_SCALE:
        raise InputError(f"{place}: lora_parameters.scale is no number above 0; {_FIX}")
    weights = folder / WEIGHTS_FILE
    file = read_tensors(weights, weights.read_bytes(), fix=_FIX)
    factors = _paired(file.arrays, weights)
    base: Any = config.get("model")
    return ForeignAdapter(
        format="mlx-lm",
        adapter=evened(factors, dict.fromkeys(factors, float(scale))),
        base=base if isinstance(base, str) else None,
        sha256=file.sha256,
    )


def _paired(arrays: Mapping[str, mx.array], place: Path) -> dict[str, tuple[mx.array, mx.array]]:
    """Return the factors by module path, float32 (in_dims, rank) and (rank, out_dims)."""
    found: dict[str, dict[str, mx.array]] = {}
    for name, array in sorted(arrays.items()):
        factor = _FACTOR.fullmatch(name)
        if not factor or not factor[1].endswith(tuple(f".{path}" for path in ADAPTED)):
            raise InputError(
                f"{place}: {quoted(name)} is no lora_a or lora_b of a projection of attention or "
                "the MLP; only those are adapted here"
            )
        found.setdefault(factor[1], {})[factor[2]] = array
    if not found:
        raise InputError(f"{place}: holds no factors; expected a lora_a and a lora_b of each layer")
    return {path: _pair(path, pair, place) for path, pair in found.items()}


def _pair(path: str, pair: dict[str, mx.array], place: Path) -> tuple[mx.array, mx.array]:
    if pair.keys() != {"a", "b"}:
        raise InputError(f"{place}: {quoted(path)} has one factor; expected a pair")
    down, up = pair["a"], pair["b"]
    if not all(mx.issubdtype(one.dtype, mx.floating) for one in (down, up)):
        raise InputError(f"{place}: {path}: {down.dtype} and {up.dtype} are no factors' types")
    if down.ndim != 2 or up.ndim != 2 or not 0 < down.shape[1] == up.shape[0]:
        raise InputError(
            f"{place}: {path}: lora_a {[*down.shape]} and lora_b {[*up.shape]} do not fit; "
            "expected (in, rank) and (rank, out)"
        )
    return down.astype(mx.float32), up.astype(mx.float32)
