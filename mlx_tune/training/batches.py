"""The micro-batches of a run: which rows each step has, and the arrays of each micro-batch."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_tune.data.tokenise import Example
from mlx_tune.training.layout import Layout
from mlx_tune.training.mixture import TEACHERS, UNKNOWN_LOSS, Mixture, Teacher
from mlx_tune.training.shapes import Shape, cover, few_shapes

_MIN_PREFIX = 8  # tokens


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The rows of one forward and backward pass.

    Attributes:
        tokens: The shared prefix once, then row after row, int32 (tokens,). Padding tokens are at
            the end of a row, after everything that is supervised.
        layout: Where each token is in the padded grid that attention needs.
        positions: The index in ``tokens`` from which each supervised token is predicted, int32
            (supervised,).
        targets: The supervised tokens, int32 (supervised,).
        weights: 1 for each of them, 0 for padding, float32 (supervised,).
    """

    tokens: mx.array
    layout: Layout
    positions: mx.array
    targets: mx.array
    weights: mx.array

    def arrays(self) -> tuple[int, *tuple[mx.array, ...]]:
        """Return the prefix's length and all arrays, as arguments of a compiled function."""
        layout = self.layout
        return (
            layout.prefix, layout.grid, layout.cells,
            self.tokens, self.positions, self.targets, self.weights,
        )  # fmt: skip

    @staticmethod
    def from_arrays(arrays: Sequence[Any]) -> "MicroBatch":
        """Return the micro-batch of these arrays; the inverse of :meth:`arrays`."""
        prefix, grid, cells, tokens, positions, targets, weights = arrays
        layout = Layout(prefix=prefix, grid=grid, cells=cells)
        return MicroBatch(
            tokens=tokens, layout=layout, positions=positions, targets=targets, weights=weights
        )


def shared_prefix(examples: Sequence[Example]) -> tuple[int, ...]:
    """Return the tokens that most examples begin with; none where sharing them saves nothing.

    A prefix ends at least one token before anything supervised, because the first supervised token
    is predicted from a token of the row itself. A prefix of under eight tokens saves about as much
    as the second attention in every layer costs. Rows that begin differently (``text`` rows among
    chats) are in micro-batches without a prefix.
    """
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        if example.first_supervised - 1 >= _MIN_PREFIX:
            groups.setdefault(example.tokens[:_MIN_PREFIX], []).append(example)
    if not groups:
        return ()
    alike = max(groups.values(), key=len)
    if len(alike) < 2:
        return ()
    first, last = min(e.tokens for e in alike), max(e.tokens for e in alike)
    length = min(example.first_supervised - 1 for example in alike)
    length = min(length, len(first), len(last))
    # The extremes of the sorted rows differ first.
    return first[: next((i for i in range(length) if first[i] != last[i]), length)]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """All micro-batches of a run, known before its first step.

    Attributes:
        examples: The tokenised rows, one after another in all their wordings.
        epochs: Number of epochs.
        batch_size: Rows of a micro-batch.
        effective_batch: Rows of a step.
        seed: Seed of the order of the rows.
        mixture: Which examples an epoch has.
        prefix: The tokens that most rows begin with.
    """

    examples: Sequence[Example]
    epochs: int
    batch_size: int
    effective_batch: int
    seed: int
    mixture: Mixture
    prefix: tuple[int, ...] = ()

    @cached_property
    def rows_sha256(self) -> str:
        """The sha256 (hex) of the tokens of all examples and of which are supervised."""
        digest = sha256()
        for example in self.examples:
            digest.update(json.dumps([example.tokens, example.supervised]).encode())
        return digest.hexdigest()

    def steps(self, epoch: int, losses: Sequence[float]) -> Iterator[list[int]]:
        """Yield the examples of each step of an epoch, as indices; see :meth:`order`."""
        order = self.order(epoch, losses)
        for begin in range(0, len(order), self.effective_batch):
            yield order[begin : begin + self.effective_batch]

    def order(self, epoch: int, losses: Sequence[float]) -> list[int]:
        """Return the examples of an epoch, as indices in the order they are taken.

        They depend only on the seed, the epoch and the losses, so a resumed run takes the same.

        Args:
            epoch: Counted from 0.
            losses: The largest token loss of each example when the epoch began, nats; see
                :meth:`mlx_tune.training.mixture.DataSource.epoch`.
        """
        rows = self.mixture.epoch(epoch, losses)
        random = np.random.default_rng([self.seed, epoch])
        return [rows[i] for i in random.permutation(len(rows))]

    def micro_batches(self, step: Sequence[int]) -> Iterator[list[int]]:
        """Split the rows of a step into micro-batches of one teacher and similar length."""
        groups: dict[tuple[Teacher, float], list[int]] = {}
        for row in step:
            source = self.mixture.source_of(row)
            groups.setdefault((source.teacher, source.weight), []).append(row)
        for group in sorted(groups, key=lambda group: (TEACHERS.index(group[0]), group[1])):
            ordered = sorted(groups[group], key=self._length)
            for begin in range(0, len(ordered), self.batch_size):
                yield ordered[begin : begin + self.batch_size]

    def rows(self, indices: Sequence[int]) -> list[Example]:
        """Return the rows of some indices."""
        return [self.examples[i] for i in indices]

    def _length(self, row: int) -> tuple[bool, int]:
        example = self.examples[row]
        return not _has_prefix(example, self.prefix), len(example.tokens)

    @cached_property
    def shapes(self) -> dict[Shape, Shape]:
        """Each unpadded shape of the run, and the shape it is padded to."""
        return few_shapes(self.needed)

    @cached_property
    def padding(self) -> float:
        """The fraction of the computed tokens that are padding, 0 to 1."""
        return padding(self.shapes, self.needed)

    @cached_property
    def needed(self) -> Counter[Shape]:
        """How often the run has each unpadded shape.

        Where the examples of an epoch depend on losses that are not known yet, others are counted
        in their place, and the longest once more, so that no micro-batch of the run is larger than
        those counted here.
        """
        unknown = [UNKNOWN_LOSS] * len(self.examples)
        steps = [step for epoch in range(self.epochs) for step in self.steps(epoch, unknown)]
        if self.mixture.depends_on_losses:
            by_length = sorted(range(len(self.examples)), key=self._length)
            steps.append(by_length[-self.batch_size :])
        parts = (part for step in steps for part in self.micro_batches(step))
        return Counter(shape_of(self.rows(part), self.prefix) for part in parts)


