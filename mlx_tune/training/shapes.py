"""The few shapes that all micro-batches of a run are padded to.

Every shape is compiled once and, on a GPU, has its own buffers, so a run has at most eight. They
are those that add the least work, among all ways to cut the needed shapes, sorted by length, into
groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LIMIT = 8
"""The most distinct shapes of a run."""

CUTS = 512
"""Places at which the sorted shapes may be cut: choosing among all takes time quadratic in them."""

# The head's work for a supervised token, as a fraction of the layers' work for a token: 0.27 on
# SmolLM2-135M, 0.14 on Llama-3.2-3B.
_HEAD_SHARE = 0.2


@dataclass(frozen=True, order=True, kw_only=True)
class Shape:
    """The numbers that determine the shapes of a micro-batch's arrays.

    Attributes:
        rows: Rows; the grid has a line for each, and one for the prefix.
        prefix: Tokens shared by all rows.
        flat: Tokens after the prefix, of all rows together.
        width: Cells of a line of the grid: the longest row after the prefix, or the prefix itself.
        supervised: Supervised tokens.
    """

    rows: int
    prefix: int
    flat: int
    width: int
    supervised: int

    @property
    def tokens(self) -> int:
        """Tokens that the layers compute."""
        return self.prefix + self.flat

    def holds(self, shape: "Shape") -> bool:
        """Return whether a micro-batch of another shape can be padded to this one."""
        least = cover([shape])
        return (self.rows, self.prefix) == (least.rows, least.prefix) and (
            self.flat >= least.flat
            and self.width >= least.width
            and self.supervised >= least.supervised
        )


def few_shapes(needed: Mapping[Shape, int], limit: int = LIMIT) -> dict[Shape, Shape]:
    """Choose at most ``limit`` shapes to pad all needed shapes to, with the least added work.

    Of more than ``CUTS`` shapes with the same rows and prefix, neighbours stay together.

    Args:
        needed: Each unpadded shape, and how often the run has it.
        limit: The most shapes. Each distinct (rows, prefix) takes at least one, also where that is
            more than the limit.

    Returns:
        Each unpadded shape, and the shape it is padded to.
    """
    classes: dict[tuple[int, int], list[Shape]] = {}
    for shape in sorted(needed):
        classes.setdefault((shape.rows, shape.prefix), []).append(shape)
    options = [_groupings(shapes, needed, limit) for shapes in classes.values()]
    spare = max(0, limit - len(options))
    # best[k]: the cheapest choice so far with k groups more than one for each class.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for costs, _ in options:
        grown: dict[int, tuple[float, list[int]]] = {}
        for spent, (cost, counts) in best.items():
            for more in range(min(len(costs), spare - spent + 1)):
                entry = (cost + costs[more], [*counts, more + 1])
                if spent + more not in grown or entry < grown[spent + more]:
                    grown[spent + more] = entry
        best = grown
    _, counts = min(best.values())
    return {
        shape: padded
        for (_, cut), count in zip(options, counts, strict=True)
        for group in cut(count)
        for padded in [cover(group)]
        for shape in group
    }


def cover(group: Sequence[Shape]) -> Shape:
    """Return the smallest shape that all shapes of a group can be padded to."""
    first, flat = group[0], max(shape.flat for shape in group)
    width = max(first.prefix, *(shape.width for shape in group))
    cells = (first.rows + (first.prefix > 0)) * width - first.prefix
    return Shape(
        rows=first.rows,
        prefix=first.prefix,
        # At least one padding token where cells of the grid are empty: they hold its index.
        flat=min(flat + 1, cells),
        width=width,
        supervised=max(shape.supervised for shape in group),
    )


def _groupings(
    shapes: Sequence[Shape], needed: Mapping[Shape, int], limit: int
) -> tuple[list[float], Callable[[int], list[Sequence[Shape]]]]:
    """Cut shapes, sorted by length, into 1, 2, … groups of neighbours, each at the least cost.

    Returns:
        The cost for each number of groups, and a function from that number to the groups.
    """
    cuts = [*range(0, len(shapes), -(-len(shapes) // CUTS)), len(shapes)]
    count = len(cuts) - 1  # of the runs between two cuts, which are never parted
    weights = np.array([needed[shape] for shape in shapes], dtype=float)
    before = np.concatenate([[0.0], np.cumsum(weights)])[cuts]
    flat = np.array([shapes[end - 1].tokens for end in cuts[1:]], dtype=float)
    supervised = np.array([shape.supervised for shape in shapes], dtype=float)
    supervised = np.maximum.reduceat(supervised, cuts[:-1])
    # cost[k][j]: of the first j runs in k + 1 groups, the last of which begins at start[k][j].
    cost = np.full((limit, count + 1), np.inf)
    start = np.zeros((limit, count + 1), dtype=int)
    for j in range(1, count + 1):
        longest = np.maximum.accumulate(supervised[:j][::-1])[::-1]  # of runs i … j - 1
        group = (before[j] - before[:j]) * (flat[j - 1] + _HEAD_SHARE * longest)
        cost[0][j] = group[0]
        for k in range(1, min(limit, j)):
            total = cost[k - 1][1:j] + group[1:]
            at = int(np.argmin(total))
            cost[k][j], start[k][j] = total[at], at + 1

    def cut(groups: int) -> list[Sequence[Shape]]:
        end, found = count, list[Sequence[Shape]]()
        for k in range(groups - 1, -1, -1):
            begin = int(start[k][end])
            found.append(shapes[cuts[begin] : cuts[end]])
            end = begin
        return found[::-1]

    return [float(c) for c in cost[:, count] if np.isfinite(c)], cut
