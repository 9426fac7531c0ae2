"""Loads a base model that lies ready: its network, weights still as stored, and its tokenizer."""

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn

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
