"""Loads a base model, quantises it or makes it whole again, and saves what was made of it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.errors import UsageError
from mlx_tune.models import cache, weights
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.fetch import unusable
from mlx_tune.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Base:
    """A loaded base model.

    Attributes:
        info: What it is and where it lies.
        model: mlx-lm's network, weights in the stored type and read lazily.
        tokenizer: Its tokenizer and chat template.
    """

    info: BaseInfo
    model: nn.Module
    tokenizer: Tokenizer


def load(info: BaseInfo) -> Base:
    """Load a base model's network and tokenizer.

    Raises:
        DamagedStoreError: A weight file's header breaks a rule of the format.
        InputError: mlx-lm does not know the architecture, or the files are broken.
    """
    from mlx_lm.utils import load_model

    weights.check(info.folder, fix=info.fix)  # mx.load accepts what it should not
    with unusable(info.folder):
        model, _ = load_model(info.folder, lazy=True)
    model.freeze()
    return Base(info=info, model=model, tokenizer=load_tokenizer(info.folder, info.template))


def load_tokenizer(folder: Path, template: str | None) -> Tokenizer:
    """Load a model folder's tokenizer, with the chat template in effect."""
    # transformers warns, at import, that PyTorch is missing: it is not needed for tokenizers.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from mlx_lm.utils import load_tokenizer as load_wrapper

    with unusable(folder):
        wrapper = load_wrapper(
            folder, {"trust_remote_code": False}, eos_token_ids=cache.read_end_ids(folder)
        )
    wrapper._tokenizer.chat_template = template
    return Tokenizer(wrapper=wrapper, template=template, end_ids=frozenset(wrapper.eos_token_ids))


def save(folder: Path, base: Base, config: dict[str, Any]) -> None:
    """Write a model's weights as they stand, its config and its tokenizer.

    Args:
        folder: Exists and is empty, so that no stale shard can be read with the new ones.
        base: The model; its tokenizer carries the chat template with the date pinned.
        config: The config to write.
    """
    from mlx_lm.utils import save_config, save_model

    save_model(folder, base.model)
    save_config(dict(config), config_path=folder / "config.json")
    base.tokenizer.wrapper.save_pretrained(folder)
    generation = base.info.folder / "generation_config.json"
    if generation.exists():
        (folder / generation.name).write_bytes(generation.read_bytes())


def dequantise(model: nn.Module, config: dict[str, Any]) -> None:
    """Replace a model's quantised layers by 16-bit ones, in place; the config follows."""
    from mlx_lm.utils import dequantize_model

    dequantize_model(model)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)


_BITS, _GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)  # what mx.quantize has kernels for
_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """A form of weights: integers of few bits, with a scale and an offset for each group.

    Attributes:
        bits: A weight.
        group_size: Neighbouring weights of a row that share a scale and an offset.
    """

    bits: int
    group_size: int = _GROUP

    @staticmethod
    def parse(text: str) -> "Quantisation":
        """Read ``BITS`` or ``BITS:GROUP``.

        Raises:
            UsageError: It is neither, or MLX has no such form.
        """
        found = re.fullmatch(r"(\d+)(?::(\d+))?", text, re.ASCII)
        bits, group = (int(found[1]), int(found[2] or _GROUP)) if found else (0, 0)
        if bits not in _BITS or group not in _GROUPS:
            raise UsageError(
                f"--quantise {text}: not a form MLX has; give BITS or BITS:GROUP, such as 8 or "
                f"4:32, with {_listed(_BITS)} bits and groups of {_listed(_GROUPS)}"
            )
        return Quantisation(bits=bits, group_size=group)

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size}"

    def fits(self, weight: mx.array) -> bool:
        """Tell whether a matrix's rows can be cut into groups; others are left as they are."""
        return bool(weight.ndim == 2 and weight.shape[-1] % self.group_size == 0)

    def store(self, weight: mx.array) -> mx.array:
        """Return what a weight comes back as, float32; (out_dims, in_dims) to the same."""
        if not self.fits(weight):
            return weight
        packed, scales, offsets = mx.quantize(weight, self.group_size, self.bits)
        scales, offsets = scales.astype(mx.float32), offsets.astype(mx.float32)
        return mx.dequantize(packed, scales, offsets, self.group_size, self.bits)

    def apply(self, model: nn.Module, config: dict[str, Any]) -> None:
        """Quantise a model's linear layers and embedding, in place; the config says so.

        Raises:
            UsageError: No layer's rows can be cut into such groups.
        """
        own_choice = getattr(model, "quant_predicate", None)  # some architectures spare a layer
        settings: dict[str, Any] = {
            "group_size": self.group_size,
            "bits": self.bits,
            "mode": "affine",
        }
        count = 0

        def chosen(path: str, module: nn.Module) -> Any:
            nonlocal count
            if not hasattr(module, "to_quantized") or not self.fits(module.weight):
                return False
            answer = own_choice(path, module) if own_choice else True
            if isinstance(answer, dict):
                settings[path] = answer
            count += bool(answer)
            return answer

        nn.quantize(model, self.group_size, self.bits, class_predicate=chosen)
        if not count:
            raise UsageError(
                f"no layer of this base has rows that groups of {self.group_size} divide; take "
                f"smaller ones, as in --quantise {self.bits}:32"
            )
        config["quantization"] = settings


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
