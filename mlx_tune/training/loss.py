"""The losses: of a token, and from a teacher's distribution; computed a bounded chunk at a time."""

from collections.abc import Callable, Sequence
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


def divergence(teacher: mx.array, student: mx.array) -> mx.array:
    """Return KL(teacher ‖ student) of each token, nats, float32 (tokens,).

    Args:
        teacher: Logits, (tokens, vocabulary); no gradient flows into them.
        student: Logits, (tokens, vocabulary).
    """
    wanted = _log_softmax(mx.stop_gradient(teacher))
    return (mx.exp(wanted) * (wanted - _log_softmax(student))).sum(axis=-1)


def _log_softmax(logits: mx.array) -> mx.array:
    """Return the logarithms of words' probabilities; `_shares` is quicker, and has no gradient."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def bounded_cross_entropy(
    head: Head,
    states: mx.array,
    targets: mx.array,
    weights: mx.array,
    *,
    chunk: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the weighted sum of cross-entropies, and each, while holding few logits at once.

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

    def of_chunk(part: slice, own: mx.array) -> _ChunkLoss:
        nats, gradient = _entropy(head, own, targets[part])
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
        head: Gives the logits of both.
        teacher: Its states, (tokens, dims); no gradient flows into them.
        states: The student's, (tokens, dims).
        targets: The words whose cross-entropy is told, int32 (tokens,).
        weights: Of each token's divergence, float32 (tokens,); 0 for padding.
        chunk: Tokens whose logits exist at once; None for all.

    Returns:
        The sum, float32 (); and the cross-entropies, unweighted and without a gradient, float32
        (tokens,).
    """

    def of_chunk(part: slice, own: mx.array) -> _ChunkLoss:
        wanted, wanted_logs = _shares(head(teacher[part]))
        said, said_logs = _shares(head(own))
        nats = -mx.take_along_axis(said_logs, targets[part, None], axis=-1)[:, 0]
        apart = (wanted * (wanted_logs - said_logs)).sum(axis=-1)
        # d(states) = (softmax(student) - softmax(teacher)) W
        _, (gradient,) = mx.vjp(head, [own], [(said - wanted).astype(own.dtype)])
        return apart, nats, gradient.astype(mx.float32)

    return _bounded(of_chunk, states, weights, chunk)


def _shares(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return the probabilities of words and their logarithms, float32 (tokens, vocabulary)."""
    logits = logits.astype(mx.float32)
    below = logits - logits.max(axis=-1, keepdims=True)
    grown = exp(below)
    total = grown.sum(axis=-1, keepdims=True)
    return grown / total, below - mx.log(total)


_ChunkLoss = tuple[mx.array, mx.array, mx.array]
"""What is summed and what is told of each token, and the sum's gradient of each state."""


def _bounded(
    of_chunk: Callable[[slice, mx.array], _ChunkLoss],
    states: mx.array,
    weights: mx.array,
    chunk: int | None,
) -> tuple[mx.array, mx.array]:
    """Return a weighted sum over tokens, and what is told of each, one chunk's logits at a time.

    The head is frozen and the sum a scalar, so the gradient of the states is known as soon as a
    chunk's logits are: it is computed there and then and kept, and the logits are dropped. The
    backward pass has nothing left to do but scale it.
    """
    size = chunk or states.shape[0]

    @mx.custom_function
    def loss_and_gradient(states: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        total, gradients, told = mx.array(0.0), list[mx.array](), list[mx.array]()
        for begin in range(0, states.shape[0], size):
            part = slice(begin, begin + size)
            own = states[part]
            if gradients:  # not before the last chunk's logits are gone
                own = mx.depends(own, [total, gradients[-1]])
            summed, nats, gradient = of_chunk(part, own)
            total = total + (weights[part] * summed).sum()
            gradients.append(weights[part, None] * gradient)
            told.append(nats)
        return total, mx.concatenate(gradients, axis=0), mx.concatenate(told, axis=0)

    @loss_and_gradient.vjp
    def backward(
        _: mx.array, cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> mx.array:
        return (cotangents[0] * outputs[1]).astype(states.dtype)

    outputs: Any = loss_and_gradient(states)  # MLX's stub says object
    total, _, told = outputs
    return total, told


def _entropy(head: Head, states: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Return the losses, float32 (tokens,), and each one's gradient, float32 (tokens, dims)."""
    logits = head(states).astype(mx.float32)
    highest = logits.max(axis=-1, keepdims=True)
    grown = exp(logits - highest)
    total = grown.sum(axis=-1, keepdims=True)
    words = head.words(targets).astype(mx.float32)
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)
    losses = (highest - right + mx.log(total))[:, 0]
    # d(states) = (softmax - onehot) W, without ever writing the one-hot: W's rows are taken out.
    _, (mean,) = mx.vjp(head, [states], [grown.astype(states.dtype)])
    return losses, mean.astype(mx.float32) / total - words
