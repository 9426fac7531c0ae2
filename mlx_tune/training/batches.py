"""Which rows are taught in which step, and the arrays of each micro-step."""

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
from mlx_tune.training.mixture import UNSEEN, Mixture, Teacher
from mlx_tune.training.shapes import Shape, cover, few_shapes

_WORTHWHILE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The rows of one forward and backward pass.

    Attributes:
        tokens: The shared prefix once, then row after row, int32 (tokens,). A padding token stands
            at the end of a line, after everything that is taught.
        layout: Where each token lies in the grid that attention sees.
        positions: Where in ``tokens`` a supervised token is predicted from, int32 (supervised,).
        targets: The supervised tokens, int32 (supervised,).
        weights: 1 for each of them, 0 for padding, float32 (supervised,).
    """

    tokens: mx.array
    layout: Layout
    positions: mx.array
    targets: mx.array
    weights: mx.array

    def parts(self) -> tuple[int, *tuple[mx.array, ...]]:
        """Return the prefix's length and all arrays, as a compiled function takes them."""
        layout = self.layout
        return (
            layout.prefix, layout.grid, layout.cells,
            self.tokens, self.positions, self.targets, self.weights,
        )  # fmt: skip

    @staticmethod
    def of(parts: Sequence[Any]) -> "MicroBatch":
        """Put parts together again; the inverse of :meth:`parts`."""
        prefix, grid, cells, tokens, positions, targets, weights = parts
        layout = Layout(prefix=prefix, grid=grid, cells=cells)
        return MicroBatch(
            tokens=tokens, layout=layout, positions=positions, targets=targets, weights=weights
        )


def shared_prefix(examples: Sequence[Example]) -> tuple[int, ...]:
    """Return the tokens that most examples begin with, none when too few to pay.

    A prefix ends at least one token before anything supervised: the first supervised token is
    predicted from a token of the row itself. Under eight tokens, the second attention it costs
    in every layer is about what it saves. Rows that begin otherwise (``text`` rows among chats)
    go into micro-batches without.
    """
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        if example.first_supervised - 1 >= _WORTHWHILE_TOKENS:
            groups.setdefault(example.tokens[:_WORTHWHILE_TOKENS], []).append(example)
    if not groups:
        return ()
    alike = max(groups.values(), key=len)
    if len(alike) < 2:
        return ()
    first, last = min(e.tokens for e in alike), max(e.tokens for e in alike)
    length = min(example.first_supervised - 1 for example in alike)
    for i, (a, b) in enumerate(zip(first, last, strict=False)):  # extremes differ soonest
        if a != b:
            length = min(length, i)
            break
    return first[: min(length, len(first), len(last))]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """All micro-batches of a run, decided beforehand.

    Attributes:
        examples: The rows.
        epochs: Passes over them.
        batch_size: Rows of a micro-batch.
        effective_batch: Rows of a step.
        seed: Of the order.
        mixture: Which of them come in which epoch.
        prefix: The tokens that rows share.
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
        """The sha256 (hex) of all rows' tokens and of which of them are supervised."""
        digest = sha256()
        for example in self.examples:
            digest.update(json.dumps([example.tokens, example.supervised]).encode())
        return digest.hexdigest()

    def epoch(self, number: int, hardest: Sequence[float]) -> Iterator[list[int]]:
        """Yield the rows of each step of an epoch, as indices, each once."""
        order = self.order(number, hardest)
        for begin in range(0, len(order), self.effective_batch):
            yield order[begin : begin + self.effective_batch]

    def order(self, number: int, hardest: Sequence[float]) -> list[int]:
        """Return the rows of an epoch, counted from 0, as indices in the order they are taken.

        They depend on the seed, the number and what was known of the rows alone, so a resumed run
        meets the same ones.

        Args:
            number: Of the epoch.
            hardest: How badly each row was known when it began; see `mixture.Turns.epoch`.
        """
        rows = self.mixture.epoch(number, hardest)
        random = np.random.default_rng([self.seed, number])
        return [rows[i] for i in random.permutation(len(rows))]

    def parts(self, step: Sequence[int]) -> Iterator[list[int]]:
        """Split a step's rows into micro-batches of one teacher and similar length."""
        by_teacher: dict[tuple[Teacher, float], list[int]] = {}
        for row in step:
            kind = self.mixture.kind(row)
            by_teacher.setdefault((kind.teacher, kind.weight), []).append(row)
        for _, rows in sorted(by_teacher.items()):
            ordered = sorted(rows, key=self._likeness)
            for begin in range(0, len(ordered), self.batch_size):
                yield ordered[begin : begin + self.batch_size]

    def of(self, part: Sequence[int]) -> list[Example]:
        """Return the rows of some indices."""
        return [self.examples[i] for i in part]

    def _likeness(self, row: int) -> tuple[bool, int]:
        example = self.examples[row]
        return not _begins(example, self.prefix), len(example.tokens)

    @cached_property
    def shapes(self) -> dict[Shape, Shape]:
        """What each shape of the run is padded to."""
        return few_shapes(self.needed)

    @cached_property
    def padding(self) -> float:
        """The share of the tokens computed that are padding, 0 to 1."""
        return padding(self.shapes, self.needed)

    @cached_property
    def needed(self) -> Counter[Shape]:
        """How often the run needs each shape, before any padding.

        Where an epoch depends on what will be known of the rows, others of them stand in, and the
        longest come once more, so that no micro-batch is larger than what is reckoned with.
        """
        unknown = [UNSEEN] * len(self.examples)
        needed = Counter(
            shape_of(self.of(part), self.prefix)
            for number in range(self.epochs)
            for step in self.epoch(number, unknown)
            for part in self.parts(step)
        )
        if self.mixture.chooses:
            longest = sorted(range(len(self.examples)), key=self._likeness)[-self.batch_size :]
            needed.update(shape_of(self.of(part), self.prefix) for part in self.parts(longest))
        return needed


