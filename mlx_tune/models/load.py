"""Loads a base model, quantises or dequantises it, and saves it."""

import contextlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.errors import UsageError
from mlx_tune.models import model_files
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.fetch import loading_errors
from mlx_tune.models.tokenizer import Tokenizer

_BITS, _GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)  # mx.quantize has kernels for these
_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Base:
    """A loaded base model.

    Attributes:
        info: Its name, source and folder.
        model: mlx-lm's model, frozen, its weights in the stored type and loaded lazily.
        tokenizer: Its tokenizer and chat template.
    """

    info: BaseInfo
    model: nn.Module
    tokenizer: Tokenizer


def load(info: BaseInfo) -> Base:
    """Load a base model and its tokenizer.

    Raises:
        DamagedStoreError: A weight file's header breaks a rule of the format.
        InputError: mlx-lm does not know the architecture, or cannot read a file.
    """
    from mlx_lm.utils import load_model

    model_files.check_weights(info.folder, fix=info.fix)  # mx.load accepts damaged files
    with loading_errors(info.folder):
        model, _ = load_model(info.folder, lazy=True)
    model.freeze()
    return Base(info=info, model=model, tokenizer=load_tokenizer(info.folder, info.template))


def load_tokenizer(folder: Path, template: str | None) -> Tokenizer:
    """Load the tokenizer of a model folder, with this chat template.

    Raises:
        InputError: transformers cannot read the files.
    """
    # transformers warns at import that PyTorch is missing, which tokenizers do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from mlx_lm.utils import load_tokenizer as load_wrapper

    with loading_errors(folder):
        wrapper = load_wrapper(
            folder, {"trust_remote_code": False}, eos_token_ids=model_files.read_end_ids(folder)
        )
    wrapper._tokenizer.chat_template = template
    return Tokenizer(wrapper=wrapper, template=template, end_ids=frozenset(wrapper.eos_token_ids))


def save(folder: Path, base: Base, config: dict[str, Any]) -> None:
    """Write the current weights of a model, its config and its tokenizer.

    Args:
        folder: An existing, empty folder, so that no old shard can be loaded with the new ones.
        base: The model; its tokenizer has the chat template with the date pinned.
        config: The config to write.
    """
    from mlx_lm.utils import save_config, save_model

    save_model(folder, base.model)
    save_config(dict(config), config_path=folder / "config.json")
    base.tokenizer.wrapper.save_pretrained(folder)
    generation = base.info.folder / "generation_config.json"
    if generation.exists():
        (folder / generation.name).write_bytes(generation.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Affine quantisation: integers of few bits, with a scale and a bias for each group.

    Attributes:
        bits: Bits of a weight.
        group_size: Consecutive weights of a row that share a scale and a bias.
    """

    bits: int
    group_size: int = _GROUP

    @staticmethod
    def parse(text: str) -> "Quantisation":
        """Read ``BITS`` or ``BITS:GROUP``.

        Raises:
            UsageError: The text is neither, or MLX has no such quantisation.
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
        """Return whether a weight is quantised: a matrix whose rows can be split into groups."""
        return bool(weight.ndim == 2 and weight.shape[-1] % self.group_size == 0)

    def store(self, weight: mx.array) -> mx.array:
        """Return a weight after quantising and dequantising, both float32 (out_dims, in_dims)."""
        if not self.fits(weight):
            return weight
        packed, scales, offsets = mx.quantize(weight, self.group_size, self.bits)
        scales, offsets = scales.astype(mx.float32), offsets.astype(mx.float32)
        return mx.dequantize(packed, scales, offsets, self.group_size, self.bits)

    def apply(self, model: nn.Module, config: dict[str, Any]) -> None:
        """Quantise a model's linear layers and embedding, and change its config, both in place.

        Raises:
            UsageError: No layer has rows that can be split into such groups.
        """
        from mlx_lm.utils import quantize_model

        spares = getattr(model, "quant_predicate", None)  # some architectures spare a layer

        def chosen(path: str, module: nn.Module) -> Any:
            return self.fits(module.weight) and (spares is None or spares(path, module))

        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            shape = (self.group_size, self.bits)
            _, made = quantize_model(model, config, *shape, quant_predicate=chosen)
        if not any(hasattr(module, "bits") for module in model.modules()):
            raise UsageError(
                f"no layer of this base has rows that groups of {self.group_size} divide; take "
                f"smaller ones, as in --quantise {self.bits}:32"
            )
        config["quantization"] = made["quantization"]


def dequantise(model: nn.Module, config: dict[str, Any]) -> None:
    """Replace a model's quantised layers by 16-bit ones, and change its config, both in place."""
    from mlx_lm.utils import dequantize_model

    dequantize_model(model)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
