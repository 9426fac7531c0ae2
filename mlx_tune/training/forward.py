"""The forward pass of training: the shared prefix once, the head only where something is taught.

Rows of one run begin alike: the system prompt and the user's header. With a causal mask those
positions do not see what follows, so their keys and values are the same for every row; they are
computed once a micro-batch and broadcast, and gradients flow through the broadcast.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask

# Networks that are embed → layers → norm → head with nothing scaled or capped in between.
_WALKABLE = frozenset({"llama", "qwen2", "qwen3"})


class _Kept:
    """Stands in for a key-value cache and keeps what the prefix computed."""

    offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep (1, heads, prefix, head_dim) keys and values, rotary positions applied."""
        self.keys, self.values = keys, values
        return keys, values


class _Extended:
    """Stands in for a key-value cache that already holds the prefix, for every row."""

    def __init__(self, prefix: _Kept) -> None:
        self.prefix = prefix
        self.offset = prefix.keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return (rows, heads, prefix + width, head_dim) keys and values."""
        rows = keys.shape[0]
        return tuple(  # type: ignore[return-value]
            mx.concatenate([mx.broadcast_to(old, (rows, *old.shape[1:])), new], axis=2)
            for old, new in ((self.prefix.keys, keys), (self.prefix.values, values))
        )


def can_walk(model: nn.Module) -> bool:
    """Tell whether this network can be walked layer by layer; others are called as a whole."""
    return type(model).__module__.rpartition(".")[2] in _WALKABLE


def can_share_prefix(model: nn.Module) -> bool:
    """Tell whether a prefix may be shared: not where a layer's attention window slides."""
    return can_walk(model) and not any(_slides(layer) for layer in model.layers)


def logits_at(
    model: nn.Module,
    prefix: mx.array,
    tokens: mx.array,
    positions: mx.array,
    *,
    checkpoint: bool = False,
) -> mx.array:
    """Return the logits after chosen tokens.

    Args:
        model: An mlx-lm language model.
        prefix: The tokens every row begins with, int32 (prefix,); may be empty.
        tokens: What follows, right-padded, int32 (rows, width).
        positions: Which tokens of the flattened (rows * width) to give logits for, int32 (chosen,).
        checkpoint: Recompute each layer in the backward pass instead of keeping its activations.

    Returns:
        float32 (chosen, vocabulary).
    """
    if not can_walk(model):
        whole = model(tokens)
        return whole.reshape(-1, whole.shape[-1])[positions].astype(mx.float32)
    hidden = _walk(model, prefix, tokens, checkpoint=checkpoint)
    chosen = model.model.norm(hidden.reshape(-1, hidden.shape[-1])[positions])
    if "lm_head" in model:
        return model.lm_head(chosen).astype(mx.float32)
    return model.model.embed_tokens.as_linear(chosen).astype(mx.float32)


def _walk(model: nn.Module, prefix: mx.array, tokens: mx.array, *, checkpoint: bool) -> mx.array:
    """Return the last layer's output for the tokens after the prefix, (rows, width, hidden)."""
    state = [model.model.embed_tokens(tokens)]
    if prefix.size:
        state.append(model.model.embed_tokens(prefix[None]))
    for layer in model.model.layers:
        call = _with_prefix(layer) if prefix.size else _alone(layer, model)
        state = _checkpointed(layer, call)(*state) if checkpoint else call(*state)
    return state[0]


def _alone(layer: nn.Module, model: nn.Module) -> Callable[..., list[mx.array]]:
    window = model.model.sliding_window if _slides(layer) else None

    def call(hidden: mx.array) -> list[mx.array]:
        return [layer(hidden, create_attention_mask(hidden, None, window_size=window), None)]

    return call


def _with_prefix(layer: nn.Module) -> Callable[..., list[mx.array]]:
    def call(hidden: mx.array, prefix: mx.array) -> list[mx.array]:
        kept = _Kept()
        prefix = layer(prefix, "causal", kept)
        # "causal" aligns the last query with the last key, so a row sees the prefix and its past.
        return [layer(hidden, "causal", _Extended(kept)), prefix]

    return call


def _checkpointed(
    layer: nn.Module, call: Callable[..., list[mx.array]]
) -> Callable[..., list[mx.array]]:
    """Wrap one call: nothing is patched, so it cannot outlive the step nor nest."""

    def with_parameters(parameters: dict[str, Any], *state: mx.array) -> list[mx.array]:
        # What is differentiated must be an argument: mx.checkpoint sees no captured array.
        layer.update(parameters)
        return call(*state)

    wrapped = mx.checkpoint(with_parameters)
    return lambda *state: wrapped(layer.trainable_parameters(), *state)


def _slides(layer: nn.Module) -> bool:
    return bool(getattr(layer, "use_sliding", False))
