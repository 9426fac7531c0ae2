"""A network as a function of its adapter: packed where possible, else through mlx-lm's own call."""

from collections.abc import Mapping
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.errors import IncompatibleError
from mlx_tune.training.adapter import Factors, dimensions
from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.loss import cross_entropy, divergence
from mlx_tune.training.packed import PackedForward, can_pack


class Network(Protocol):
    """What the training loop and the scoring need of a model.

    Attributes:
        shares_prefix: Whether a prefix of several rows is computed once.
    """

    shares_prefix: bool

    def logits(self, factors: Factors, batch: MicroBatch) -> mx.array:
        """Return the logits at each supervised position, float32 (supervised, vocabulary)."""

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of cross-entropies, and each.

        Args:
            factors: The factors of the adapter that is trained.
            batch: The rows.
            key: Random key of the dropout's masks; None for no dropout.

        Returns:
            The sum, nats, float32 (); and the cross-entropy of each supervised token, unweighted
            and without a gradient, nats, float32 (supervised,).
        """

    def divergence(
        self, teacher: Factors, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of KL divergences from a teacher, and each cross-entropy.

        Args:
            teacher: The factors with which the same network is the teacher; no gradient flows into
                them, and the teacher has no dropout.
            factors: The factors of the adapter that is trained.
            batch: The rows.
            key: Random key of the dropout's masks; None for no dropout.

        Returns:
            The sum, nats, float32 (); and the cross-entropies, as of :meth:`loss`.
        """


def network(
    model: nn.Module,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
    checkpoint_layers: int = 0,
    loss_chunk: int | None = None,
) -> Network:
    """Return a model as a function of its adapter: packed where its architecture is known.

    Args:
        model: An mlx-lm language model, frozen.
        scale: Multiplier of the adapter's product.
        dropout: Fraction of the adapter's inputs set to zero, 0 to 1.
        checkpoint_layers: How many layers recompute their activations in the backward pass.
        loss_chunk: Tokens whose logits are in memory at once; the generic form holds all.

    Raises:
        IncompatibleError: The architecture is not known, and an option needs that it is.
    """
    common: dict[str, Any] = {
        "scale": scale, "dropout": dropout, "checkpoint_layers": checkpoint_layers,
    }  # fmt: skip
    if can_pack(model):
        return PackedForward(model, loss_chunk=loss_chunk, **common)
    return GenericForward(model, **common)


class GenericForward:
    """A network of any architecture, called as mlx-lm does; its head may scale or cap logits."""

    shares_prefix = False

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        checkpoint_layers: int = 0,
    ) -> None:
        """Wrap any mlx-lm language model; it gets LoRA layers when it is first called.

        Raises:
            IncompatibleError: ``dropout`` or ``checkpoint_layers`` is not 0.
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
        """Return the logits at each supervised position, float32 (supervised, vocabulary)."""
        self._attach(factors)
        logits = self._model(batch.tokens[batch.layout.grid])
        positions = batch.layout.cells[batch.positions]
        return logits.reshape(-1, logits.shape[-1])[positions].astype(mx.float32)

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of cross-entropies, and each; see :class:`Network`."""
        losses = cross_entropy(self.logits(factors, batch), batch.targets)
        return (batch.weights * losses).sum(), mx.stop_gradient(losses)

    def divergence(
        self, teacher: Factors, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of divergences from a teacher; see :class:`Network`."""
        of_teacher = self.logits(teacher, batch)
        of_student = self.logits(factors, batch)
        losses = cross_entropy(of_student, batch.targets)
        divergences = divergence(of_teacher, of_student)
        return (batch.weights * divergences).sum(), mx.stop_gradient(losses)

    def _attach(self, factors: Factors) -> None:
        """Give the model these factors, and zeros to layers that have factors from before."""
        left = {path: shapes for path, shapes in self._shapes.items() if path not in factors}
        zeros = {path: (mx.zeros(a), mx.zeros(b)) for path, (a, b) in left.items()}
        attach(self._model, {**factors, **zeros}, self._scale)
        self._shapes |= {path: (a.shape, b.shape) for path, (a, b) in factors.items()}


def attach(model: nn.Module, factors: Factors, scale: float) -> None:
    """Give a model mlx-lm's LoRA layers with these factors; existing LoRA layers are reused.

    Args:
        model: An mlx-lm language model, changed in place.
        factors: The factors by module path.
        scale: Multiplier of the product.
    """
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
