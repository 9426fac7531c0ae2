"""The loss: cross-entropy of the supervised tokens, each of equal weight."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.forward import logits_at

Gradients = dict[str, Any]


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Return -log p of each target, float32 (tokens,), for logits (tokens, vocabulary)."""
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def loss_and_gradients(
    model: nn.Module,
    batches: list[MicroBatch],
    prefix: mx.array,
    *,
    checkpoint: bool = False,
) -> tuple[mx.array, Gradients]:
    """Return the loss of an effective batch and its gradients.

    Both are sums over supervised tokens divided by their number in the whole effective batch, so
    neither depends on how the rows are cut into micro-batches.

    Args:
        model: Carries an adapter; only what is trainable gets a gradient.
        batches: The micro-batches of one step.
        prefix: The tokens every row begins with, int32 (prefix,).
        checkpoint: Recompute each layer in the backward pass.

    Returns:
        Loss in nats per token, float32 (); gradients in the tree of the trainable parameters.
    """
    total = sum(batch.supervised_tokens for batch in batches)

    def share(parameters: Gradients, batch: MicroBatch) -> mx.array:
        model.update(parameters)
        logits = logits_at(model, prefix, batch.tokens, batch.positions, checkpoint=checkpoint)
        return cross_entropy(logits, batch.targets).sum() / total

    parameters = model.trainable_parameters()
    loss, gradients = mx.array(0.0), None
    for batch in batches:
        part, grown = mx.value_and_grad(share)(parameters, batch)
        loss = loss + part
        gradients = grown if gradients is None else _add(gradients, grown)
        mx.eval(loss, gradients)  # frees this micro-batch's activations before the next
    model.update(parameters)
    assert gradients is not None, "a step has at least one row"
    return loss, gradients


def _add(a: Any, b: Any) -> Any:
    """Add two trees of the same shape."""
    return tree_map(mx.add, a, b)
