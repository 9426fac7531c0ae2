"""This project's trainer, called as `mlx-tune train` calls it."""

import itertools
import time
from collections.abc import Sequence

import mlx_tune  # loads the BLAS before anything imports MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn

from benchmarks.shapes import SHAPES, Shape
from benchmarks.sides import mlx_model
from benchmarks.sides.job import Job, Result, Step, TokenRow, run, summarise
from mlx_tune.data.tokenise import Example
from mlx_tune.models import bases
from mlx_tune.training import loop, memory
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.loop import Trainer
from mlx_tune.workflows.workspace import load_folded


class CountingEmbedding(nn.Embedding):
    """Counts the tokens that are embedded: those are the ones that go through the layers."""

    computed = 0

    def __call__(self, tokens: mx.array) -> mx.array:
        """Embed tokens of any shape."""
        self.computed += tokens.size
        return super().__call__(tokens)


def examples_of(rows: Sequence[TokenRow]) -> list[Example]:
    """Return rows as the trainer takes them."""
    return [
        Example(
            tokens=tuple(row.tokens),
            supervised=tuple(i >= row.answer for i in range(len(row.tokens))),
        )
        for row in rows
    ]


def config_of(job: Job, rows: int) -> TrainingConfig:
    """Return what the trainer is told."""
    return TrainingConfig(
        rank=job.rank,
        scale=job.scale,
        epochs=job.epochs,
        batch_size=job.batch_size,
        grad_accumulation=job.grad_accumulation,
        learning_rate=job.learning_rate,
        new_rows=rows,
        seed=job.seed,
        loss_chunk=memory.loss_chunk(),
    )


def load(job: Job) -> nn.Module:
    """Load the base as every command does, or build the job's shape."""
    if job.model is None:
        return mlx_model.load(job)
    return load_folded(bases.locate(job.shape), ()).model


def computed_tokens(job: Job, examples: Sequence[Example]) -> list[int | None]:
    """Return how many tokens each step runs through the layers, padding counted.

    Counted on a twin of one narrow layer that trains on the same rows, with nothing compiled, so
    that the counter is met in every step. None for a step in which it was not.
    """
    vocabulary = SHAPES[job.shape].vocabulary
    narrow = Shape(
        layers=1, hidden=8, intermediate=8, heads=1, kv_heads=1, head_dim=8, vocabulary=vocabulary
    )
    twin = mlx_model.build(narrow, dtype="float32", seed=0)
    counter = twin.model.embed_tokens = CountingEmbedding(vocabulary, narrow.hidden)
    trainer = Trainer(twin, examples, config_of(job, len(examples)))
    mx.disable_compile()
    totals = [counter.computed for _ in itertools.islice(trainer.steps(), job.max_steps)]
    mx.enable_compile()
    return [after - before or None for before, after in itertools.pairwise([0, *totals])]


def timed(trainer: Trainer, max_steps: int | None) -> list[tuple[loop.Step, float]]:
    """Train, and return each step with its seconds as they pass for the caller."""
    done, marks = [], [time.perf_counter()]
    for step in itertools.islice(trainer.steps(), max_steps):
        done.append(step)
        marks.append(time.perf_counter())
    mx.synchronize()
    marks[-1] = time.perf_counter()
    return [
        (step, after - before)
        for step, (before, after) in zip(done, itertools.pairwise(marks), strict=True)
    ]


def measure(job: Job) -> Result:
    """Train, and return what it took."""
    rows = job.read_rows()
    examples = examples_of(rows)
    computed = computed_tokens(job, examples)
    model = load(job)
    watch = mlx_model.Watch(model)
    done = timed(Trainer(model, examples, config_of(job, len(rows))), job.max_steps)
    return summarise(
        steps_of(job, rows, done, computed),
        job,
        watch.memory(),
        device=mlx_model.device(),
        versions={**mlx_model.versions(), "mlx-tune": mlx_tune.__version__},
    )


def steps_of(
    job: Job,
    rows: Sequence[TokenRow],
    done: Sequence[tuple[loop.Step, float]],
    computed: Sequence[int | None],
) -> list[Step]:
    """Return the steps in the words of every side.

    A step does not say which rows it had: what they teach is the mean of all rows.
    """
    taught = sum(row.supervised for row in rows) / len(rows)
    found = []
    for (step, seconds), through in zip(done, computed, strict=True):
        size = rows_in(step.ends_epoch, job, len(rows))
        found.append(
            Step(
                seconds=seconds,
                loss=step.loss,
                rows=size,
                tokens=step.tokens,
                supervised_tokens=taught * size,
                computed_tokens=through,
                head_positions=taught * size,  # the head is computed where something is taught
            )
        )
    return found


def rows_in(ends_epoch: bool, job: Job, rows: int) -> int:
    """Return the rows of a step: the last of an epoch has what is left."""
    return (rows - 1) % job.effective_batch + 1 if ends_epoch else job.effective_batch


if __name__ == "__main__":
    run(measure)
