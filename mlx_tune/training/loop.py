"""The training loop: one optimizer update per step, and checkpoints for an exact resume."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError, NotFiniteError
from mlx_tune.models import runtime
from mlx_tune.training import memory, optimizer
from mlx_tune.training.adapter import (
    WEIGHTS_FILE,
    Adapter,
    Factors,
    flatten_factors,
    from_safetensors,
    init_adapter,
    to_safetensors,
    unflatten_factors,
)
from mlx_tune.training.batches import Batches, MicroBatch, collate, shape_of
from mlx_tune.training.checkpoint import TrainerState
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.generic import network
from mlx_tune.training.mixture import LABELS, UNKNOWN_LOSS, Teacher
from mlx_tune.training.optimizer import AdamW, global_norm
from mlx_tune.training.shapes import Shape

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised besides the cross-entropy of the rows' own tokens.

    Attributes:
        penalty: A regularisation term of the adapter's factors alone, float32 (); added once to
            every step.
        teachers: The factors with which the model's frozen weights are a teacher, so that no second
            model is in memory; a teacher that is not listed is the frozen weights themselves.
    """

    penalty: Callable[[Factors], mx.array] | None = None
    teachers: Mapping[Teacher, Factors] = field(default_factory=dict)


class RowLoss(NamedTuple):
    """The cross-entropy of a row in a step, before the update, in nats."""

    total: float
    """The sum over its supervised tokens."""
    max_token_loss: float
    """The largest of them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer update that has happened.

    Attributes:
        number: Counted from 1.
        epoch: Counted from 1.
        loss: Cross-entropy before the update, nats per supervised token, of the rows whose labels
            are their own tokens; of all rows where there are none such. Without penalties.
        learning_rate: Learning rate of this update.
        grad_norm: Global norm of the gradients before clipping.
        tokens: Tokens of the rows, with the prefix of each, without padding.
        seconds: Wall time.
        peak_memory_bytes: MLX's peak of memory in use so far.
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
    """One run: a model, an adapter, an optimizer, and the number of steps done.

    Attributes:
        model: The model, merged and frozen.
        config: The configuration of the run.
        steps_done: Optimizer updates so far.
        planned_steps: Optimizer updates of the whole run.
        missing_projections: The projections that this architecture lacks.
        shapes: Each unpadded shape of the run, and the shape it is padded to.
        padding: Fraction of the computed tokens that are padding, 0 to 1.
        compilations: How often a step was traced for the compiler.
        max_token_losses: The largest token loss of every example when it was last trained on, nats;
            ``UNKNOWN_LOSS`` before that. At the end of an epoch a caller that has measured examples
            may write it; those of the next epoch are chosen by it.
        network: The model as a function of the adapter's factors.
        notes: Notes for the user, one line each: versions that changed since a checkpoint.
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
        """Initialise an adapter and the optimizer, before the first step.

        Args:
            model: An mlx-lm language model, merged and frozen.
            examples: The tokenised rows, one after another in all their wordings.
            config: The configuration of the run.
            objective: What is minimised besides cross-entropy; None for nothing.
            batches: The micro-batches of the rows; None to make them here.

        Raises:
            InputError: There are no rows.
            IncompatibleError: The architecture lacks the projections, or an option needs that it is
                known.
        """
        if not examples:
            raise InputError("no rows to train on")
        self._objective = objective or Objective()
        self.max_token_losses = [UNKNOWN_LOSS] * len(examples)
        self._max_token_losses_before = list(self.max_token_losses)  # when the epoch began
        self.model, self.config = model, config
        self.steps_done = 0
        self.notes: list[str] = []
        self.planned_steps = config.planned_steps(len(examples))
        decay_epochs = min(config.decay_epochs or config.epochs, config.epochs)
        self._decay_steps = self.steps_per_epoch * decay_epochs
        goes_on = self._decay_steps < self.planned_steps
        self._lowest_rate = optimizer.LOWEST_RATE * config.learning_rate if goes_on else 0.0
        self._warmup = optimizer.warmup_steps(config.new_rows, self._decay_steps)
        adapter, self.missing_projections = init_adapter(
            model, rank=config.rank, scale=config.scale, seed=config.seed
        )
        self._factors = dict(adapter.factors)
        self._compiles = runtime.can_compile() if config.compile is None else config.compile
        self._optimizer = AdamW(lora_plus_ratio=config.lora_plus_ratio, compiled=self._compiles)
        self._moments = self._optimizer.init(self._factors)
        self.network = network(
            model,
            scale=config.scale,
            dropout=config.dropout,
            checkpoint_layers=config.checkpoint_layers,
            loss_chunk=config.loss_chunk,
        )
        self._batches = batches or config.batches(examples, share_prefix=self.network.shares_prefix)
        self.shapes, self.padding = self._batches.shapes, self._batches.padding
        self._padded_shapes = tuple(dict.fromkeys(self.shapes.values()))
        self.compilations = 0
        self._label_step = self._compiled(has_teacher=False)
        self._teacher_step = self._compiled(has_teacher=True)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates per epoch."""
        return self.planned_steps // self.config.epochs

    def epoch_examples(self) -> frozenset[int]:
        """Return the examples of the epoch of the last step, as indices."""
        epoch = (self.steps_done - 1) // self.steps_per_epoch
        return frozenset(self._batches.order(epoch, self._max_token_losses_before))

    def adapter(self) -> Adapter:
        """Return the adapter as it stands."""
        return Adapter(factors=dict(self._factors), rank=self.config.rank, scale=self.config.scale)

    def steps(self) -> Iterator[Step]:
        """Train until the end of the run, yielding each step after its update.

        Raises:
            NotFiniteError: The loss is no longer finite; the adapter is that of the step before.
        """
        wired = memory.limit_bytes() if self.config.wire_memory else 0
        with memory.limits_of_a_run(self.config.cache_bytes, wired_bytes=wired):
            while self.steps_done < self.planned_steps:
                epoch, done = divmod(self.steps_done, self.steps_per_epoch)
                if done == 0:
                    self._max_token_losses_before = list(self.max_token_losses)
                steps = self._batches.steps(epoch, self._max_token_losses_before)
                for rows in itertools.islice(steps, done, None):
                    yield self._step(rows)

    def _step(self, rows: Sequence[int]) -> Step:
        began = time.perf_counter()
        number = self.steps_done + 1
        rate = optimizer.learning_rate(
            number,
            peak=self.config.learning_rate,
            decay_steps=self._decay_steps,
            warmup=self._warmup,
            lowest=self._lowest_rate,
        )
        loss, gradients, row_losses = self.loss_and_gradients(rows)
        norm = global_norm(gradients)
        mx.eval(loss, norm)
        if not (mx.isfinite(loss) & mx.isfinite(norm)).item():
            raise NotFiniteError(
                f"step {number}: the loss is no longer finite, so training stopped before the "
                "update; lower --learning-rate and train again"
            )
        self._factors, self._moments = self._optimizer.update(
            self._factors, gradients, self._moments, norm=norm, rate=rate, step=number
        )
        mx.eval(self._factors, self._moments)
        self.steps_done = number
        for row, row_loss in row_losses.items():
            self.max_token_losses[row] = row_loss.max_token_loss
        mixture = self._batches.mixture
        labelled = [row for row in row_losses if mixture.source_of(row).teacher == LABELS]
        counted = labelled or list(row_losses)
        return Step(
            number=number,
            epoch=(number - 1) // self.steps_per_epoch + 1,
            loss=sum(row_losses[row].total for row in counted) / self._supervised(counted),
            learning_rate=rate,
            grad_norm=float(np.array(norm)),
            tokens=sum(len(row.tokens) for row in self._batches.rows(rows)),
            seconds=time.perf_counter() - began,
            peak_memory_bytes=mx.get_peak_memory(),
            ends_epoch=number % self.steps_per_epoch == 0,
        )

    def _supervised(self, rows: Sequence[int]) -> int:
        """Return the number of supervised tokens of some rows, given as indices."""
        return sum(sum(example.supervised) for example in self._batches.rows(rows))

    def loss_and_gradients(
        self, rows: Sequence[int]
    ) -> tuple[mx.array, Factors, dict[int, RowLoss]]:
        """Return the loss of an effective batch and its gradients, at the current step.

        Both are sums over supervised tokens divided by their number in the whole effective batch,
        so neither depends on how the rows are split into micro-batches. A penalty adds to the
        gradients only.

        Args:
            rows: The rows of the effective batch, as indices.

        Returns:
            What is minimised, without the penalty, nats per token, float32 (); its gradients,
            float32, in the tree of the factors; and the cross-entropy of each row.
        """
        per_token = mx.array(1 / self._supervised(rows), dtype=mx.float32)
        loss, row_losses = mx.array(0.0), dict[int, RowLoss]()
        penalty = self._objective.penalty
        gradients = None if penalty is None else mx.grad(penalty)(self._factors)
        for index, part in enumerate(self._batches.micro_batches(rows)):
            examples = self._batches.rows(part)
            batch = collate(examples, self._batches.prefix, self._padded(examples))
            source = self._batches.mixture.source_of(part[0])
            micro_step = self._label_step if source.teacher == LABELS else self._teacher_step
            teacher = self._objective.teachers.get(source.teacher, {})
            (value, nats), added = micro_step(
                self._factors, teacher, batch.arrays(), source.weight * per_token, self._key(index)
            )
            loss = loss + value
            gradients = added if gradients is None else tree_map(mx.add, gradients, added)
            mx.eval(loss, gradients, nats)  # frees this micro-batch's activations before the next
            row_losses.update(zip(part, _by_row(examples, np.array(nats)), strict=True))
        assert gradients is not None, "a step has at least one row"
        return loss, gradients, row_losses

    def _padded(self, part: Sequence[Example]) -> Shape | None:
        """Return the shape to pad a micro-batch to: as planned, or the smallest of the run's."""
        shape = shape_of(part, self._batches.prefix)
        if shape in self.shapes:
            return self.shapes[shape]
        fitting = [padded for padded in self._padded_shapes if padded.holds(shape)]
        return min(fitting, key=lambda padded: padded.tokens, default=None)

    def _key(self, micro_step: int) -> mx.array:
        """Return the dropout's random key, of seed, step and micro-step; uint32 (2,)."""
        sequence = np.random.SeedSequence([self.config.seed, self.steps_done, micro_step])
        return mx.array(sequence.generate_state(2, dtype=np.uint32))

    def _compiled(self, *, has_teacher: bool) -> Callable[..., Any]:
        """Return the step of a micro-batch; all that changes is an argument, nothing captured."""

        def loss(
            factors: Factors,
            teacher: Factors,
            arrays: Sequence[Any],
            weight: mx.array,
            key: mx.array,
        ) -> tuple[mx.array, mx.array]:
            dropout_key = key if self.config.dropout > 0 else None
            batch = MicroBatch.from_arrays(arrays)
            if has_teacher:
                value, nats = self.network.divergence(teacher, factors, batch, dropout_key)
            else:
                value, nats = self.network.loss(factors, batch, dropout_key)
            return weight * value, nats

        with_gradients = mx.value_and_grad(loss)

        def micro_step(*arguments: Any) -> Any:
            self.compilations += 1
            return with_gradients(*arguments)

        return mx.compile(micro_step) if self._compiles else with_gradients

    def checkpoint(self) -> dict[str, bytes]:
        """Return the files that an exact resume needs: file name to bytes."""
        ends_epoch = self.steps_done % self.steps_per_epoch == 0
        before = self.max_token_losses if ends_epoch else self._max_token_losses_before
        state = TrainerState.of(
            self._batches,
            steps_done=self.steps_done,
            planned_steps=self.planned_steps,
            max_token_losses=self.max_token_losses,
            max_token_losses_before=before,
        )
        return {
            WEIGHTS_FILE: to_safetensors(flatten_factors(self._factors)),
            OPTIMIZER_FILE: to_safetensors(_flatten_moments(*self._moments)),
            STATE_FILE: state.to_json(),
        }

    def restore(self, files: Mapping[str, bytes], *, place: str) -> None:
        """Return to a checkpoint of the same run.

        Args:
            files: What :meth:`checkpoint` returned.
            place: The folder of the files, for messages.

        Raises:
            IncompatibleError: The checkpoint has other rows, another rank or another number of
                steps.
            DamagedStoreError: A file is malformed.
            InputError: A file holds a NaN or an infinity.
        """
        found = TrainerState.from_json(files[STATE_FILE], place=f"{place}/{STATE_FILE}")
        expected = TrainerState.of(
            self._batches,
            steps_done=found.steps_done,
            planned_steps=self.planned_steps,
            max_token_losses=found.max_token_losses,
            max_token_losses_before=found.max_token_losses_before,
        )
        notes = found.check(expected, place=place)
        weights = from_safetensors(files[WEIGHTS_FILE], place=f"{place}/{WEIGHTS_FILE}")
        _same_leaves(weights, flatten_factors(self._factors), place)
        moments = from_safetensors(files[OPTIMIZER_FILE], place=f"{place}/{OPTIMIZER_FILE}")
        _same_leaves(moments, _flatten_moments(self._factors, self._factors), place)
        paths = list(self._factors)
        self._factors = unflatten_factors(weights, paths)
        first, second = (unflatten_factors(moments, paths, prefix) for prefix in ("m.", "v."))
        self._moments = first, second
        self.steps_done = found.steps_done
        self.max_token_losses = list(found.max_token_losses)
        self._max_token_losses_before = list(found.max_token_losses_before)
        self.notes += notes


def _by_row(part: Sequence[Example], nats: Any) -> list[RowLoss]:
    """Return the loss of each row of a micro-batch.

    Args:
        part: The rows.
        nats: The cross-entropies of their supervised tokens, row after row, float32; then padding.
    """
    ends = np.cumsum([sum(row.supervised) for row in part])
    pieces = np.split(nats[: ends[-1]].astype(np.float64), ends[:-1])
    return [RowLoss(float(piece.sum()), float(piece.max())) for piece in pieces]


def _flatten_moments(first: Factors, second: Factors) -> dict[str, mx.array]:
    return {**flatten_factors(first, "m."), **flatten_factors(second, "v.")}


def _same_leaves(found: Mapping[str, mx.array], wanted: Mapping[str, mx.array], place: str) -> None:
    """Raise an error that names the first three arrays whose names or shapes differ."""
    differences = []
    for name in sorted({*found, *wanted}):
        shape, expected = (
            str(arrays[name].shape) if name in arrays else "missing" for arrays in (found, wanted)
        )
        if shape != expected:
            differences.append(f"{name}: {shape}, expected {expected}")
    if differences:
        raise IncompatibleError(f"{place}: does not fit the model: {'; '.join(differences[:3])}")
