"""A training, fully decided before it starts."""

from dataclasses import dataclass

from mlx_tune import sizing
from mlx_tune.continual.methods import Method
from mlx_tune.continual.rehearse import Rehearsal
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo
from mlx_tune.training import schedule
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.memory import MemoryPlan
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows.space import DiskPlan


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` shows and `train` carries out.

    Attributes:
        name: Of the session to be.
        info: Its base model.
        store: Where it will go.
        chain: The sessions it stands on, root first.
        replaced: The sessions whose rows it is taught anew, root first; none but to consolidate.
        without: Those of them whose rows are left out.
        unkept: Those of the sessions before it that keep no rows.
        method: How they are remembered.
        rehearsal: New rows and old ones.
        sizing: Every setting with its reason.
        too_long: Rows left out because they exceed the length limit.
        long_share: Share of all tokens that are in those rows.
        examples: What is trained on: new rows, old ones, general questions.
        mixture: Which of them come in which epoch.
        held_out: New rows that are not trained on, but choose the best checkpoint.
        validation: The same, tokenised.
        disk: What the run will write, and what is free.
        memory: Where the bytes will go.
        shapes: How many distinct shapes micro-batches are padded to.
        padding: Share of the tokens computed that are padding, 0 to 1.
        sources: The data files as they were named.
    """

    name: str
    info: BaseInfo
    store: Store
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    unkept: tuple[Session, ...]
    method: Method
    rehearsal: Rehearsal
    sizing: sizing.Sizing
    too_long: tuple[Row, ...]
    long_share: float
    examples: tuple[Example, ...]
    mixture: Mixture
    held_out: tuple[Row, ...]
    validation: tuple[Example, ...]
    disk: DiskPlan
    memory: MemoryPlan
    shapes: int
    padding: float
    sources: tuple[str, ...]

    @property
    def parent(self) -> Session | None:
        """The session it will stand on, None for the bare base."""
        return self.chain[-1] if self.chain else None

    @property
    def head(self) -> Session | None:
        """Where HEAD is while it is trained, None for the bare base."""
        return self.replaced[-1] if self.replaced else self.parent

    @property
    def taught(self) -> tuple[Row, ...]:
        """The new rows without those that are too long."""
        left_out = {id(row) for row in self.too_long}
        return tuple(row for row in self.rehearsal.new if id(row) not in left_out)

    @property
    def training(self) -> TrainingConfig:
        """What the loop is told."""
        return training_config(self.sizing, self.mixture)

    @property
    def planned_steps(self) -> int:
        """Optimizer updates; the most where training stops once all is learned."""
        return self.training.planned_steps(len(self.examples))

    @property
    def warmup_steps(self) -> int:
        """How many of them warm up."""
        return schedule.warmup_steps(len(self.taught), self.planned_steps)

    @property
    def tokens_by_kind(self) -> tuple[float, ...]:
        """Tokens of an epoch: of new rows, old ones and general questions, padding not counted."""
        found, first = [], 0
        for kind in self.mixture.kinds:
            own = self.examples[first : first + kind.rows]
            mean = sum(len(example.tokens) for example in own) / max(1, len(own))
            found.append(mean * kind.places)
            first += kind.rows
        return tuple(found)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of an epoch, padding not counted; a mean where rows take turns."""
        return round(sum(self.tokens_by_kind))


def training_config(decided: sizing.Sizing, mixture: Mixture) -> TrainingConfig:
    """Return what the loop is told, from a sizing.

    Args:
        decided: The settings.
        mixture: Which rows come in which epoch; new ones are its first kind.
    """
    return TrainingConfig(
        rank=int(decided.rank.value),
        scale=decided.scale,
        epochs=int(decided.epochs.value),
        batch_size=int(decided.batch_size.value),
        grad_accumulation=int(decided.grad_accumulation.value),
        learning_rate=float(decided.learning_rate.value),
        new_rows=mixture.kinds[0].rows,
        mixture=mixture,
        seed=int(decided.seed.value),
        dropout=float(decided.dropout.value),
        lora_plus_ratio=float(decided.lora_plus_ratio.value),
        checkpoint_layers=int(decided.checkpoint_layers.value),
        loss_chunk=int(decided.loss_chunk.value),
        wire_memory=bool(decided.wire_memory.value),
    )
