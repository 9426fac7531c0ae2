"""The loss: cross-entropy of the supervised tokens, computed a bounded chunk at a time."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.training.arithmetic import exp


class Head:
    """The last product of a network, from states to logits: a linear layer or the embedding."""

    def __init__(self, module: nn.Module) -> None:
        """Take a Linear or an Embedding, quantised or not."""
        self._module = module
        self._tied = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))

    def __call__(self, states: mx.array) -> mx.array:
        """Map (tokens, dims) to logits (tokens, vocabulary)."""
        return self._module.as_linear(states) if self._tied else self._module(states)

    def words(self, ids: mx.array) -> mx.array:
        """Return the weight rows of words, (ids, dims)."""
        module = self._module
        if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            return module.weight[ids]
        biases = module.get("biases")
        return mx.dequantize(
            module.weight[ids],
            module.scales[ids],
            None if biases is None else biases[ids],
            group_size=module.group_size,
            bits=module.bits,
            mode=module.mode,
        )


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Return -log p of each target, float32 (tokens,), for logits (tokens, vocabulary)."""
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def bounded_cross_entropy(
    head: Head,
    states: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    chunk: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the weighted sum of cross-entropies, and each, while holding few logits at once.

    The head is frozen and the sum a scalar, so the gradient of the states is known as soon as a
    chunk's logits are: it is computed there and then and kept, and the logits are dropped. The
    backward pass has nothing left to do but scale it.

    Args:
        head: Gives the logits.
        states: (tokens, dims).
        targets: The right words, int32 (tokens,).
        weights: Of each token's loss, float32 (tokens,); 0 for padding.
        chunk: Tokens whose logits exist at once; None for all.

    Returns:
        The sum, float32 (); and every token's own, unweighted and without a gradient, float32
        (tokens,).

    Source:
        Kept gradients: Hsu et al. 2024, arXiv:2410.10989 (Liger Kernel).
    """
    size = chunk or states.shape[0]

    @mx.custom_function
    def loss_and_gradient(states: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        total, gradients, losses = mx.array(0.0), list[mx.array](), list[mx.array]()
        for begin in range(0, states.shape[0], size):
            part = slice(begin, begin + size)
            own = states[part]
            if gradients:  # not before the last chunk's logits are gone
                own = mx.depends(own, [total, gradients[-1]])
            nats, gradient = _chunk(head, own, targets[part], weights[part])
            total = total + (weights[part] * nats).sum()
            gradients.append(gradient)
            losses.append(nats)
        return total, mx.concatenate(gradients, axis=0), mx.concatenate(losses, axis=0)

    @loss_and_gradient.vjp
    def backward(
        _: mx.array, cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> mx.array:
        return (cotangents[0] * outputs[1]).astype(states.dtype)

    outputs: Any = loss_and_gradient(states)  # MLX's stub says object
    total, _, losses = outputs
    return total, losses


def _chunk(
    head: Head, states: mx.array, targets: mx.array, weights: mx.array
) -> tuple[mx.array, mx.array]:
    """Return a chunk's losses, float32 (tokens,), and their sum's gradient, float32 (tokens, dims).

    The gradient is of the weighted sum.
    """
    logits = head(states).astype(mx.float32)
    highest = logits.max(axis=-1, keepdims=True)
    grown = exp(logits - highest)
    total = grown.sum(axis=-1, keepdims=True)
    words = head.words(targets).astype(mx.float32)
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)
    losses = (highest - right + mx.log(total))[:, 0]
    # d(states) = (softmax - onehot) W, without ever writing the one-hot: W's rows are taken out.
    _, (mean,) = mx.vjp(head, [states], [grown.astype(states.dtype)])
    gradient = weights[:, None] * (mean.astype(mx.float32) / total - words)
    return losses, gradient
