"""What the training loop is told."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_tune.data.tokenise import Example
from mlx_tune.settings import TRAINING_FIELDS, TrainingSettings, kind
from mlx_tune.training.batches import Batches, shared_prefix
from mlx_tune.training.mixture import Mixture


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What the loop is told; `sizing` decides it.

    Attributes:
        rank: Of the adapter.
        scale: Multiplier of the adapter's product.
        epochs: Passes over the rows.
        batch_size: Rows of a micro-batch.
        grad_accumulation: Micro-batches of a step.
        learning_rate: Its peak.
        new_rows: Rows that are not rehearsed; the warm-up follows them.
        mixture: Which rows come in which epoch; None for all in every one.
        seed: Of the first values, the order of rows and the dropout.
        dropout: Share of the adapter's inputs set to zero.
        lora_plus_ratio: How many times faster ``lora_b`` learns than ``lora_a``.
        checkpoint_layers: Layers computed again in the backward pass instead of being kept.
        loss_chunk: Tokens whose logits are held at once; None for all.
        compile: Compile the step; None where there is a compiler.
        cache_bytes: What MLX may keep of freed memory while it trains.
        wire_memory: Keep a GPU's memory from being paged out while it trains.
    """

    rank: int
    scale: float
    epochs: int
    batch_size: int
    grad_accumulation: int
    learning_rate: float
    new_rows: int
    seed: int
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
        """Return what the loop is told, from a training's settings.

        Args:
            settings: All decided.
            mixture: Which rows come in which epoch; the new ones are its first source.
        """
        names = {field.name for field in dataclasses.fields(TrainingConfig)} & {*TRAINING_FIELDS}
        return TrainingConfig(
            **{name: kind(name)(getattr(settings, name)) for name in names},
            scale=settings.scale,
            new_rows=mixture.kinds[0].rows,
            mixture=mixture,
        )

    @property
    def effective_batch(self) -> int:
        """Rows a step."""
        return self.batch_size * self.grad_accumulation

    @property
    def distils(self) -> bool:
        """Whether some rows are taught by what a network says of them."""
        return self.mixture is not None and self.mixture.has_teachers

    def planned_steps(self, rows: int) -> int:
        """Return the number of optimizer updates: ⌈rows an epoch / effective batch⌉ · epochs.

        Args:
            rows: How many there are in all.
        """
        places = self.mixture.places if self.mixture else rows
        return -(-places // self.effective_batch) * self.epochs

    def batches(self, examples: Sequence[Example], *, share_prefix: bool = True) -> Batches:
        """Return the micro-batches of a run."""
        return Batches(
            examples=examples,
            epochs=self.epochs,
            batch_size=self.batch_size,
            effective_batch=self.effective_batch,
            seed=self.seed,
            mixture=self.mixture or Mixture.of_all(len(examples)),
            prefix=shared_prefix(examples) if share_prefix and self.batch_size > 1 else (),
        )
