"""A language model as training and scoring see it: a function of its adapter's factors."""

from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.joined import Factors
from mlx_tune.training.walked import Walked, can_walk
from mlx_tune.training.whole import Whole


class Network(Protocol):
    """What the loop and the scoring need of a model."""

    shares_prefix: bool

    def logits(self, factors: Factors, batch: MicroBatch) -> mx.array:
        """Return what follows each supervised position, float32 (supervised, vocabulary)."""

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the cross-entropies' weighted sum, float32 (), and each, float32 (supervised,)."""

    def divergence(
        self, teacher: Factors, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the sum of divergences from a teacher, float32 (), and each cross-entropy."""


def network(
    model: nn.Module,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
    checkpoint_layers: int = 0,
    loss_chunk: int | None = None,
) -> Network:
    """Return the way to call a model: layer by layer where its architecture is known.

    Args:
        model: An mlx-lm language model, frozen.
        scale: Multiplier of the adapter's product.
        dropout: Share of the adapter's inputs set to zero.
        checkpoint_layers: How many layers are computed again in the backward pass.
        loss_chunk: Tokens whose logits are held at once; a model called as a whole holds all.

    Raises:
        IncompatibleError: The model has to be called as a whole, and cannot do what is asked.
    """
    common: dict[str, Any] = {
        "scale": scale, "dropout": dropout, "checkpoint_layers": checkpoint_layers,
    }  # fmt: skip
    if can_walk(model):
        return Walked(model, loss_chunk=loss_chunk, **common)
    return Whole(model, **common)
