"""What a side is told and what it answers; standard library only, for every side imports it."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""What is adapted, in every layer, on every side."""


class TokenRow(NamedTuple):
    """One row as every side meets it: its tokens, and where the answer begins that is taught."""

    tokens: list[int]
    answer: int

    @property
    def supervised(self) -> int:
        """How many tokens are taught: the answer to its end."""
        return len(self.tokens) - self.answer


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training that a side is to carry out and time.

    Attributes:
        rows: A file of rows; see :func:`write_rows`.
        folder: To write into; it is thrown away afterwards.
        model: A folder with Hugging Face's names, or None to build `shape` with random weights.
        shape: One of `shapes.SHAPES`.
        dtype: Of the weights, where they are random or where a side chooses: "float32", "bfloat16".
        rank: Of the adapter.
        scale: Multiplier of the adapter's product.
        learning_rate: The peak, or the one there is.
        batch_size: Rows of a micro-batch.
        grad_accumulation: Micro-batches of a step.
        epochs: Passes over the rows.
        warmup: Steps at the beginning that do not count.
        max_steps: Stop after so many; None trains all epochs.
        seed: Of the adapter's first values and of the order of rows.
    """

    rows: str
    folder: str
    model: str | None
    shape: str
    dtype: str
    rank: int
    scale: float
    learning_rate: float
    batch_size: int
    grad_accumulation: int
    epochs: int
    warmup: int
    max_steps: int | None
    seed: int

    @property
    def effective_batch(self) -> int:
        """Rows a step."""
        return self.batch_size * self.grad_accumulation

    def read_rows(self) -> list[TokenRow]:
        """Read the rows to train on."""
        return [TokenRow(*row) for row in json.loads(Path(self.rows).read_text())]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer update as a side saw it.

    Attributes:
        seconds: Wall time.
        loss: As the side reports it, nats a token.
        rows: Real ones.
        tokens: Of the rows, padding not counted.
        supervised_tokens: Taught; a mean where a side cannot tell.
        computed_tokens: That went through the layers, padding counted; None where unknown.
        head_positions: That the output head was computed for.
    """

    seconds: float
    loss: float
    rows: int
    tokens: int
    supervised_tokens: float
    computed_tokens: int | None
    head_positions: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a side measured; the counts are sums over the steps after the warm-up.

    Attributes:
        rows: See :class:`Step`, as for the next four.
        tokens: See there.
        supervised_tokens: See there.
        computed_tokens: See there.
        head_positions: See there.
        seconds: Sum of the steps'.
        step_seconds: Of each step that counts.
        warmup_seconds: Of each that does not.
        losses: Of every step.
        weights_bytes: Of the base model, as it lies in memory.
        peak_memory_bytes: The allocator's peak, weights included, or None where it has no say.
        resident_before_bytes: Of the process once the weights lie in memory, or None.
        resident_peak_bytes: The most since then, or None.
        device: In words.
        versions: By package.
    """

    rows: int
    tokens: int
    supervised_tokens: int
    computed_tokens: int | None
    head_positions: int
    seconds: float
    step_seconds: list[float]
    warmup_seconds: list[float]
    losses: list[float]
    weights_bytes: int
    peak_memory_bytes: int | None
    resident_before_bytes: int | None
    resident_peak_bytes: int | None
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a side held; see :class:`Result`."""

    weights_bytes: int
    peak_memory_bytes: int | None
    resident_before_bytes: int | None
    resident_peak_bytes: int | None


def summarise(
    steps: Sequence[Step], job: Job, memory: Memory, *, device: str, versions: dict[str, str]
) -> Result:
    """Add up the steps after the warm-up.

    Raises:
        ValueError: None is left.
    """
    counted = steps[job.warmup :]
    if not counted:
        raise ValueError(f"{len(steps)} steps, all of them warm-up; train on more rows or epochs")
    computed = [step.computed_tokens for step in counted if step.computed_tokens is not None]
    return Result(
        rows=sum(step.rows for step in counted),
        tokens=sum(step.tokens for step in counted),
        supervised_tokens=round(sum(step.supervised_tokens for step in counted)),
        computed_tokens=sum(computed) if len(computed) == len(counted) else None,
        head_positions=round(sum(step.head_positions for step in counted)),
        seconds=sum(step.seconds for step in counted),
        step_seconds=[step.seconds for step in counted],
        warmup_seconds=[step.seconds for step in steps[: job.warmup]],
        losses=[step.loss for step in steps],
        **dataclasses.asdict(memory),
        device=device,
        versions=versions,
    )


def write_rows(path: Path, rows: Sequence[TokenRow]) -> None:
    """Write rows for the sides to read: a JSON list of [tokens, answer]."""
    path.write_text(json.dumps(rows))


def run(measure: Callable[[Job], Result]) -> None:
    """Carry out the job named on the command line and print one line, the result as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    with contextlib.redirect_stdout(sys.stderr):  # mlx-lm's trainer prints as it goes
        result = measure(job)
    print(json.dumps(dataclasses.asdict(result)))
