"""LoRA adapters of Hugging Face PEFT, read and written: two files in a folder.

PEFT keeps ``lora_A`` (rank, in) and ``lora_B`` (out, rank), each the transpose of ours, and
multiplies their product by ``lora_alpha / r``, with rank-stabilised LoRA by ``lora_alpha / √r``.
"""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import regex  # type: ignore[import-untyped]

from mlx_tune.errors import InputError
from mlx_tune.files.safetensors import Header
from mlx_tune.text import quoted
from mlx_tune.training.adapter import ADAPTED, Adapter
from mlx_tune.training.foreign import MAX_SCALE, ForeignAdapter, evened, read_object, read_tensors

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_PREFIX = "base_model.model."
_FACTOR = regex.compile(
    rf"{regex.escape(_PREFIX)}([A-Za-z0-9_.]+)\.lora_([AB])(?:\.default)?\.weight"
)
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_PATTERN_SECONDS = 1.0
_FIX = "save the adapter again with PEFT"

_SAYS_NOTHING = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "peft_type", "r", "lora_alpha", "alpha_pattern", "use_rslora", "init_lora_weights", "bias",
}  # fmt: skip
"""Keys of a config that are read here, or that do not change what the factors mean."""

_UNLIKE_LORA = {
    "use_dora": "DoRA scales every weight anew, so it is no sum and cannot be chained",
    "modules_to_save": "whole layers were trained too, which no LoRA adapter holds",
    "trainable_token_indices": "embeddings were trained too, which no LoRA adapter holds",
    "layer_replication": "layers were added to the base",
    "fan_in_fan_out": "its layers are stored the other way round, which no Llama's are",
    "lora_bias": "biases were trained too",
    "target_parameters": "parameters were adapted that are no linear layers",
    "alora_invocation_tokens": "an activated LoRA changes only what follows certain tokens",
    "use_qalora": "QA-LoRA pools a layer's inputs",
    "megatron_config": "its layers are split as Megatron does",
}
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that change the base's weights, so that the factors belong to another base."""


