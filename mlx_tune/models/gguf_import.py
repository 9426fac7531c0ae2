"""Converts a GGUF file to an MLX model folder, with its tokenizer and chat template.

Nothing of it is left to transformers, so that an upgrade cannot change a converted base model and
its fingerprint.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, dequantize
from tokenizers import Tokenizer

from mlx_tune.errors import InputError
from mlx_tune.models import gguf_names, gguf_tokenizer
from mlx_tune.models.gguf_file import FETCH_AGAIN, GgufFile, shown
from mlx_tune.models.gguf_names import ROPE_FACTORS, from_gguf, rope_factors, to_halves
from mlx_tune.models.gguf_tokenizer import BYTE_LEVEL, SENTENCE_PIECE, Vocabulary
from mlx_tune.text import quoted

_WHOLE_TYPES = {  # the widest first
    GGMLQuantizationType.F32: mx.float32,
    GGMLQuantizationType.F16: mx.float16,
    GGMLQuantizationType.BF16: mx.bfloat16,
}
_SHARD_BYTES = 2 * 10**9  # held in memory before it is written

_LLAMA_3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_3_FACTORS = (8.0, 32.0)  # Llama 3.1's and 3.2's; a file holds only what they come to


def convert(path: Path, folder: Path, *, dtype: mx.Dtype | None = None) -> None:
    """Write the model of a GGUF file as safetensors, config and tokenizer.

    Args:
        path: A GGUF file of a Llama, Mistral, Qwen2 or Qwen3.
        folder: An existing, empty folder for the model.
        dtype: Of the weights; None for the file's own, and bfloat16 where it is quantised.

    Raises:
        InputError: The file is damaged or a part of one, or has an architecture, a tokenizer or
            positions that are unknown here.
    """
    file = GgufFile.read(path)
    try:
        described = _described(file)
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        # Any field may be of any type, and a number infinite or none.
        raise InputError(
            f"{path}: a field is not what it should be ({quoted(str(error)[:80])}); {FETCH_AGAIN}"
        ) from None
    config = described["config.json"]
    dtype = dtype or _dtype(file)
    config["torch_dtype"] = str(dtype).removeprefix("mlx.core.")
    _write_weights(file, config, folder, dtype)
    for name, value in described.items():
        _write_json(folder / name, value)


def _described(file: GgufFile) -> dict[str, dict[str, Any]]:
    """Return what a model folder has beside the weights, by file name; refuse what is unknown."""
    _check_kind(file)
    config = _config(file)
    _check_shapes(file, config)
    vocabulary = _vocabulary(file)
    start = _token(file, "bos") if _starts_text(file, vocabulary) else None
    tokenizer = gguf_tokenizer.to_tokenizer_json(vocabulary, start=start)
    _check_tokenizer(file, tokenizer)
    found = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": _tokenizer_config(file),
    }
    ends = [number for name in ("eos", "eot") if (number := _token(file, name)) is not None]
    if len({*ends}) > 1 or config["eos_token_id"] is None:
        found["generation_config.json"] = {"eos_token_id": ends}
    return found


def _check_kind(file: GgufFile) -> None:
    """Refuse what is no whole model."""
    path = file.path
    if int(file.fields.get("split.count") or 1) > 1:
        raise InputError(
            f"{path}: is a part of a model; join the parts with `llama-gguf-split --merge`"
        )
    kind = file.fields.get("general.type", "model")
    if kind == "adapter":
        raise InputError(f"{path}: is an adapter, not a model; take it with: mlx-tune import")
    if kind != "model":
        raise InputError(f"{path}: is no model but a file of type {shown(kind)}")


def _config(file: GgufFile) -> dict[str, Any]:
    heads = int(file.of_model("attention.head_count"))
    if heads < 1:
        raise InputError(f"{file.path}: has {heads} attention heads")
    hidden = int(file.of_model("embedding_length"))
    width = int(file.of_model("attention.key_length", hidden // heads))
    for key, allowed in (
        ("attention.value_length", width),
        ("rope.dimension_count", width),
        ("expert_count", 0),
    ):
        found = int(file.of_model(key, allowed))
        if found != allowed:
            raise InputError(
                f"{file.path}: {file.architecture}.{key} is {found}, which is not read as GGUF; "
                f"expected {allowed}"
            )
    theta = float(file.of_model("rope.freq_base", 10000.0))
    scaling = _rope_scaling(file, theta, width)
    config = {
        "architectures": [f"{file.architecture.capitalize()}ForCausalLM"],
        "model_type": file.architecture,
        "hidden_size": hidden,
        "intermediate_size": int(file.of_model("feed_forward_length")),
        "num_hidden_layers": int(file.of_model("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(file.of_model("attention.head_count_kv", heads)),
        "head_dim": width,
        "max_position_embeddings": int(file.of_model("context_length")),
        "rms_norm_eps": file.of_model("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "vocab_size": _embeddings(file),
        "bos_token_id": _token(file, "bos"),
        "eos_token_id": _token(file, "eos"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    if scaling is not None:
        config["rope_scaling"] = scaling
    if file.architecture == "llama" and "blk.0.attn_q.bias" in file.tensors:
        config["attention_bias"] = True
    return config


def _embeddings(file: GgufFile) -> int:
    """Return how many tokens have an embedding, those that pad the matrix included."""
    tensor = file.tensors.get("token_embd.weight")
    if tensor is None or len(tensor.shape) != 2:
        raise InputError(f"{file.path}: has no token_embd.weight; {FETCH_AGAIN}")
    tokens, rows = len(file.fields.get("tokenizer.ggml.tokens") or ()), int(tensor.shape[1])
    if not 0 < tokens <= rows:
        raise InputError(f"{file.path}: has {tokens} tokens and {rows} embeddings")
    return rows


def _rope_scaling(file: GgufFile, theta: float, width: int) -> dict[str, Any] | None:
    """Return how positions are scaled, as a config.json says it."""
    kind = file.fields.get(f"{file.architecture}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise InputError(f"{file.path}: positions scaled by {shown(kind)} are not read as GGUF")
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is not None:
        stored = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float64)
        for factor in _LLAMA_3_FACTORS if 2 * stored.size == width else ():
            scaling = {**_LLAMA_3, "factor": factor}
            wanted = np.asarray(rope_factors(theta, width, scaling))
            if stored.shape == wanted.shape and np.allclose(stored, wanted, rtol=1e-5):
                return scaling
        raise InputError(f"{file.path}: {ROPE_FACTORS} is not what Llama 3.1 or 3.2 has")
    factor = float(file.of_model("rope.scaling.factor", 1.0))
    return {"rope_type": "linear", "factor": factor} if kind == "linear" else None


def _check_shapes(file: GgufFile, config: Mapping[str, Any]) -> None:
    """Refuse a file that lacks a tensor, or has one of another shape than it says."""
    layers = config["num_hidden_layers"]
    if not 0 < layers <= len(file.tensors):  # before so many names are made
        raise InputError(f"{file.path}: has {len(file.tensors)} tensors for {layers} layers")
    wanted = _shapes(file, config)
    found = {name: tuple(map(int, reversed(one.shape))) for name, one in file.tensors.items()}
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"{file.path}: has no {name}; {FETCH_AGAIN}")
        if found[name] != shape:
            raise InputError(f"{file.path}: {name} is {[*found[name]]}; expected {[*shape]}")
    for name in found.keys() - wanted.keys() - {ROPE_FACTORS}:
        raise InputError(f"{file.path}: {quoted(name)} is no part of a {file.architecture}")


def _shapes(file: GgufFile, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape, (out, in), of every tensor that a model of a config has."""
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    asked = config["num_attention_heads"] * width
    kept = config["num_key_value_heads"] * width
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (asked, hidden),
        "attn_k.weight": (kept, hidden),
        "attn_v.weight": (kept, hidden),
        "attn_output.weight": (hidden, asked),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if file.architecture == "qwen3":
        layer |= {"attn_q_norm.weight": (width,), "attn_k_norm.weight": (width,)}
    if file.architecture == "qwen2" or config.get("attention_bias"):
        layer |= {"attn_q.bias": (asked,), "attn_k.bias": (kept,), "attn_v.bias": (kept,)}
    if config.get("attention_bias"):  # a Llama's; a Qwen2 has none there
        layer["attn_output.bias"] = (hidden,)
    shapes = {
        f"blk.{i}.{name}": shape
        for i in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    shapes["token_embd.weight"] = (config["vocab_size"], hidden)
    shapes["output_norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["output.weight"] = (config["vocab_size"], hidden)
    return shapes


def _dtype(file: GgufFile) -> mx.Dtype:
    """Return the type of the matrices, the widest where there are several."""
    types = {tensor.tensor_type for tensor in file.tensors.values() if len(tensor.shape) > 1}
    for kind, dtype in _WHOLE_TYPES.items():
        if kind in types and types <= _WHOLE_TYPES.keys():
            return dtype
    return mx.bfloat16


def _write_weights(
    file: GgufFile, config: Mapping[str, Any], folder: Path, dtype: mx.Dtype
) -> None:
    """Write every tensor, in files of a size that memory holds."""
    shards: list[list[str]] = [[]]
    held = 0
    for name in sorted(file.tensors.keys() - {ROPE_FACTORS}):
        size = math.prod(map(int, file.tensors[name].shape)) * dtype.size
        if shards[-1] and held + size > _SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        place = folder / f"model{part}.safetensors"
        weights = dict(_weights(file, config, names, dtype))
        mx.save_safetensors(str(place), weights, metadata={"format": "mlx"})
        index |= dict.fromkeys(weights, place.name)
    if len(shards) > 1:
        _write_json(folder / "model.safetensors.index.json", {"weight_map": index})


def _weights(
    file: GgufFile, config: Mapping[str, Any], names: Sequence[str], dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """Yield each tensor's MLX name and its values, (out, in) of a matrix."""
    for name in names:
        tensor = file.tensors[name]
        place, _, leaf = name.rpartition(".")
        heads = gguf_names.rotary_heads(place, config, file.architecture)
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        array = mx.array(values if heads is None else to_halves(values, heads)).astype(dtype)
        if not mx.isfinite(array).all().item():
            raise InputError(
                f"{file.path}: {name} holds what is no number of {dtype}; {FETCH_AGAIN}"
            )
        yield f"{from_gguf(place)}.{leaf}", array


def _vocabulary(file: GgufFile) -> Vocabulary:
    kind, pre = (file.fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    known = gguf_tokenizer.split_name(pre)
    if kind != SENTENCE_PIECE and (kind != BYTE_LEVEL or known is None):
        raise InputError(
            f"{file.path}: tokenizer {shown(kind)}, split as {shown(pre)}, is not read as GGUF; "
            "known are those of SmolLM2, Llama 3, Qwen2 and GPT-2, and SentencePiece's BPE"
        )
    tokens = file.fields["tokenizer.ggml.tokens"]
    listed = {"types": "token_type", "merges": "merges", "scores": "scores"}
    found = {ours: file.fields.get(f"tokenizer.ggml.{key}") or [] for ours, key in listed.items()}
    for key in ("types", "scores") if kind == SENTENCE_PIECE else ("types",):
        if len(found[key]) != len(tokens):
            raise InputError(
                f"{file.path}: {len(tokens)} tokens and {len(found[key])} of their {key}"
            )
    space = file.fields.get("tokenizer.ggml.add_space_prefix", True)
    return Vocabulary(
        kind=kind,
        pre=known or "default",
        tokens=tokens,
        adds_space=bool(space) and kind == SENTENCE_PIECE,
        **found,
    )


def _check_tokenizer(file: GgufFile, tokenizer: dict[str, Any]) -> None:
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception as error:  # tokenizers has no class of its own
        raise InputError(
            f"{file.path}: its tokenizer cannot be read ({quoted(str(error)[:80])}); {FETCH_AGAIN}"
        ) from None


def _token(file: GgufFile, name: str) -> int | None:
    """Return the id of a token with a purpose; None where there is none."""
    number = file.fields.get(f"tokenizer.ggml.{name}_token_id")
    if number is None:
        return None
    if not 0 <= number < len(file.fields["tokenizer.ggml.tokens"]):
        raise InputError(f"{file.path}: its {name} token, {number}, is none of its tokens")
    return int(number)


def _starts_text(file: GgufFile, vocabulary: Vocabulary) -> bool:
    default = gguf_tokenizer.starts_text(vocabulary)
    return bool(file.fields.get("tokenizer.ggml.add_bos_token", default))


def _tokenizer_config(file: GgufFile) -> dict[str, Any]:
    tokens = file.fields["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {ours: _token(file, name) for ours, name in names.items()}
    template = file.fields.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise InputError(f"{file.path}: its chat template is no text; {FETCH_AGAIN}")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{ours}_token": tokens[i] for ours, i in numbers.items() if i is not None},
        **({} if template is None else {"chat_template": template}),
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(file.of_model("context_length")),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
