"""The configuration of a training loop."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_tune.data.tokenise import Example
from mlx_tune.settings import TRAINING_FIELDS, TrainingSettings, kind
from mlx_tune.training.batches import Batches, shared_prefix
from mlx_tune.training.mixture import LABELS, Mixture


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The configuration of a training loop.

    Attributes:
        rank: Rank of the adapter.
        scale: Multiplier of the adapter's product.
        epochs: Number of epochs.
        batch_size: Rows of a micro-batch.
        grad_accumulation: Micro-batches of a step.
        learning_rate: Peak of the schedule.
        decay_epochs: Epochs over which the rate falls; 0 for all.
        new_rows: How many rows are new; the number of warm-up steps depends on it.
        seed: Seed of the adapter, of the order of the rows and of the dropout.
        mixture: Which examples an epoch has; None for all in every epoch.
        dropout: Fraction of the adapter's inputs set to zero, 0 to 1.
        lora_plus_ratio: Learning rate of ``lora_b`` divided by that of ``lora_a``.
        checkpoint_layers: How many layers recompute their activations in the backward pass.
        loss_chunk: Tokens whose logits are held at once; None for all.
        compile: Whether to compile the step; None to compile where there is a compiler.
        cache_bytes: Freed memory that MLX may keep while it trains, bytes.
        wire_memory: Whether to keep a GPU's memory from being paged out while it trains.
    """

    rank: int
    scale: float
    epochs: int
    batch_size: int
    grad_accumulation: int
    learning_rate: float
    new_rows: int
    seed: int
    decay_epochs: int = 0
    mixture: Mixture | None = None
    dropout: float = 0.0
    lora_plus_ratio: float = 1.0
    checkpoint_layers: int = 0
    loss_chunk: int | None = None
    compile: bool | None = None
    cache_bytes: int = 256 << 20
    wire_memory: bool = False

    @staticmethod
    def of(settings: TrainingSettings, mixture: Mixture) -> "TrainingConfig":
        """Return the configuration that a training's settings stand for.

        Args:
            settings: The settings, all resolved.
            mixture: Which rows an epoch has; the new rows are its first source.
        """
        names = {field.name for field in dataclasses.fields(TrainingConfig)} & {*TRAINING_FIELDS}
        return TrainingConfig(
            **{name: kind(name)(getattr(settings, name)) for name in names},
            scale=settings.scale,
            new_rows=mixture.sources[0].size,
            mixture=mixture,
        )

    @property
    def effective_batch(self) -> int:
        """Rows of a step."""
        return self.batch_size * self.grad_accumulation

    @property
    def distils(self) -> bool:
        """Whether some rows are trained towards the distribution of a model."""
        return self.mixture is not None and bool(self.mixture.teachers - {LABELS})

    def planned_steps(self, rows: int) -> int:
        """Return the number of optimizer updates: ⌈rows per epoch / effective batch⌉ · epochs.

        Args:
            rows: How many examples there are; an epoch has all where there is no mixture.
        """
        rows_per_epoch = self.mixture.rows_per_epoch if self.mixture else rows
        return -(-rows_per_epoch // self.effective_batch) * self.epochs

    def batches(self, examples: Sequence[Example], *, share_prefix: bool = True) -> Batches:
        """Return the micro-batches of a run.

        Args:
            examples: The tokenised rows, one after another in all their wordings.
            share_prefix: Whether the network can compute a prefix of several rows once.
        """
        return Batches(
            examples=examples,
            epochs=self.epochs,
            batch_size=self.batch_size,
            effective_batch=self.effective_batch,
            seed=self.seed,
            mixture=self.mixture or Mixture.of_all(len(examples)),
            prefix=shared_prefix(examples) if share_prefix and self.batch_size > 1 else (),
        )
