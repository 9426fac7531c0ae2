"""A LoRA adapter: its factors, its scale, and the two files that mlx-lm reads."""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from safetensors.numpy import load as parse_safetensors

from mlx_tune.errors import IncompatibleError
from mlx_tune.store.adapter_check import CONFIG_FILE as CONFIG_FILE
from mlx_tune.store.adapter_check import WEIGHTS_FILE as WEIGHTS_FILE
from mlx_tune.store.adapter_check import check_adapter, check_factors

Factors = Mapping[str, tuple[mx.array, mx.array]]
"""By module path (``model.layers.0.self_attn.q_proj``): ``lora_a`` float32 (in_dims, rank) and
``lora_b`` float32 (rank, out_dims)."""

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

MERGED_PROJECTIONS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Layers that do the work of several of them, as Phi-3 has them; adapted likewise."""

ADAPTED = (*PROJECTIONS, *MERGED_PROJECTIONS)
"""All that may be adapted."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained low-rank factors.

    Attributes:
        factors: The factors of every adapted layer.
        rank: The inner dimension.
        scale: Multiplier of the product ``lora_a @ lora_b``: alpha / rank.
    """

    factors: Factors
    rank: int
    scale: float

    def files(self, num_layers: int) -> dict[str, bytes]:
        """Return the adapter in mlx-lm's names and format: file name to bytes."""
        parameters = {"rank": self.rank, "scale": self.scale, "dropout": 0.0}
        keys = [name for name in ADAPTED if any(path.endswith(name) for path in self.factors)]
        config = {
            "fine_tune_type": "lora",
            "num_layers": num_layers,
            "lora_parameters": {**parameters, "keys": keys},
        }
        text = json.dumps(config, indent=2) + "\n"
        weights = to_safetensors(flatten_factors(self.factors))
        return {WEIGHTS_FILE: weights, CONFIG_FILE: text.encode()}

    @staticmethod
    def from_files(weights: bytes, config: bytes, *, place: str) -> "Adapter":
        """Read an adapter back; the inverse of :meth:`files`.

        Args:
            weights: The bytes of adapters.safetensors. They are checked before they are loaded.
            config: The bytes of adapter_config.json.
            place: The session or folder they belong to, for messages.

        Raises:
            DamagedStoreError: A file is malformed.
            InputError: A layer has only one factor, or a factor is not float32 or holds a NaN or an
                infinity.
            IncompatibleError: The rank of the factors differs from the rank in the config.
        """
        checked = check_adapter(weights, config, place)
        factors = unflatten_factors(_arrays(weights), checked.paths)
        return Adapter(factors=factors, rank=checked.rank, scale=checked.scale)


def init_adapter(
    model: nn.Module, *, rank: int, scale: float, seed: int
) -> tuple[Adapter, list[str]]:
    """Return a new adapter for all projections of every layer.

    ``lora_a`` is initialised as mlx-lm does it, uniform in ±1/√in_dims; ``lora_b`` is zero, so the
    model's outputs do not change yet.

    Args:
        model: An mlx-lm language model.
        rank: The inner dimension.
        scale: Multiplier of the product.
        seed: Seed of ``lora_a``.

    Returns:
        The adapter, and the projections that some layer of this architecture lacks, because it
        names them otherwise.

    Raises:
        IncompatibleError: The architecture has none of these projections.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, tuple[int, int]] = {}
    missing: set[str] = set()
    for layer in model.layers:
        modules = dict(layer.named_modules())
        adapted = [path for path in ADAPTED if path in modules]
        for path in adapted:
            found[f"{paths[id(layer)]}.{path}"] = dimensions(modules[path])
        merged = {part for path in adapted for part in MERGED_PROJECTIONS.get(path, ())}
        missing |= {*PROJECTIONS} - {*adapted} - merged
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


def joined(adapters: Sequence[Adapter]) -> Adapter:
    """Return one adapter that changes what several change together; its rank is the sum of theirs.

    Args:
        adapters: At least one. A module that one of them lacks has zeros in its place.
    """
    if len(adapters) == 1:
        return adapters[0]
    scales = {adapter.scale for adapter in adapters}
    scale = scales.pop() if len(scales) == 1 else 1.0
    shapes = {
        path: (lora_a.shape[0], lora_b.shape[1])
        for adapter in adapters
        for path, (lora_a, lora_b) in adapter.factors.items()
    }
    factors = {}
    for path, (in_dims, out_dims) in sorted(shapes.items()):
        down, up = [], []
        for one in adapters:
            empty = mx.zeros((in_dims, one.rank)), mx.zeros((one.rank, out_dims))
            lora_a, lora_b = one.factors.get(path, empty)
            down.append(lora_a)
            up.append(lora_b if one.scale == scale else lora_b * (one.scale / scale))
        factors[path] = (mx.concatenate(down, axis=1), mx.concatenate(up, axis=0))
    mx.eval(factors)
    return Adapter(factors=factors, rank=sum(one.rank for one in adapters), scale=scale)


def base_layer(linear: nn.Module) -> nn.Module:
    """Return the linear layer itself where LoRA layers are wrapped around it."""
    while "linear" in linear:  # mlx-lm's LoRALinear, and UnmergedLinear of continual/fold.py
        linear = linear["linear"]
    return linear


def dimensions(linear: nn.Module) -> tuple[int, int]:
    """Return (in_dims, out_dims) of a linear layer, quantised or not, wrapped or not."""
    linear = base_layer(linear)
    out_dims, in_dims = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        in_dims = in_dims * 32 // linear.bits
    return in_dims, out_dims


def flatten_factors(factors: Factors, prefix: str = "") -> dict[str, mx.array]:
    """Return factors by the names they have in files: ``{prefix}{path}.lora_a`` and ``.lora_b``."""
    arrays = {}
    for path, (lora_a, lora_b) in factors.items():
        arrays[f"{prefix}{path}.lora_a"], arrays[f"{prefix}{path}.lora_b"] = lora_a, lora_b
    return arrays


def unflatten_factors(
    arrays: Mapping[str, mx.array], paths: Iterable[str], prefix: str = ""
) -> dict[str, tuple[mx.array, mx.array]]:
    """Return the factors of these module paths; the inverse of :func:`flatten_factors`."""
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
    """Return the arrays of a safetensors file; every number must be a finite float32.

    Args:
        data: The bytes of the file. They are checked before they are loaded.
        place: The name of the file, for messages.

    Raises:
        DamagedStoreError: The file is malformed.
        InputError: An array has another type, or holds a NaN or an infinity.
    """
    check_factors(data, place)
    return _arrays(data)


def _arrays(data: bytes) -> dict[str, mx.array]:
    """Return the arrays of checked bytes, read by the reader of the safetensors package."""
    return {name: mx.array(array) for name, array in parse_safetensors(data).items()}
