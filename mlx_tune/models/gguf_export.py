"""Writes a model as one GGUF file, which llama.cpp, Ollama and LM Studio load.

llama.cpp has its own names for tensors, keeps the rotary rows of a Llama in another order, and asks
a file how to split text before byte-pair encoding. What it has no name for is refused.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType, TokenType
from gguf.quants import dequantize, quantize
from mlx.utils import tree_flatten

from mlx_tune.errors import InputError, UsageError
from mlx_tune.models import model_files
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.gguf import LAYER_NAMES, TOP_NAMES
from mlx_tune.models.load import Base

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""What matrices may be written as; norms and biases are always float32."""

_F16_MOST = 65504.0

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""By model_type, llama.cpp's name."""

_LEAVES = {
    **{ours: theirs for theirs, ours in LAYER_NAMES.items()},
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
_TOPS = {ours: theirs for theirs, ours in TOP_NAMES.items()}

_GPT4_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_GPT4_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _GPT4_WORDS + r"\p{N}{1,3}" + _GPT4_REST: "llama-bpe",
    _GPT4_WORDS + r"\p{N}" + _GPT4_REST: "qwen2",
}
"""By the pattern that splits text, llama.cpp's name for it."""


@dataclass(frozen=True, kw_only=True)
class _Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        pre: How text is split before byte-pair encoding, in llama.cpp's words.
        tokens: Every token's text by its id.
        kinds: Of which type each is.
        merges: Two tokens each, in order of their rank.
    """

    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]


def check_type(kind: str) -> None:
    """Refuse a type that is not written.

    Raises:
        UsageError: It is none of ``TYPES``.
    """
    if kind not in TYPES:
        raise UsageError(f"type {kind[:40]!r} is not written; known: {', '.join(TYPES)}")


def default_type(info: BaseInfo) -> str:
    """Return bf16 where a base's weights are that, else f16."""
    found = model_files.tensors(info.folder, fix=info.fix).values()
    return "bf16" if any(tensor.dtype == "BF16" for _, tensor in found) else "f16"


def round_trip(kind: str) -> Callable[[mx.array], mx.array]:
    """Return what stores a matrix as a type and reads it: (out_dims, in_dims) to the same shape."""

    def stored(weight: mx.array) -> mx.array:
        dtype = _stored_as(weight, TYPES[kind][0])
        packed = quantize(np.array(weight.astype(mx.float32)), dtype)
        return mx.array(dequantize(packed, dtype).astype(np.float32))

    return stored


def write_gguf(path: Path, base: Base, config: Mapping[str, Any], kind: str) -> None:
    """Write a model with its tokenizer and chat template.

    Args:
        path: A file that does not exist yet.
        base: The model, nothing of it quantised.
        config: Its config.json.
        kind: One of ``TYPES``.

    Raises:
        UsageError: There is no such type.
        InputError: llama.cpp has no name for the architecture, the tokenizer or the way positions
            are scaled; or a weight is too large for float16.
    """
    check_type(kind)
    dtype, file_type = TYPES[kind]
    architecture = _architecture(base.info, config)
    vocabulary = _vocabulary(base, int(config["vocab_size"]))
    weights = _weights(base, config, architecture)
    with contextlib.closing(GGUFWriter(path, architecture)) as writer:
        writer.add_file_type(file_type)
        _add_config(writer, base, config)
        _add_tokenizer(writer, base, vocabulary)
        _write_tensors(writer, weights, dtype)


def write_lora(
    path: Path, factors: Mapping[str, tuple[mx.array, mx.array]], alpha: float, info: BaseInfo
) -> None:
    """Write a LoRA adapter that llama.cpp loads beside the base's own GGUF file.

    Args:
        path: A file that does not exist yet.
        factors: By module path, float32 (in_dims, rank) and (rank, out_dims).
        alpha: llama.cpp multiplies their product by this over the rank.
        info: The base.

    Raises:
        InputError: llama.cpp has no name for the architecture or a module.
    """
    architecture = _architecture(info, info.config)
    weights = {}
    for module, (lora_a, lora_b) in sorted(factors.items()):
        place = _place(module, info)
        weights[f"{place}.weight.lora_a"] = lora_a.T
        weights[f"{place}.weight.lora_b"] = _in_order(lora_b.T, place, info.config, architecture)
    with contextlib.closing(GGUFWriter(path, architecture)) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        _write_tensors(writer, weights, GGMLQuantizationType.F32)


