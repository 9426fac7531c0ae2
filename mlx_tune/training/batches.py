"""Which rows are taught in which step, and the arrays of each micro-step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_tune.data.tokenise import Example

_WORTHWHILE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The rows of one forward and backward pass.

    Attributes:
        tokens: What follows the shared prefix, right-padded with 0, int32 (rows, width). Padding
            comes after everything that is taught, so a causal mask hides it.
        positions: Where, in the flattened (rows * width), a supervised token is predicted from,
            int32 (supervised,).
        targets: The supervised tokens, int32 (supervised,).
        rows: Which row of the batch each supervised token belongs to, int32 (supervised,).
    """

    tokens: mx.array
    positions: mx.array
    targets: mx.array
    rows: mx.array

    @property
    def supervised_tokens(self) -> int:
        """How many tokens are taught."""
        return int(self.targets.size)


def shared_prefix(examples: Sequence[Example]) -> int:
    """Return how many leading tokens all examples share, 0 when too few to pay.

    The prefix ends at least one token before anything supervised: the first supervised token is
    predicted from a token of the row itself. Under eight tokens, splitting every layer's work
    in two costs about what it saves.
    """
    if len(examples) < 2:
        return 0
    limit = min(example.first_supervised - 1 for example in examples)
    first, last = min(e.tokens for e in examples), max(e.tokens for e in examples)
    common = 0
    for a, b in zip(first, last, strict=False):  # the extremes in order differ soonest
        if a != b:
            break
        common += 1
    length = min(common, limit)
    return length if length >= _WORTHWHILE_TOKENS else 0


def collate(examples: Sequence[Example], prefix_tokens: int) -> MicroBatch:
    """Pad examples to one width and point at what is taught."""
    # The last token of a row predicts nothing that is taught, so it is no input.
    inputs = [example.tokens[prefix_tokens:-1] for example in examples]
    width = max(map(len, inputs))
    tokens = np.zeros((len(inputs), width), dtype=np.int32)
    positions, targets, rows = [], [], []
    for row, (example, values) in enumerate(zip(examples, inputs, strict=True)):
        tokens[row, : len(values)] = values
        for t in np.flatnonzero(example.supervised):
            positions.append(row * width + int(t) - 1 - prefix_tokens)
            targets.append(example.tokens[t])
            rows.append(row)
    return MicroBatch(
        tokens=mx.array(tokens),
        positions=mx.array(positions, dtype=mx.int32),
        targets=mx.array(targets, dtype=mx.int32),
        rows=mx.array(rows, dtype=mx.int32),
    )


def epoch(
    examples: Sequence[Example], *, seed: int, number: int, effective_batch: int
) -> Iterator[list[Example]]:
    """Yield the examples of each step of an epoch: every one once, in an order of its own.

    The order depends on (seed, number) alone, so a resumed run meets the same one.
    """
    order = np.random.default_rng([seed, number]).permutation(len(examples))
    for begin in range(0, len(order), effective_batch):
        yield [examples[i] for i in order[begin : begin + effective_batch]]


def micro_batches(
    examples: Sequence[Example], *, size: int, prefix_tokens: int
) -> Iterator[MicroBatch]:
    """Split a step's examples into micro-batches of similar length."""
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    for begin in range(0, len(ordered), size):
        yield collate(ordered[begin : begin + size], prefix_tokens)
