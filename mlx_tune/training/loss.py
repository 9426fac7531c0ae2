"""Cross-entropy, and divergence from a teacher, whole or with the logits of one chunk in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.training.activations import exp


class Head:
    """The last layer of a network, from hidden states to logits: linear, or the tied embedding."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap a Linear or an Embedding, quantised or not."""
        self._module = module
        self._tied = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))

    def __call__(self, states: mx.array) -> mx.array:
        """Map (tokens, dims) to logits (tokens, vocabulary)."""
        return self._module.as_linear(states) if self._tied else self._module(states)

    def rows(self, ids: mx.array) -> mx.array:
        """Return the rows of the weight for some token ids, (ids, dims)."""
        module = self._module
        if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            return module.weight[ids]
        biases = module.get("biases")
        packed = (module.weight[ids], module.scales[ids], None if biases is None else biases[ids])
        return mx.dequantize(*packed, module.group_size, module.bits, module.mode)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Return -log p of each target, nats, float32 (tokens,).

    Args:
        logits: (tokens, vocabulary).
        targets: Token ids, int32 (tokens,).
    """
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def divergence(teacher: mx.array, student: mx.array) -> mx.array:
    """Return KL(teacher ‖ student) of each token, nats, float32 (tokens,).

    Args:
        teacher: Logits, (tokens, vocabulary); no gradient flows into them.
        student: Logits, (tokens, vocabulary).
    """
    log_p = _log_softmax(mx.stop_gradient(teacher))
    return (mx.exp(log_p) * (log_p - _log_softmax(student))).sum(axis=-1)


def bounded_cross_entropy(
    head: Head,
    states: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    chunk: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the weighted sum of cross-entropies, and each, with few logits in memory at once.

    Args:
        head: The last layer.
        states: Hidden states, (tokens, dims).
        targets: Token ids, int32 (tokens,).
        weights: Weight of each token's loss, float32 (tokens,); 0 for padding.
        chunk: Tokens whose logits are in memory at once; None for all.

    Returns:
        The sum, nats, float32 (); and the cross-entropy of every token, unweighted and without a
        gradient, nats, float32 (tokens,).

    Source:
        Gradients computed in the forward pass: Hsu et al. 2024, arXiv:2410.10989 (Liger Kernel).
    """

    def of_chunk(part: slice, own: mx.array) -> _ChunkLoss:
        nats, gradient = _cross_entropy(head, own, targets[part])
        return nats, nats, gradient

    return _bounded(of_chunk, states, weights, chunk)


def bounded_divergence(
    head: Head,
    teacher: mx.array,
    states: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    chunk: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the weighted sum of divergences from a teacher, and each token's cross-entropy.

    Args:
        head: The last layer of both.
        teacher: Hidden states of the teacher, (tokens, dims); no gradient flows into them.
        states: Those of the student.
        targets: For the cross-entropies; as of :func:`bounded_cross_entropy`, like the rest.
        weights: Weight of each token's divergence.
        chunk: Tokens whose logits are in memory at once.
    """

    def of_chunk(part: slice, own: mx.array) -> _ChunkLoss:
        p, log_p = _softmax(head(teacher[part]))
        q, log_q = _softmax(head(own))
        nats = -mx.take_along_axis(log_q, targets[part, None], axis=-1)[:, 0]
        divergences = (p * (log_p - log_q)).sum(axis=-1)
        # d(states) = (softmax(student) - softmax(teacher)) W
        _, (gradient,) = mx.vjp(head, [own], [(q - p).astype(own.dtype)])
        return divergences, nats, gradient.astype(mx.float32)

    return _bounded(of_chunk, states, weights, chunk)


def _log_softmax(logits: mx.array) -> mx.array:
    """Return log-probabilities, float32 (tokens, vocabulary), differentiable unlike `_softmax`."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _softmax(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return probabilities and their logarithms, both float32 (tokens, vocabulary)."""
    logits = logits.astype(mx.float32)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exps = exp(shifted)
    total = exps.sum(axis=-1, keepdims=True)
    return exps / total, shifted - mx.log(total)


def _cross_entropy(head: Head, states: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Return the losses, float32 (tokens,), and the gradient of each, float32 (tokens, dims)."""
    logits = head(states).astype(mx.float32)
    highest = logits.max(axis=-1, keepdims=True)
    exps = exp(logits - highest)
    total = exps.sum(axis=-1, keepdims=True)
    rows = head.rows(targets).astype(mx.float32)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)
    losses = (highest - chosen + mx.log(total))[:, 0]
    # d(states) = (softmax - onehot) W; onehot W is a row of W, so no one-hot is built.
    _, (mean,) = mx.vjp(head, [states], [exps.astype(states.dtype)])
    return losses, mean.astype(mx.float32) / total - rows


_ChunkLoss = tuple[mx.array, mx.array, mx.array]
"""Of a chunk: the values to sum, float32 (tokens,); the cross-entropies to return, float32
(tokens,); and the gradient of the sum of the former, float32 (tokens, dims)."""


def _bounded(
    of_chunk: Callable[[slice, mx.array], _ChunkLoss],
    states: mx.array,
    weights: mx.array,
    chunk: int | None,
) -> tuple[mx.array, mx.array]:
    """Return a weighted sum over tokens, and the cross-entropies, one chunk's logits at a time.

    The head is frozen and the sum is a scalar, so the gradient with respect to a chunk's states is
    known as soon as its logits are. The forward pass computes it, keeps it and frees the logits;
    the backward pass only scales it.
    """
    size = chunk or states.shape[0]

    @mx.custom_function
    def loss_and_gradient(states: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        total, gradients, losses = mx.array(0.0), list[mx.array](), list[mx.array]()
        for begin in range(0, states.shape[0], size):
            part = slice(begin, begin + size)
            own = states[part]
            if gradients:  # wait until the logits of the chunk before are freed
                own = mx.depends(own, [total, gradients[-1]])
            summed, nats, gradient = of_chunk(part, own)
            total = total + (weights[part] * summed).sum()
            gradients.append(weights[part, None] * gradient)
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
