"""What llama.cpp calls the parts of a model, and in which order it keeps them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""By model_type, llama.cpp's name; another one is neither read nor written."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""By llama.cpp's name of a part of a layer, ours."""

TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""The same of what is no part of a layer."""

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of what Llama 3 divides each frequency by."""

_SUFFIX = ".gguf"

_LAYER_NAMES_BACK = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
_TOP_NAMES_BACK = {ours: theirs for theirs, ours in TOP_NAMES.items()}

Array = TypeVar("Array", bound=Any)  # of MLX or of NumPy


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.lower().endswith(_SUFFIX)


def to_gguf(path: str) -> str | None:
    """Return llama.cpp's name of a module path; None where it has none."""
    if path in _TOP_NAMES_BACK:
        return _TOP_NAMES_BACK[path]
    prefix, _, rest = path.partition("model.layers.")
    number, _, part = rest.partition(".")
    if prefix or part not in _LAYER_NAMES_BACK:
        return None
    return f"blk.{number}.{_LAYER_NAMES_BACK[part]}"


def from_gguf(place: str) -> str | None:
    """Return the module path of llama.cpp's name; None where it is unknown."""
    if place in TOP_NAMES:
        return TOP_NAMES[place]
    prefix, _, rest = place.partition("blk.")
    number, _, part = rest.partition(".")
    if prefix or not number.isdecimal() or part not in LAYER_NAMES:
        return None
    return f"model.layers.{int(number)}.{LAYER_NAMES[part]}"


def rotary_heads(place: str, config: Mapping[str, Any], architecture: str) -> int | None:
    """Return the heads of a module whose rows llama.cpp keeps in pairs; None of any other.

    Args:
        place: llama.cpp's name of the module.
        config: A config.json.
        architecture: llama.cpp's name.
    """
    if architecture != "llama":
        return None
    heads = int(config["num_attention_heads"])
    if place.endswith("attn_q"):
        return heads
    return int(config.get("num_key_value_heads") or heads) if place.endswith("attn_k") else None


def to_pairs(array: Array, heads: int) -> Array:
    """Order rotary rows as llama.cpp does: from halves (i, i+d/2) to pairs (i, i+1)."""
    return _reordered(array, heads, (2, -1))


def to_halves(array: Array, heads: int) -> Array:
    """Undo :func:`to_pairs`."""
    return _reordered(array, heads, (-1, 2))


def _reordered(array: Array, heads: int, shape: Sequence[int]) -> Array:
    split = array.reshape(heads, *shape, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def rope_factors(theta: float, width: int, scaling: Mapping[str, Any]) -> list[float]:
    """Return what Llama 3 divides each frequency by.

    Args:
        theta: The base frequency.
        width: Of a head.
        scaling: ``rope_scaling`` of a config.json, of the type ``llama3``.

    Source:
        The scaling of Llama 3.1, as transformers documents it under ``rope_type`` llama3.
    """
    factor, low, high = (
        float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(scaling["original_max_position_embeddings"])
    factors = []
    for i in range(0, width, 2):
        turns = context / (2 * math.pi * theta ** (i / width))
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors
