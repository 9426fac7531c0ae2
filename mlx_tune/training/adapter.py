"""A LoRA adapter: its factors, its scale, and the two files that mlx-lm reads."""

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

from mlx_tune.errors import IncompatibleError, InputError
from mlx_tune.training.joined import Factors

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The linear layers that are adapted, in every transformer layer."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained low-rank factors.

    Attributes:
        factors: By module path (``model.layers.0.self_attn.q_proj``): ``lora_a`` float32
            (in_dims, rank) and ``lora_b`` float32 (rank, out_dims).
        rank: The inner dimension.
        scale: Multiplier of the product, alpha / rank.
    """

    factors: Factors
    rank: int
    scale: float

    def files(self, num_layers: int) -> dict[str, bytes]:
        """Return the adapter in mlx-lm's names and format: file name to bytes."""
        arrays = named(self.factors)
        config = {
            "fine_tune_type": "lora",
            "num_layers": num_layers,
            "lora_parameters": {
                "rank": self.rank,
                "scale": self.scale,
                "dropout": 0.0,
                "keys": list(PROJECTIONS),
            },
        }
        text = json.dumps(config, indent=2) + "\n"
        return {WEIGHTS_FILE: to_safetensors(arrays), CONFIG_FILE: text.encode()}

    @staticmethod
    def from_files(weights: bytes, config: bytes, *, place: str) -> "Adapter":
        """Read an adapter back; the inverse of :meth:`files`.

        Args:
            weights: adapters.safetensors, checked by the strict reader of the format's authors.
            config: adapter_config.json.
            place: Whose they are, for messages.

        Raises:
            InputError: A file is malformed, a factor lacks its partner, or a number is not finite.
        """
        parameters = json.loads(config)["lora_parameters"]
        arrays = from_safetensors(weights, place=f"{place}/{WEIGHTS_FILE}")
        factors = {}
        for name in sorted(arrays):
            path, _, leaf = name.rpartition(".")
            if f"{path}.lora_a" not in arrays or f"{path}.lora_b" not in arrays:
                raise InputError(f"{place}/{WEIGHTS_FILE}: {name} stands alone; expected a pair")
            if leaf == "lora_a":
                factors[path] = (arrays[name], arrays[f"{path}.lora_b"])
        return Adapter(factors=factors, rank=parameters["rank"], scale=parameters["scale"])


def fresh(model: nn.Module, *, rank: int, scale: float, seed: int) -> tuple[Adapter, list[str]]:
    """Return a new adapter for all seven projections of every layer.

    A is drawn as mlx-lm draws it, uniform within 1/√in_dims; B is zero, so the model's function
    is unchanged.

    Returns:
        The adapter, and the projections that this architecture lacks in some layer, having merged
        or renamed them.

    Raises:
        IncompatibleError: The architecture has none of these projections.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, tuple[int, int]] = {}
    missing: set[str] = set()
    for layer in model.layers:
        modules = dict(layer.named_modules())
        missing.update(path for path in PROJECTIONS if path not in modules)
        for path in PROJECTIONS:
            if path in modules:
                found[f"{paths[id(layer)]}.{path}"] = dimensions(modules[path])
    if not found:
        raise IncompatibleError(
            f"{type(model).__module__}: has none of the projections {', '.join(PROJECTIONS)}"
        )
    keys = mx.random.split(mx.random.key(seed), len(found))
    factors = {}
    for key, (path, (in_dims, out_dims)) in zip(keys, found.items(), strict=True):
        bound = 1 / math.sqrt(in_dims)
        lora_a = mx.random.uniform(-bound, bound, (in_dims, rank), key=key)
        factors[path] = (lora_a, mx.zeros((rank, out_dims)))
    mx.eval(factors)
    adapter = Adapter(factors=factors, rank=rank, scale=scale)
    return adapter, [path for path in PROJECTIONS if path in missing]


def dimensions(linear: nn.Module) -> tuple[int, int]:
    """Return (in_dims, out_dims) of a linear layer, quantised or not."""
    if hasattr(linear, "linear"):  # wrapped: see continual/fold.py
        return dimensions(linear.linear)
    out_dims, in_dims = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        in_dims = in_dims * 32 // linear.bits
    return in_dims, out_dims


def named(factors: Factors, prefix: str = "") -> dict[str, mx.array]:
    """Return factors by the names that files have for them."""
    arrays = {}
    for path, (lora_a, lora_b) in factors.items():
        arrays[f"{prefix}{path}.lora_a"], arrays[f"{prefix}{path}.lora_b"] = lora_a, lora_b
    return arrays


def unnamed(
    arrays: Mapping[str, mx.array], paths: Iterable[str], prefix: str = ""
) -> dict[str, tuple[mx.array, mx.array]]:
    """Return the factors of paths from named arrays; the inverse of :func:`named`."""
    return {
        path: (arrays[f"{prefix}{path}.lora_a"], arrays[f"{prefix}{path}.lora_b"]) for path in paths
    }


def to_safetensors(arrays: Mapping[str, mx.array]) -> bytes:
    """Return arrays as the bytes of a safetensors file, in name order."""
    buffer = io.BytesIO()
    ordered = {name: arrays[name] for name in sorted(arrays)}
    mx.save_safetensors(buffer, ordered, metadata={"format": "mlx"})
    return buffer.getvalue()


def from_safetensors(data: bytes, *, place: str) -> dict[str, mx.array]:
    """Read the bytes of a safetensors file strictly; every number must be finite.

    Raises:
        InputError: Malformed, or a NaN or an infinity inside.
    """
    try:
        arrays: dict[str, np.ndarray[Any, Any]] = parse_safetensors(data)
    except SafetensorError as error:
        raise InputError(f"{place}: {error}; the file is damaged") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{place}: {name} holds numbers that are not finite")
    return {name: mx.array(array) for name, array in arrays.items()}
