"""The training loop: one optimizer update a step, and everything an exact resume needs."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError
from mlx_tune.training import batches, schedule
from mlx_tune.training.adapter import (
    WEIGHTS_FILE,
    Adapter,
    adapter_of,
    attach,
    from_safetensors,
    to_safetensors,
)
from mlx_tune.training.forward import can_share_prefix
from mlx_tune.training.loss import loss_and_gradients

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
_CLIP_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What the loop is told; `sizing` decides it.

    Attributes:
        rank: Of the adapter.
        scale: alpha / rank.
        epochs: Passes over the rows.
        batch_size: Rows of a micro-batch.
        grad_accumulation: Micro-batches of a step.
        learning_rate: The peak.
        new_rows: Rows of the data set, rehearsed ones not counted; they set the warm-up.
        seed: Of the adapter's first values and of the order of rows.
        grad_checkpoint: Recompute layers in the backward pass, for less memory.
    """

    rank: int
    scale: float
    epochs: int
    batch_size: int
    grad_accumulation: int
    learning_rate: float
    new_rows: int
    seed: int
    grad_checkpoint: bool = False

    @property
    def effective_batch(self) -> int:
        """Rows a step."""
        return self.batch_size * self.grad_accumulation

    def planned_steps(self, rows: int) -> int:
        """Return the number of optimizer updates: ⌈rows / effective batch⌉ · epochs."""
        return -(-rows // self.effective_batch) * self.epochs


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer update that has happened.

    Attributes:
        number: Counted from 1.
        epoch: Counted from 1.
        loss: Before the update, nats per supervised token.
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
    """One run: a model with a fresh adapter, an optimizer, and a place in the order of steps."""

    def __init__(
        self, model: nn.Module, examples: Sequence[Example], config: TrainingConfig
    ) -> None:
        if not examples:
            raise InputError("no rows to train on")
        self.model, self.examples, self.config = model, list(examples), config
        self.steps_done = 0
        self.planned_steps = config.planned_steps(len(self.examples))
        self._warmup = schedule.warmup_steps(config.new_rows, self.planned_steps)
        self.missing_projections = attach(
            model, rank=config.rank, scale=config.scale, seed=config.seed
        )
        self._optimizer = optim.AdamW(
            config.learning_rate, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0,
            bias_correction=True,
        )  # fmt: skip
        self._optimizer.init(model.trainable_parameters())
        self.prefix_tokens = batches.shared_prefix(self.examples) * can_share_prefix(model)
        self._prefix = mx.array(self.examples[0].tokens[: self.prefix_tokens], dtype=mx.int32)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates an epoch."""
        return self.planned_steps // self.config.epochs

    def adapter(self) -> Adapter:
        """Return the adapter as it stands."""
        return adapter_of(self.model, rank=self.config.rank, scale=self.config.scale)

    def steps(self) -> Iterator[Step]:
        """Train from where the run stands to its end, yielding each step once it has happened.

        Raises:
            InputError: The loss is no longer finite; the adapter of the step before is kept.
        """
        self.model.train()
        while self.steps_done < self.planned_steps:
            number, within = divmod(self.steps_done, self.steps_per_epoch)
            order = batches.epoch(
                self.examples,
                seed=self.config.seed,
                number=number,
                effective_batch=self.config.effective_batch,
            )
            for index, rows in enumerate(order):
                if index >= within:
                    yield self._step(rows)
        self.model.eval()

    def _step(self, rows: Sequence[Example]) -> Step:
        began = time.perf_counter()
        number = self.steps_done + 1
        rate = schedule.learning_rate(
            number,
            peak=self.config.learning_rate,
            planned_steps=self.planned_steps,
            warmup=self._warmup,
        )
        parts = list(
            batches.micro_batches(
                rows, size=self.config.batch_size, prefix_tokens=self.prefix_tokens
            )
        )
        loss, gradients = loss_and_gradients(
            self.model, parts, self._prefix, checkpoint=self.config.grad_checkpoint
        )
        gradients, norm = optim.clip_grad_norm(gradients, _CLIP_NORM)
        mx.eval(norm)
        if not (mx.isfinite(loss) & mx.isfinite(norm)).item():
            raise InputError(
                f"step {number}: the loss is no longer finite, so training stopped before the "
                "update; lower --learning-rate and train again"
            )
        self._optimizer.learning_rate = rate
        self._optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self._optimizer.state)
        self.steps_done = number
        return Step(
            number=number,
            epoch=(number - 1) // self.steps_per_epoch + 1,
            loss=float(np.array(loss)),
            learning_rate=rate,
            grad_norm=float(np.array(norm)),
            tokens=sum(len(row.tokens) for row in rows),
            seconds=time.perf_counter() - began,
            peak_memory_bytes=mx.get_peak_memory(),
            ends_epoch=number % self.steps_per_epoch == 0,
        )

    def checkpoint(self) -> dict[str, bytes]:
        """Return all that an exact resume needs: file name to bytes."""
        optimizer = dict(tree_flatten(self._optimizer.state))
        state = {"steps_done": self.steps_done, "planned_steps": self.planned_steps}
        return {
            WEIGHTS_FILE: to_safetensors(dict(tree_flatten(self.model.trainable_parameters()))),
            OPTIMIZER_FILE: to_safetensors(optimizer),
            STATE_FILE: (json.dumps(state) + "\n").encode(),
        }

    def restore(self, files: Mapping[str, bytes], *, place: str) -> None:
        """Go back to a checkpoint of the same run.

        Raises:
            IncompatibleError: It is of other rows, another rank or another plan.
        """
        state = json.loads(files[STATE_FILE])
        if state["planned_steps"] != self.planned_steps:
            raise IncompatibleError(
                f"{place}: plans {state['planned_steps']} steps, this run {self.planned_steps}; "
                "resume with the rows and settings it began with"
            )
        weights = from_safetensors(files[WEIGHTS_FILE], place=f"{place}/{WEIGHTS_FILE}")
        _same_leaves(weights, dict(tree_flatten(self.model.trainable_parameters())), place)
        self.model.update(tree_unflatten(list(weights.items())))
        optimizer = from_safetensors(files[OPTIMIZER_FILE], place=f"{place}/{OPTIMIZER_FILE}")
        _same_leaves(optimizer, dict(tree_flatten(self._optimizer.state)), place)
        self._optimizer.state = tree_unflatten(list(optimizer.items()))
        self.steps_done = int(state["steps_done"])


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
