"""LoRA adapters of llama.cpp, read: one GGUF file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import ReaderTensor, dequantize

from mlx_tune.errors import InputError
from mlx_tune.models import gguf_names
from mlx_tune.models.gguf_file import FETCH_AGAIN, GgufFile, shown
from mlx_tune.text import quoted
from mlx_tune.training.adapter import PROJECTIONS, Adapter
from mlx_tune.training.foreign import ForeignAdapter, evened

_KINDS = (".lora_a", ".lora_b")


def read_lora_gguf(path: Path) -> ForeignAdapter:
    """Read an adapter that llama.cpp's converter, or `export gguf --lora`, wrote.

    Raises:
        InputError: The file is damaged, or no plain LoRA of linear layers.
    """
    file = GgufFile.read(path)
    kind = (file.fields.get("general.type", "model"), file.fields.get("adapter.type"))
    if kind[0] == "model":
        raise InputError(
            f"{path}: is a whole model, not an adapter; use it as a base: --base {path}"
        )
    if kind != ("adapter", "lora"):
        raise InputError(f"{path}: is a {shown(kind[0])} of type {shown(kind[1])}; expected a LoRA")
    if "adapter.alora.invocation_tokens" in file.fields:
        raise InputError(f"{path}: an activated LoRA changes only what follows certain tokens")
    alpha = file.fields.get("adapter.lora.alpha", 0.0)
    if type(alpha) is not float or not 0 <= alpha < float("inf"):
        raise InputError(f"{path}: adapter.lora.alpha is {shown(alpha)}; expected a number above 0")
    pairs = {place: _pair(file, place) for place in sorted({_place(n, path) for n in file.tensors})}
    if not pairs:
        raise InputError(f"{path}: holds no factors; expected a lora_a and a lora_b of each layer")
    factors = {_module(place, path): pair for place, pair in pairs.items()}
    ranks = {module: down.shape[1] for module, (down, _) in factors.items()}
    scales = {module: alpha / rank if alpha else 1.0 for module, rank in ranks.items()}
    name = file.fields.get("general.base_model.0.repo_url")
    return ForeignAdapter(
        format="gguf",
        adapter=evened(factors, scales),
        base=str(name or file.fields.get("general.base_model.0.name") or "") or None,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        row_order=file.architecture,
    )


def in_our_order(found: ForeignAdapter, config: Mapping[str, Any]) -> Adapter:
    """Return an adapter with the rows of attention's projections in our order.

    Args:
        found: Of any file.
        config: The base's config.json.
    """
    if found.row_order is None:
        return found.adapter
    factors = {}
    for path, (down, up) in found.adapter.factors.items():
        place = str(gguf_names.to_gguf(path))
        heads = gguf_names.rotary_heads(place, config, found.row_order)
        if heads is not None and up.shape[1] % (2 * heads) == 0:  # else it does not fit the base
            up = mx.contiguous(gguf_names.to_halves(up.T, heads).T)
        factors[path] = (down, up)
    return Adapter(factors=factors, rank=found.adapter.rank, scale=found.adapter.scale)


def _place(name: str, path: Path) -> str:
    """Return the module that a tensor is a factor of."""
    place, dot, leaf = name.rpartition(".")
    if dot + leaf not in _KINDS or not place.endswith(".weight"):
        raise InputError(f"{path}: {quoted(name)} is no lora_a or lora_b of a linear layer")
    return place.removesuffix(".weight")


def _module(place: str, path: Path) -> str:
    module = gguf_names.from_gguf(place)
    if module is None or not module.endswith(PROJECTIONS):
        raise InputError(f"{path}: {quoted(place)} is no linear layer of a transformer layer")
    return module


def _pair(file: GgufFile, place: str) -> tuple[mx.array, mx.array]:
    """Return a module's two factors, (in_dims, rank) and (rank, out_dims)."""
    tensors = [file.tensors.get(f"{place}.weight{kind}") for kind in _KINDS]
    down, up = (None if one is None else _values(one) for one in tensors)
    if down is None or up is None:
        raise InputError(f"{file.path}: {quoted(place)} has one factor; expected a pair")
    if down.ndim != 2 or up.ndim != 2 or not 0 < down.shape[0] == up.shape[1]:
        raise InputError(
            f"{file.path}: {place}: lora_a {[*down.shape]} and lora_b {[*up.shape]} do not fit; "
            "expected (rank, in) and (out, rank)"
        )
    if not mx.isfinite(down).all().item() or not mx.isfinite(up).all().item():
        raise InputError(f"{file.path}: {place} holds a NaN or an infinity; {FETCH_AGAIN}")
    return down.T, up.T


def _values(tensor: ReaderTensor) -> mx.array:
    return mx.array(np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