def _architecture(info: BaseInfo, config: Mapping[str, Any]) -> str:
    name = str(config.get("model_type"))
    if name not in _ARCHITECTURES:
        raise InputError(
            f"{info.name}: {name} is not written as GGUF; known: {', '.join(_ARCHITECTURES)}"
        )
    return _ARCHITECTURES[name]


def _write_tensors(
    writer: GGUFWriter, weights: dict[str, mx.array], dtype: GGMLQuantizationType
) -> None:
    """Write all names and shapes, then one tensor at a time, for they are gigabytes."""
    kinds = {name: _stored_as(array, dtype) for name, array in weights.items()}
    for name, kind in kinds.items():
        *outer, width = weights[name].shape
        row = quantize(np.zeros((1, width), dtype=np.float32), kind)
        shape = (*outer, row.shape[-1] if row.dtype == np.uint8 else width)  # bytes, if packed
        size = row.nbytes * math.prod(outer)
        writer.add_tensor_info(name, shape, row.dtype, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, kind in kinds.items():
        values = np.array(weights.pop(name).astype(mx.float32))
        if kind == GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > _F16_MOST:
            raise InputError(f"{name}: has weights too large for float16; take bf16 or f32")
        writer.write_tensor_data(quantize(values, kind))


def _stored_as(array: mx.array, dtype: GGMLQuantizationType) -> GGMLQuantizationType:
    if array.ndim == 1:
        return GGMLQuantizationType.F32
    if dtype == GGMLQuantizationType.Q8_0 and array.shape[-1] % 32:
        return GGMLQuantizationType.F16
    return dtype


def _weights(base: Base, config: Mapping[str, Any], architecture: str) -> dict[str, mx.array]:
    """Return the tensors by llama.cpp's names, lazily."""
    found = {}
    for name, array in tree_flatten(base.model.parameters()):
        path, _, leaf = name.rpartition(".")
        place = _place(path, base.info)
        found[f"{place}.{leaf}"] = _in_order(array, place, config, architecture)
    if factors := _rope_factors(base, _head_dim(config)):
        found["rope_freqs.weight"] = mx.array(factors, dtype=mx.float32)
    return found


def _place(path: str, info: BaseInfo) -> str:
    """Return llama.cpp's name for a module."""
    if path in _TOPS:
        return _TOPS[path]
    prefix, _, rest = path.partition("model.layers.")
    number, _, part = rest.partition(".")
    if prefix or part not in _LEAVES:
        raise InputError(f"{info.name}: {path} has no name in GGUF")
    return f"blk.{number}.{_LEAVES[part]}"


def _in_order(
    array: mx.array, place: str, config: Mapping[str, Any], architecture: str
) -> mx.array:
    """Return the rows of a module as llama.cpp keeps them.

    Rotary rows of a Llama go from halves (i, i+d/2) to pairs (i, i+1).
    """
    heads = int(config["num_attention_heads"])
    if place.endswith("attn_k"):
        heads = int(config.get("num_key_value_heads") or heads)
    elif not place.endswith("attn_q"):
        return array
    if architecture != "llama":
        return array
    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def _rope(base: Base) -> tuple[float, str, Mapping[str, Any]]:
    """Return the base frequency, how positions are scaled, and by what numbers.

    The model is asked, not its config, which has them in places that differ by version.
    """
    args: Any = base.model.args
    scaling = args.rope_scaling or {}
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in ("default", "linear", "llama3"):
        raise InputError(f"{base.info.name}: rope_scaling {kind} is not written as GGUF")
    if "sliding_attention" in (getattr(args, "layer_types", None) or ()):
        raise InputError(f"{base.info.name}: sliding attention is not written as GGUF")
    return float(args.rope_theta), kind, scaling


def _rope_factors(base: Base, width: int) -> list[float]:
    """Return what Llama 3 divides each frequency by; nothing where they are as they are.

    Source:
        The scaling of Llama 3.1, as transformers documents it under ``rope_type`` llama3.
    """
    theta, kind, scaling = _rope(base)
    if kind != "llama3":
        return []
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


def _head_dim(config: Mapping[str, Any]) -> int:
    own = config.get("head_dim")
    return int(own or config["hidden_size"] // config["num_attention_heads"])


def _add_config(writer: GGUFWriter, base: Base, config: Mapping[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    writer.add_name(base.info.name_elsewhere)
    writer.add_context_length(int(config.get("max_position_embeddings") or 2048))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    theta, kind, scaling = _rope(base)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(int(config["vocab_size"]))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))


def _add_tokenizer(writer: GGUFWriter, base: Base, vocabulary: _Vocabulary) -> None:
    wrapper = base.tokenizer.wrapper
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.merges:  # an empty list is no GGUF array
        writer.add_token_merges(vocabulary.merges)
    for add, number in (
        (writer.add_bos_token_id, wrapper.bos_token_id),
        (writer.add_eos_token_id, wrapper.eos_token_id),
        (writer.add_unk_token_id, wrapper.unk_token_id),
        (writer.add_pad_token_id, wrapper.pad_token_id),
    ):
        if number is not None:
            add(number)
    others = base.tokenizer.end_ids - {wrapper.eos_token_id}
    if len(others) == 1:  # of several llama.cpp knows the published ones by their texts
        writer.add_eot_token_id(*others)
    writer.add_add_bos_token(bool(base.tokenizer.start_text))
    if base.tokenizer.template is not None:
        writer.add_chat_template(base.tokenizer.template)


def _vocabulary(base: Base, size: int) -> _Vocabulary:
    """Return a byte-level BPE tokenizer's tokens; others are refused."""
    raw = json.loads(base.tokenizer.wrapper.backend_tokenizer.to_str())
    model = raw["model"]
    pre = _pre_tokenizer(raw.get("pre_tokenizer"))
    if model.get("type") != "BPE" or pre is None or raw.get("normalizer") not in _NORMALIZERS:
        raise InputError(
            f"{base.info.name}: its tokenizer is none that is written as GGUF; known are the "
            "byte-level ones of SmolLM2, Llama 3, Qwen2 and GPT-2"
        )
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [int(TokenType.UNUSED)] * size
    added = {one["id"]: one for one in raw["added_tokens"]}
    texts = {i: text for text, i in model["vocab"].items()}
    texts |= {i: one["content"] for i, one in added.items()}
    if max(texts) >= size:
        raise InputError(f"{base.info.name}: token {max(texts)} is beyond its {size} embeddings")
    for i, text in texts.items():
        kind = TokenType.NORMAL
        if i in added:
            kind = TokenType.CONTROL if added[i]["special"] else TokenType.USER_DEFINED
        tokens[i], kinds[i] = text, int(kind)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    return _Vocabulary(pre=pre, tokens=tokens, kinds=kinds, merges=merges)


_NORMALIZERS = (None, {"type": "NFC"})  # Qwen2's; llama.cpp leaves text as it is


def _pre_tokenizer(found: Any) -> str | None:
    """Return llama.cpp's name for how a tokenizer splits text; None where it has none."""
    *before, last = [*_parts(found)] or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    splits = last.get("use_regex", True)
    if not before:
        return "gpt-2" if splits else None
    first = before[0]
    if len(before) > 1:
        return None
    if first["type"] == "Digits":
        return "smollm" if splits and first["individual_digits"] else None
    is_plain = first["type"] == "Split" and first["behavior"] == "Isolated" and not first["invert"]
    return _SPLITS.get(first["pattern"].get("Regex", "")) if is_plain and not splits else None


def _parts(found: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(found, dict):
        return
    if found.get("type") == "Sequence":
        for one in found["pretokenizers"]:
            yield from _parts(one)
    else:
        yield found
