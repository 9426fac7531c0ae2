"""The training loop: one optimizer update a step, and everything an exact resume needs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError
from mlx_tune.models import runtime
from mlx_tune.training import memory, optimizer
from mlx_tune.training.adapter import (
    WEIGHTS_FILE,
    Adapter,
    fresh,
    from_safetensors,
    named,
    to_safetensors,
    unnamed,
)
from mlx_tune.training.batches import Batches, MicroBatch, collate, shape_of
from mlx_tune.training.checkpoint import TrainerState, known, written
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.generic import network
from mlx_tune.training.mixture import LABELS, UNSEEN, Teacher
from mlx_tune.training.optimizer import AdamW, global_norm
from mlx_tune.training.packed import Factors
from mlx_tune.training.shapes import Shape

Penalty = Callable[[Factors], mx.array]
"""Of the adapter alone, float32 (); it enters every step once."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised besides.

    Attributes:
        penalty: Added to the loss of a step; None for none.
        teachers: By name, the factors beside the frozen weights that make the network the teacher,
            so that no second model is needed; none for the network as it was folded.
    """

    penalty: Penalty | None = None
    teachers: Mapping[Teacher, Factors] = field(default_factory=dict)


OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


class RowLoss(NamedTuple):
    """What a row cost when it came, in nats."""

    total: float
    """Over its supervised tokens."""
    hardest: float
    """Of the hardest of them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer update that has happened.

    Attributes:
        number: Counted from 1.
        epoch: Counted from 1.
        loss: Before the update, nats per supervised token of the rows that teach their own; what
            teachers and penalties add is left out.
        learning_rate: Of this update.
        grad_norm: Global norm before clipping.
        tokens: Real tokens of the rows, prefix included, padding not.
        seconds: Wall time.
        peak_memory_bytes: MLX's peak so far.
        ends_epoch: True for the last step of an epoch.
    """

    number: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    peak_memory_bytes: int
    ends_epoch: bool


class Trainer:
    """One run: a model with a fresh adapter, an optimizer, and a place in the order of steps.

    Attributes:
        steps_done: Updates so far.
        planned_steps: Updates of the whole run.
        missing_projections: Linear layers that this architecture has not.
        shapes: What each micro-batch is padded to, by its own shape.
        padding: Share of the tokens computed that are padding, 0 to 1.
        compilations: How often the step was traced for the compiler.
        hardest: The loss of every row's hardest token when it last came, nats; infinite before.
            Whoever measures anew may write it at an epoch's end.
        network: The model as a function of the adapter's factors.
        notes: What a person should be told, one line each: versions that changed since a
            checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        config: TrainingConfig,
        *,
        objective: Objective | None = None,
        batches: Batches | None = None,
    ) -> None:
        """Make a fresh adapter and stand before the first step.

        Args:
            model: Folded and frozen.
            examples: The rows.
            config: How they are trained on.
            objective: What is minimised besides their cross-entropy; None for nothing.
            batches: Their micro-batches where they are known already; None to make them here.

        Raises:
            InputError: There are no rows.
            IncompatibleError: The architecture cannot do what is asked.
        """
        if not examples:
            raise InputError("no rows to train on")
        self._objective = objective or Objective()
        self.hardest = [UNSEEN] * len(examples)
        self._hardest_before = list(self.hardest)
        self.model, self.config = model, config
        self.steps_done = 0
        self.notes: list[str] = []
        self.planned_steps = config.planned_steps(len(examples))
        self._warmup = optimizer.warmup_steps(config.new_rows, self.planned_steps)
        adapter, self.missing_projections = fresh(
            model, rank=config.rank, scale=config.scale, seed=config.seed
        )
        self._factors = dict(adapter.factors)
        wanted = config.compile
        self._compiles = runtime.can_compile() if wanted is None else wanted
        self._optimizer = AdamW(up_ratio=config.lora_plus_ratio, compiled=self._compiles)
        self._moments = self._optimizer.init(self._factors)
        self.network = network(
            model,
            scale=config.scale,
            dropout=config.dropout,
            checkpoint_layers=config.checkpoint_layers,
            loss_chunk=config.loss_chunk,
        )
        shares = self.network.shares_prefix
        self._batches = batches or config.batches(examples, share_prefix=shares)
        self.shapes, self.padding = self._batches.shapes, self._batches.padding
        self.compilations = 0
        self._micro_step = self._compiled(self._taught)
        self._distilled_step = self._compiled(self._distilled)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates an epoch."""
        return self.planned_steps // self.config.epochs

    def adapter(self) -> Adapter:
        """Return the adapter as it stands."""
        return Adapter(factors=dict(self._factors), rank=self.config.rank, scale=self.config.scale)

    def steps(self) -> Iterator[Step]:
        """Train from where the run stands to its end, yielding each step once it has happened.

        Raises:
            InputError: The loss is no longer finite; the adapter of the step before is kept.
        """
        wired = memory.limit_bytes() if self.config.wire_memory else 0
        with memory.held_for_a_run(self.config.cache_bytes, wired_bytes=wired):
            while self.steps_done < self.planned_steps:
                number, within = divmod(self.steps_done, self.steps_per_epoch)
                if within == 0:
                    self._hardest_before = list(self.hardest)
                for index, rows in enumerate(self._batches.epoch(number, self._hardest_before)):
                    if index >= within:
                        yield self._step(rows)

    def _step(self, rows: Sequence[int]) -> Step:
        began = time.perf_counter()
        number = self.steps_done + 1
        rate = optimizer.learning_rate(
            number,
            peak=self.config.learning_rate,
            planned_steps=self.planned_steps,
            warmup=self._warmup,
        )
        loss, gradients, found = self.loss_and_gradients(rows)
        norm = global_norm(gradients)
        mx.eval(loss, norm)
        if not (mx.isfinite(loss) & mx.isfinite(norm)).item():
            raise InputError(
                f"step {number}: the loss is no longer finite, so training stopped before the "
                "update; lower --learning-rate and train again"
            )
        self._factors, self._moments = self._optimizer.update(
            self._factors, gradients, self._moments, norm=norm, rate=rate, step=number
        )
        mx.eval(self._factors, self._moments)
        self.steps_done = number
        for row, nats in found.items():
            self.hardest[row] = nats.hardest
        return Step(
            number=number,
            epoch=(number - 1) // self.steps_per_epoch + 1,
            loss=self._mean(found),
            learning_rate=rate,
            grad_norm=float(np.array(norm)),
            tokens=sum(len(row.tokens) for row in self._batches.of(rows)),
            seconds=time.perf_counter() - began,
            peak_memory_bytes=mx.get_peak_memory(),
            ends_epoch=number % self.steps_per_epoch == 0,
        )

    def _mean(self, found: Mapping[int, RowLoss]) -> float:
        """Return the mean loss of a supervised token, of rows that teach their own if any."""
        own = [i for i in found if self._batches.mixture.kind(i).teacher == LABELS] or list(found)
        tokens = sum(sum(row.supervised) for row in self._batches.of(own))
        return sum(found[i].total for i in own) / tokens

    def loss_and_gradients(
        self, rows: Sequence[int]
    ) -> tuple[mx.array, Factors, dict[int, RowLoss]]:
        """Return the loss of an effective batch and its gradients, at the run's present step.

        Both are sums over supervised tokens divided by their number in the whole effective batch,
        so neither depends on how the rows are cut into micro-batches. A penalty adds to the
        gradients alone.

        Args:
            rows: As indices.

        Returns:
            What is minimised, penalty aside, in nats per token, float32 (); gradients float32, in
            the tree of the factors; and the loss of each row's own tokens.
        """
        taught = sum(sum(row.supervised) for row in self._batches.of(rows))
        share = mx.array(1 / taught, dtype=mx.float32)
        loss, found = mx.array(0.0), dict[int, RowLoss]()
        gradients = self._penalty_gradients()
        for index, part in enumerate(self._batches.parts(rows)):
            own = self._batches.of(part)
            batch = collate(own, self._batches.prefix, self._padded(own))
            kind = self._batches.mixture.kind(part[0])
            micro_step = self._micro_step if kind.teacher == LABELS else self._distilled_step
            teacher = self._objective.teachers.get(kind.teacher, {})
            (value, nats), grown = micro_step(
                self._factors, teacher, batch.parts(), kind.weight * share, self._key(index)
            )
            loss = loss + value
            gradients = grown if gradients is None else tree_map(mx.add, gradients, grown)
            mx.eval(loss, gradients, nats)  # frees this micro-batch's activations before the next
            found.update(zip(part, _by_row(own, np.array(nats)), strict=True))
        assert gradients is not None, "a step has at least one row"
        return loss, gradients, found

    def _penalty_gradients(self) -> Factors | None:
        penalty = self._objective.penalty
        return None if penalty is None else mx.grad(penalty)(self._factors)

    def _padded(self, part: Sequence[Example]) -> Shape | None:
        """Return what some rows are padded to: as planned, or the least of those that they fit."""
        own = shape_of(part, self._batches.prefix)
        if own in self.shapes:
            return self.shapes[own]
        fitting = [shape for shape in self.shapes.values() if shape.holds(own)]
        return min(fitting, key=lambda shape: shape.tokens, default=None)

    def _key(self, micro_step: int) -> mx.array:
        """Return the dropout's key, of (seed, step, micro-step); the network adds the layer."""
        sequence = np.random.SeedSequence([self.config.seed, self.steps_done, micro_step])
        return mx.array(sequence.generate_state(2, dtype=np.uint32))

    def _taught(
        self, factors: Factors, _: Factors, batch: MicroBatch, key: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Return what a micro-batch's own tokens cost, and each of them."""
        return self.network.loss(factors, batch, key if self.config.dropout > 0 else None)

    def _distilled(
        self, factors: Factors, teacher: Factors, batch: MicroBatch, key: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Return how far the network is from its teacher, and the tokens' losses."""
        masks = key if self.config.dropout > 0 else None
        return self.network.divergence(teacher, factors, batch, masks)

    def _compiled(self, objective: Callable[..., Any]) -> Callable[..., Any]:
        """Return the micro-step as a function of all that changes: nothing is captured."""

        def loss(
            factors: Factors,
            teacher: Factors,
            parts: Sequence[Any],
            weight: mx.array,
            key: mx.array,
        ) -> tuple[mx.array, mx.array]:
            value, nats = objective(factors, teacher, MicroBatch.of(parts), key)
            return weight * value, nats

        with_gradients = mx.value_and_grad(loss)

        def micro_step(*arguments: Any) -> Any:
            self.compilations += 1
            return with_gradients(*arguments)

        return mx.compile(micro_step) if self._compiles else with_gradients

    def checkpoint(self) -> dict[str, bytes]:
        """Return all that an exact resume needs: file name to bytes."""
        first, second = self._moments
        return {
            WEIGHTS_FILE: to_safetensors(named(self._factors)),
            OPTIMIZER_FILE: to_safetensors({**named(first, "m."), **named(second, "v.")}),
            STATE_FILE: self._place().to_json(),
        }

    def restore(self, files: Mapping[str, bytes], *, place: str) -> None:
        """Go back to a checkpoint of the same run.

        Raises:
            IncompatibleError: It is of other rows, another rank or another plan.
        """
        found = TrainerState.from_json(files[STATE_FILE], place=f"{place}/{STATE_FILE}")
        expected = TrainerState.of(
            self._batches,
            steps_done=found.steps_done,
            planned_steps=self.planned_steps,
            hardest=found.hardest,
            hardest_before=found.hardest_before,
        )
        notes = found.check(expected, place=place)
        weights = from_safetensors(files[WEIGHTS_FILE], place=f"{place}/{WEIGHTS_FILE}")
        _same_leaves(weights, named(self._factors), place)
        moments = from_safetensors(files[OPTIMIZER_FILE], place=f"{place}/{OPTIMIZER_FILE}")
        _same_leaves(moments, {**named(self._factors, "m."), **named(self._factors, "v.")}, place)
        paths = list(self._factors)
        self._factors = unnamed(weights, paths)
        self._moments = unnamed(moments, paths, "m."), unnamed(moments, paths, "v.")
        self.steps_done = found.steps_done
        self.hardest = known(found.hardest)
        self._hardest_before = known(found.hardest_before)
        self.notes += notes

    def _place(self) -> TrainerState:
        begins = self.steps_done % self.steps_per_epoch == 0
        before = self.hardest if begins else self._hardest_before
        return TrainerState.of(
            self._batches,
            steps_done=self.steps_done,
            planned_steps=self.planned_steps,
            hardest=written(self.hardest),
            hardest_before=written(before),
        )


def _by_row(part: Sequence[Example], nats: Any) -> list[RowLoss]:
    """Return each row's loss, from those of all tokens in the order they were packed."""
    ends = np.cumsum([sum(row.supervised) for row in part])
    pieces = np.split(nats[: ends[-1]].astype(np.float64), ends[:-1])
    return [RowLoss(float(piece.sum()), float(piece.max())) for piece in pieces]


def _same_leaves(found: Mapping[str, mx.array], wanted: Mapping[str, mx.array], place: str) -> None:
    """Compare names and shapes, and name the first three that differ."""
    differences = [
        f"{name}: {_shape(found.get(name))}, expected {_shape(wanted.get(name))}"
        for name in sorted({*found, *wanted})
        if _shape(found.get(name)) != _shape(wanted.get(name))
    ]
    if differences:
        raise IncompatibleError(f"{place}: does not fit the model: {'; '.join(differences[:3])}")


def _shape(array: mx.array | None) -> str:
    return "missing" if array is None else str(tuple(array.shape))
