"""Writes a model as one GGUF file, which llama.cpp, Ollama and LM Studio load.

llama.cpp has its own names for tensors, keeps the rotary rows of a Llama in another order, and asks
a file how to split text before byte-pair encoding. What it has no name for is refused.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType
from gguf.quants import dequantize, quantize
from mlx.utils import tree_flatten

from mlx_tune.errors import InputError, UsageError
from mlx_tune.models import model_files
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.gguf_names import (
    ARCHITECTURES,
    ROPE_FACTORS,
    rope_factors,
    rotary_heads,
    to_gguf,
    to_pairs,
)
from mlx_tune.models.gguf_tokenizer import SENTENCE_PIECE, Vocabulary, to_vocabulary
from mlx_tune.models.load import Base

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""What matrices may be written as; norms and biases are always float32."""

_F16_MOST = 65504.0


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
    vocabulary = to_vocabulary(
        json.loads(base.tokenizer.wrapper.backend_tokenizer.to_str()),
        int(config["vocab_size"]),
        has_template=base.tokenizer.template is not None,
        name=base.info.name,
    )
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
    if name not in ARCHITECTURES:
        raise InputError(
            f"{info.name}: {name} is not written as GGUF; known: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


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
    theta, kind, scaling = _rope(base)
    if kind == "llama3":
        factors = rope_factors(theta, _head_dim(config), scaling)
        found[ROPE_FACTORS] = mx.array(factors, dtype=mx.float32)
    return found


def _place(path: str, info: BaseInfo) -> str:
    """Return llama.cpp's name for a module."""
    place = to_gguf(path)
    if place is None:
        raise InputError(f"{info.name}: {path} has no name in GGUF")
    return place


def _in_order(
    array: mx.array, place: str, config: Mapping[str, Any], architecture: str
) -> mx.array:
    """Return the rows of a module as llama.cpp keeps them."""
    heads = rotary_heads(place, config, architecture)
    return array if heads is None else to_pairs(array, heads)


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


def _add_tokenizer(writer: GGUFWriter, base: Base, vocabulary: Vocabulary) -> None:
    wrapper = base.tokenizer.wrapper
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:  # an empty list is no GGUF array
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.kind == SENTENCE_PIECE:
        writer.add_add_space_prefix(vocabulary.adds_space)
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
