"""An adapter that another program trained, whatever file it came in."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_tune.training.adapter import Adapter, Factors


@dataclass(frozen=True, kw_only=True)
class ForeignAdapter:
    """What a file or folder of another program holds.

    Attributes:
        adapter: Its factors as float32, of one rank and scale.
        base: What it calls the base model; None where it does not say.
        sha256: Of its weights (hex).
        row_order: llama.cpp's name of the architecture where the rows of attention's projections
            are in its order; None where they are in ours.
    """

    adapter: Adapter
    base: str | None
    sha256: str
    row_order: str | None = None


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
