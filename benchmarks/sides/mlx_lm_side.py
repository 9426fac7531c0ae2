"""mlx-lm's own LoRA trainer, as `mlx_lm.lora --train --mask-prompt` calls it.

It imports no mlx_tune, so that MLX comes with the BLAS of its wheel; whoever wants the fast one
imports mlx_tune first, in the same process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers

from benchmarks.sides import mlx_model
from benchmarks.sides.job import PROJECTIONS, Job, Result, Step, TokenRow, run, summarise


class Spelled:
    """Stands in for a tokenizer: a message's content spells its tokens as numbers.

    So mlx-lm's dataset makes the very tokens that the other sides train on, instead of the
    chat template's, which go on for a line break after the answer's end.
    """

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: object) -> list[int]:
        """Return the tokens that the messages spell."""
        return [int(word) for message in messages for word in message["content"].split()]


@dataclass
class Counter:
    """Wraps mlx-lm's batches and keeps what is in each: its trainer counts neither rows nor tokens.

    Attributes:
        batches: Of each batch handed out, (rows, real tokens, taught tokens, computed tokens).
    """

    batches: list[tuple[int, int, int, int]] = field(default_factory=list)

    def iterate(self, *args: Any, **kwargs: Any) -> Iterator[tuple[mx.array, mx.array]]:
        """Yield what mlx-lm's own iterate_batches does."""
        for tokens, spans in iterate_batches(*args, **kwargs):
            begins, ends = np.array(spans).T
            rows, width = tokens.shape
            # Its mask is one longer than ends - begins: that token is padding, and not counted.
            taught = int((ends - begins).sum())
            self.batches.append((rows, int(ends.sum()), taught, rows * (width - 1)))
            yield tokens, spans


class Clock(TrainingCallback):
    """Keeps the seconds and the loss of each iteration, as mlx-lm reports them."""

    def __init__(self) -> None:
        self.iterations: list[tuple[float, float]] = []

    def on_train_loss_report(self, train_info: dict[str, float]) -> None:
        """Keep one report; one is made after every iteration."""
        seconds = 1 / train_info["iterations_per_second"]
        self.iterations.append((seconds, train_info["train_loss"]))


def dataset(rows: Sequence[TokenRow]) -> CacheDataset:
    """Return rows as mlx-lm holds a chat data set with its prompts masked."""
    data = [
        {
            "messages": [
                {"role": "user", "content": " ".join(map(str, row.tokens[: row.answer]))},
                {"role": "assistant", "content": " ".join(map(str, row.tokens[row.answer :]))},
            ]
        }
        for row in rows
    ]
    return CacheDataset(ChatDataset(data, Spelled(), mask_prompt=True))


def iterations(job: Job, rows: int) -> int:
    """Return how many iterations train the job: whole steps, for it throws away a partial one.

    It drops the rows that do not fill a batch, too, so an epoch has fewer steps than rows ask for.
    """
    steps = rows // job.batch_size * job.epochs // job.grad_accumulation
    return min(steps, job.max_steps or steps) * job.grad_accumulation


def measure(job: Job) -> Result:
    """Train, and return what it took."""
    rows = job.read_rows()
    model = mlx_model.load(job)
    watch = mlx_model.Watch(model)
    np.random.seed(job.seed)  # the order of its batches is drawn from the global state
    mx.random.seed(job.seed)
    model.freeze()
    parameters = {"rank": job.rank, "scale": job.scale, "dropout": 0.0, "keys": PROJECTIONS}
    linear_to_lora_layers(model, len(model.layers), parameters)
    counter, clock = Counter(), Clock()
    train(
        model=model,
        optimizer=optim.AdamW(job.learning_rate, weight_decay=0.0),
        train_dataset=dataset(rows),
        args=TrainingArgs(
            batch_size=job.batch_size,
            iters=iterations(job, len(rows)),
            steps_per_report=1,
            max_seq_length=max(2048, 2 * max(len(row.tokens) for row in rows)),  # truncates none
            grad_accumulation_steps=job.grad_accumulation,
            adapter_file=str(Path(job.folder) / "adapters.safetensors"),
        ),
        iterate_batches=counter.iterate,
        training_callback=clock,
    )
    return summarise(
        steps(job, counter, clock),
        job,
        watch.memory(),
        device=mlx_model.device(),
        versions=mlx_model.versions(),
    )


def steps(job: Job, counter: Counter, clock: Clock) -> list[Step]:
    """Put the iterations of each optimizer update together."""
    found = []
    for begin in range(0, len(clock.iterations), job.grad_accumulation):
        window = slice(begin, begin + job.grad_accumulation)
        seconds, losses = zip(*clock.iterations[window], strict=True)
        rows, tokens, taught, computed = map(sum, zip(*counter.batches[window], strict=True))
        found.append(
            Step(
                seconds=sum(seconds),
                loss=sum(losses) / len(losses),
                rows=rows,
                tokens=tokens,
                supervised_tokens=taught,
                computed_tokens=computed,
                head_positions=computed,
            )
        )
    return found


if __name__ == "__main__":
    run(measure)