def padding(shapes: Mapping[Shape, Shape], needed: Mapping[Shape, int]) -> float:
    """Return the fraction of the computed tokens that are padding, 0 to 1.

    Args:
        shapes: Each unpadded shape, and the shape it is padded to.
        needed: How often the run has each unpadded shape.
    """
    computed = sum(count * shapes[shape].tokens for shape, count in needed.items())
    return 1 - sum(count * shape.tokens for shape, count in needed.items()) / computed


def shape_of(part: Sequence[Example], prefix: tuple[int, ...]) -> Shape:
    """Return the unpadded shape of the rows of a micro-batch."""
    begin = len(_shared(prefix, part))
    # Nothing supervised is predicted from the last token of a row, so it is no input.
    lengths = [len(example.tokens) - 1 - begin for example in part]
    return Shape(
        rows=len(part),
        prefix=begin,
        flat=sum(lengths),
        width=max(lengths),
        supervised=sum(sum(example.supervised) for example in part),
    )


def collate(
    part: Sequence[Example], prefix: tuple[int, ...], padded: Shape | None = None
) -> MicroBatch:
    """Return the arrays of a micro-batch.

    Args:
        part: Its rows.
        prefix: The tokens that most rows of the run begin with; used where all of these do.
        padded: The shape to pad them to; None for the smallest.
    """
    shape = padded or cover([shape_of(part, prefix)])
    prefix = _shared(prefix, part)
    # The lines of the grid: the prefix if there is one, then a line for each row.
    lines = [tuple(prefix)] * (len(prefix) > 0)
    lines += [example.tokens[len(prefix) : -1] for example in part]
    # Padding tokens are where the grid has empty cells, so that every token has its own cell.
    spare = shape.tokens - sum(map(len, lines))
    lengths: list[int] = []
    for line in reversed(lines):  # the prefix last: padding after it would move all rows
        added = min(spare, shape.width - len(line))
        lengths.insert(0, len(line) + added)
        spare -= added
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    rows = list(zip(lines, starts, lengths, strict=True))
    padding_token = next((begin + len(line) for line, begin, n in rows if n > len(line)), 0)
    tokens = np.zeros(shape.tokens, dtype=np.int32)
    grid = np.full((len(lines), shape.width), padding_token, dtype=np.int32)
    cells = np.zeros(shape.tokens, dtype=np.int32)
    for i, (line, begin, length) in enumerate(rows):
        own = np.arange(begin, begin + length)
        tokens[own[: len(line)]] = line
        grid[i, :length] = own
        cells[own] = i * shape.width + np.arange(length)
    origins = [begin - len(prefix) for _, begin, _ in rows[-len(part) :]]
    return MicroBatch(
        tokens=mx.array(tokens),
        layout=Layout(prefix=len(prefix), grid=mx.array(grid), cells=mx.array(cells)),
        **_supervised(part, origins, shape.supervised),
    )


def _shared(prefix: tuple[int, ...], part: Sequence[Example]) -> tuple[int, ...]:
    """Return the prefix where all rows begin with it and there are at least two, else nothing."""
    shared = len(part) > 1 and all(_has_prefix(example, prefix) for example in part)
    return prefix if shared else ()


def _has_prefix(example: Example, prefix: tuple[int, ...]) -> bool:
    return example.first_supervised > len(prefix) and example.tokens[: len(prefix)] == prefix


def _supervised(part: Sequence[Example], origins: Sequence[int], count: int) -> dict[str, mx.array]:
    """Return positions, targets and weights of the supervised tokens, padded to ``count``.

    Args:
        part: The rows of the micro-batch.
        origins: The index in the flat sequence of each row's first token, as if the row were not
            cut where the prefix ends.
        count: How many supervised tokens to return.
    """
    pairs = [
        (origin + int(t) - 1, example.tokens[t])
        for example, origin in zip(part, origins, strict=True)
        for t in np.flatnonzero(example.supervised)
    ]
    weights = np.zeros(count, dtype=np.float32)
    weights[: len(pairs)] = 1.0
    pairs += [(0, 0)] * (count - len(pairs))
    positions, targets = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    found = {"positions": positions, "targets": targets, "weights": weights}
    return {name: mx.array(array) for name, array in found.items()}
