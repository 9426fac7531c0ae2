"""The network as a function of its adapter: packed where possible, else by mlx-lm's own call."""

from collections.abc import Mapping
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.errors import IncompatibleError
from mlx_tune.training.adapter import dimensions
from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.loss import cross_entropy, divergence
from mlx_tune.training.packed import Factors, PackedForward, can_pack


class GenericForward:
    """A network whose inside is not known here: its head may scale or cap the logits."""

    shares_prefix = False

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        checkpoint_layers: int = 0,
    ) -> None:
        """Take any mlx-lm language model.

        Raises:
            IncompatibleError: Something is asked for that needs to know its layers.
        """
        for flag, value in (("dropout", dropout), ("checkpoint-layers", checkpoint_layers)):
            if value:
                raise IncompatibleError(
                    f"{type(model).__module__}: --{flag} needs an architecture that is known "
                    f"layer by layer; train this one with --{flag} 0"
                )
        self._model, self._scale = model, scale
        self._shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def logits(self, factors: Factors, batch: MicroBatch) -> mx.array:
        """Return what follows each supervised position, float32 (supervised, vocabulary)."""
        self._attach(factors)
        logits = self._model(batch.tokens[batch.layout.grid])
        positions = batch.layout.cells[batch.positions]
        return logits.reshape(-1, logits.shape[-1])[positions].astype(mx.float32)

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the cross-entropies' weighted sum, float32 (), and each, float32 (supervised,)."""
        losses = cross_entropy(self.logits(factors, batch), batch.targets)
        return (batch.weights * losses).sum(), mx.stop_gradient(losses)

    def divergence(
        self,
        teacher: Factors,
        factors: Factors,
        batch: MicroBatch,
        key: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of divergences from a teacher, and each cross-entropy."""
        wanted = self.logits(teacher, batch)
        student = self.logits(factors, batch)
        losses = cross_entropy(student, batch.targets)
        apart = divergence(wanted, student)
        return (batch.weights * apart).sum(), mx.stop_gradient(losses)

    def _attach(self, factors: Factors) -> None:
        """Give the model these factors, and none to what had some before."""
        left = {path: shapes for path, shapes in self._shapes.items() if path not in factors}
        zeros = {path: (mx.zeros(a), mx.zeros(b)) for path, (a, b) in left.items()}
        attach(self._model, {**factors, **zeros}, self._scale)
        self._shapes |= {path: (a.shape, b.shape) for path, (a, b) in factors.items()}


def attach(model: nn.Module, factors: Factors, scale: float) -> None:
    """Give a model mlx-lm's LoRA layers with these factors, or new factors to those it has."""
    from mlx_lm.tuner.lora import LoRALinear

    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    for path, (lora_a, lora_b) in factors.items():
        lora = modules[path]
        if not isinstance(lora, LoRALinear):
            in_dims, out_dims = dimensions(lora)
            lora = LoRALinear(in_dims, out_dims, r=lora_a.shape[1], scale=scale)
            parent, _, leaf = path.rpartition(".")
            lora.linear = modules[path]
            setattr(modules[parent], leaf, lora)
        lora.lora_a, lora.lora_b, lora.scale = lora_a, lora_b, scale


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
    if can_pack(model):
        return PackedForward(model, loss_chunk=loss_chunk, **common)
    return GenericForward(model, **common)