def peft_files(adapter: Adapter, *, base: str) -> dict[str, bytes]:
    """Return an adapter as the files that PEFT loads: file name to bytes.

    A scale that is no whole ``lora_alpha / r`` goes into ``lora_B``: other readers want an integer.

    Args:
        adapter: Factors float32.
        base: A Hugging Face id or a folder, for ``base_model_name_or_path``.
    """
    alpha, within = adapter.scale * adapter.rank, 1.0
    if alpha != round(alpha):
        alpha, within = adapter.rank, adapter.scale
    arrays = {}
    for path, (lora_a, lora_b) in sorted(adapter.factors.items()):
        arrays[f"{_PREFIX}{path}.lora_A.weight"] = mx.contiguous(lora_a.T)
        arrays[f"{_PREFIX}{path}.lora_B.weight"] = mx.contiguous(within * lora_b.T)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": round(alpha),
        "lora_dropout": 0.0,
        "target_modules": sorted({path.rpartition(".")[2] for path in adapter.factors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    buffer = io.BytesIO()
    mx.save_safetensors(buffer, arrays, metadata={"format": "pt"})
    text = json.dumps(config, indent=2) + "\n"
    return {WEIGHTS_FILE: buffer.getvalue(), CONFIG_FILE: text.encode()}


def read_peft(folder: Path) -> ForeignAdapter:
    """Read an adapter that PEFT, or what builds on it, wrote.

    Modules of a smaller rank are filled up with zeros, and those of another scale have the
    difference in ``lora_b``: both leave what they compute as it was.

    Raises:
        InputError: A file is missing, pickled or not what PEFT writes; or the adapter is no plain
            LoRA of linear layers, and why; or a file breaks the rules of its format.
        NotFiniteError: A factor holds a NaN or an infinity.
    """
    config = _read_config(folder)
    place = folder / WEIGHTS_FILE
    file = read_tensors(place, _read(place), fix=_FIX)
    paths = _modules(file.header, place)
    names = {path: [paths[path][letter] for letter in "AB"] for path in sorted(paths)}
    factors = {
        path: (file.arrays[a].astype(mx.float32).T, file.arrays[b].astype(mx.float32).T)
        for path, (a, b) in names.items()
    }
    scales = {path: _scale(config, path, a.shape[1]) for path, (a, _) in factors.items()}
    return ForeignAdapter(
        format="peft",
        adapter=evened(factors, scales),
        base=config["base_model_name_or_path"],
        sha256=file.sha256,
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        pickles = [path.with_name(name) for name in _PICKLES if path.with_name(name).is_file()]
        if pickles:
            raise InputError(
                f"{pickles[0]}: pickled weights can run a program when they are read, so they are "
                "not; save the adapter again with safe_serialization=True"
            )
        raise InputError(f"{path}: missing, or not a file; a PEFT adapter is a folder with it")
    return path.read_bytes()


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a plain LoRA, the keys that are used later all there."""
    place = folder / CONFIG_FILE
    config = {
        "base_model_name_or_path": None, "alpha_pattern": None, "use_rslora": False,
        "bias": "none", "init_lora_weights": True, **read_object(place, _read(place), fix=_FIX),
    }  # fmt: skip
    if str(config.get("peft_type")).upper() != "LORA":
        raise InputError(f"{place}: peft_type is {_shown(config.get('peft_type'))}; expected LORA")
    for key, value in config.items():
        if key in _SAYS_NOTHING or value in (None, False, [], {}):
            continue
        reason = _UNLIKE_LORA.get(key, "this version does not know what it changes")
        raise InputError(f"{place}: {quoted(key)} is {_shown(value)}: {reason}; it is not imported")
    if config["bias"] != "none":
        raise InputError(
            f'{place}: "bias" is {_shown(config["bias"])}: biases were trained too, which no '
            "LoRA adapter holds; it is not imported"
        )
    start = str(config["init_lora_weights"]).lower()
    if start.startswith(_MOVES_THE_BASE):
        raise InputError(
            f'{place}: "init_lora_weights" is {_shown(start)}, which changes the base too; save it '
            "with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    if not isinstance(config["base_model_name_or_path"], str | None):
        raise InputError(f'{place}: "base_model_name_or_path" is no text')
    _check_alpha(config.get("lora_alpha"), '"lora_alpha"', place)
    config["alpha_pattern"] = config["alpha_pattern"] or {}
    if not isinstance(config["alpha_pattern"], dict):
        raise InputError(f'{place}: "alpha_pattern" is no object')
    for pattern, alpha in config["alpha_pattern"].items():
        _check_alpha(alpha, f'"alpha_pattern" of {quoted(pattern)}', place)
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise InputError(f"{place}: {quoted(pattern)} is no pattern: {error}") from None
    return config


def _check_alpha(alpha: Any, what: str, place: Path) -> None:
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_SCALE:
        raise InputError(f"{place}: {what} is {_shown(alpha)}; expected a number above 0")


def _shown(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else quoted(json.dumps(value)).strip('"')


def _modules(header: Header, place: Path) -> dict[str, dict[str, str]]:
    """Return by module path the names of its two factors, all shapes and types checked."""
    found: dict[str, dict[str, str]] = {}
    for name, tensor in header.tensors.items():
        factor = _FACTOR.fullmatch(name)
        if not factor:
            raise InputError(f"{place}: {quoted(name)} is no lora_A or lora_B of a linear layer")
        path, letter = factor.groups()
        if not path.endswith(tuple(f".{projection}" for projection in ADAPTED)):
            known = ", ".join(one.rpartition(".")[2] for one in ADAPTED)
            raise InputError(f"{place}: {quoted(name)}: only layers named {known} are adapted here")
        if tensor.dtype not in ("F32", "F16", "BF16") or len(tensor.shape) != 2:
            raise InputError(
                f"{place}: {quoted(name)} is {tensor.dtype} {list(tensor.shape)}; expected two "
                "dimensions of F32, F16 or BF16"
            )
        found.setdefault(path, {})[letter] = name
    if not found:
        raise InputError(f"{place}: holds no factors; expected a lora_A and a lora_B of each layer")
    for path, names in found.items():
        if len(names) == 1:
            raise InputError(f"{place}: {quoted(*names.values())} stands alone; expected a pair")
        down, up = (header.tensors[names[letter]].shape for letter in "AB")
        if not 0 < down[0] == up[1]:
            raise InputError(
                f"{place}: {path}: lora_A {list(down)} and lora_B {list(up)} do not fit; expected "
                "(rank, in) and (out, rank)"
            )
    return found


def _scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """Return what a module's product is multiplied by."""
    alpha = config["lora_alpha"]
    for pattern, other in config["alpha_pattern"].items():  # the first that matches, as in PEFT
        if _matches(pattern, path):
            alpha = other
            break
    return float(alpha / (math.sqrt(rank) if config["use_rslora"] else rank))


def _matches(pattern: str, path: str) -> bool:
    """Tell whether a pattern names a module, by its end, as PEFT does."""
    try:
        return bool(regex.match(rf"(.*\.)?({pattern})$", path, timeout=_PATTERN_SECONDS))
    except TimeoutError:
        raise InputError(f"alpha_pattern: {quoted(pattern)} takes too long to match") from None