def padding(shapes: Mapping[Shape, Shape], needed: Mapping[Shape, int]) -> float:
    """Return the share of the tokens computed that are padding, 0 to 1."""
    computed = sum(count * shapes[shape].tokens for shape, count in needed.items())
    return 1 - sum(count * shape.tokens for shape, count in needed.items()) / computed


def shape_of(part: Sequence[Example], prefix: tuple[int, ...]) -> Shape:
    """Return the shape of some rows, unpadded."""
    begin = len(_usable(prefix, part))
    # The last token of a row predicts nothing that is taught, so it is no input.
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
    """Return the arrays of some rows.

    Args:
        part: The rows.
        prefix: What most rows of the run begin with; used where all of these do.
        padded: The shape to give them; None for the smallest.
    """
    return _pack(part, _usable(prefix, part), padded or cover([shape_of(part, prefix)]))


def _usable(prefix: tuple[int, ...], part: Sequence[Example]) -> tuple[int, ...]:
    """Return the prefix where all rows begin with it and there are two to share it."""
    shared = len(part) > 1 and all(_begins(example, prefix) for example in part)
    return prefix if shared else ()


def _begins(example: Example, prefix: tuple[int, ...]) -> bool:
    return example.first_supervised > len(prefix) and example.tokens[: len(prefix)] == prefix


def _pack(part: Sequence[Example], prefix: tuple[int, ...], shape: Shape) -> MicroBatch:
    """Put rows one after another, padded at their ends, and point at what is taught."""
    lines = [tuple(prefix)] * (len(prefix) > 0)
    lines += [example.tokens[len(prefix) : -1] for example in part]
    # Padding lies where the grid has empty cells, so that every token has a cell of its own.
    spare = shape.tokens - sum(map(len, lines))
    lengths: list[int] = []
    for line in reversed(lines):  # the prefix last: what follows it must not move
        added = min(spare, shape.width - len(line))
        lengths.insert(0, len(line) + added)
        spare -= added
    padding_token = _first_padding(lines, lengths)
    starts = np.cumsum([0, *lengths])
    tokens = np.zeros(shape.tokens, dtype=np.int32)
    grid = np.full((len(lines), shape.width), padding_token, dtype=np.int32)
    cells = np.zeros(shape.tokens, dtype=np.int32)
    for i, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        own = np.arange(starts[i], starts[i] + length)
        tokens[own[: len(line)]] = line
        grid[i, :length] = own
        cells[own] = i * shape.width + np.arange(length)
    return MicroBatch(
        tokens=mx.array(tokens),
        layout=Layout(prefix=len(prefix), grid=mx.array(grid), cells=mx.array(cells)),
        **_taught(part, (starts[-1 - len(part) : -1] - len(prefix)).tolist(), shape.supervised),
    )


def _first_padding(lines: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Return the flat index of a padding token; 0 where there is none, and no empty cell either."""
    begin = 0
    for line, length in zip(lines, lengths, strict=True):
        if length > len(line):
            return begin + len(line)
        begin += length
    return 0


def _taught(part: Sequence[Example], origins: Sequence[int], count: int) -> dict[str, mx.array]:
    """Return positions, targets and weights of the supervised tokens, padded to a count.

    Args:
        part: The rows.
        origins: Where each row's token 0 is, or would be but for the prefix, in the flat sequence.
        count: How many there are to be.
    """
    places = [
        (int(origin) + int(t) - 1, example.tokens[t])
        for example, origin in zip(part, origins, strict=True)
        for t in np.flatnonzero(example.supervised)
    ]
    weights = np.zeros(count, dtype=np.float32)
    weights[: len(places)] = 1.0
    places += [(0, 0)] * (count - len(places))
    positions, targets = np.array(places, dtype=np.int32).reshape(-1, 2).T
    return {
        "positions": mx.array(positions),
        "targets": mx.array(targets),
        "weights": mx.array(weights),
    }
