"""From the rounds of each side to medians, ratios, verdicts and an 80-column table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.shapes import Shape
from benchmarks.sides.job import Result

OURS = "ours"
MLX_LM = "mlx-lm, same BLAS"
MLX_LM_PLAIN = "mlx-lm, as it comes"
PEFT_FLOAT32 = "PEFT float32"
PEFT_BFLOAT16 = "PEFT bfloat16"

_MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Medians over a side's rounds.

    Attributes:
        rounds: How many there were.
        rows_per_second: Real rows.
        slowest: Of the rounds, rows a second.
        fastest: Of the rounds, rows a second.
        tokens_per_second: Real tokens.
        step_seconds: Over the steps of all rounds.
        beyond_bytes: Allocator's peak less the weights, or None.
        resident_bytes: Resident peak less what was resident before training, or None.
        flops: Operations a second, padding included, or None.
    """

    rounds: int
    rows_per_second: float
    slowest: float
    fastest: float
    tokens_per_second: float
    step_seconds: float
    beyond_bytes: float | None
    resident_bytes: float | None
    flops: float | None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was set out to be reached against another side.

    Attributes:
        against: The other side.
        measure: "speed": our rows a second over theirs; "memory": our bytes beyond the weights
            over theirs.
        factor: At least this speed, at most this memory.
    """

    against: str
    measure: str
    factor: float


CPU_TARGETS = (
    Target(against=MLX_LM, measure="speed", factor=3.0),
    Target(against=MLX_LM_PLAIN, measure="speed", factor=40.0),
    Target(against=PEFT_FLOAT32, measure="speed", factor=1.0),
    Target(against=MLX_LM, measure="memory", factor=0.5),
)
SHAPE_TARGETS = (
    Target(against=MLX_LM, measure="speed", factor=1.5),
    Target(against=MLX_LM, measure="memory", factor=0.5),
)


def summary(results: Sequence[Result], shape: Shape, rank: int) -> Summary:
    """Return the medians of a side's rounds."""
    rates = [r.rows / r.seconds for r in results]
    return Summary(
        rounds=len(results),
        rows_per_second=statistics.median(rates),
        slowest=min(rates),
        fastest=max(rates),
        tokens_per_second=statistics.median(r.tokens / r.seconds for r in results),
        step_seconds=statistics.median(s for r in results for s in r.step_seconds),
        beyond_bytes=_median([_less(r.peak_memory_bytes, r.weights_bytes) for r in results]),
        resident_bytes=_median(
            [_less(r.resident_peak_bytes, r.resident_before_bytes) for r in results]
        ),
        flops=_median([flops(r, shape, rank) for r in results]),
    )


def flops(result: Result, shape: Shape, rank: int) -> float | None:
    """Return the operations a second that a side achieved, or None where it cannot count."""
    if result.computed_tokens is None:
        return None
    work = shape.training_flops(
        computed_tokens=result.computed_tokens,
        head_positions=result.head_positions,
        rank=rank,
    )
    return work / result.seconds


def limit(products: Sequence[Mapping[str, Any]]) -> float:
    """Return the operations a second of the fastest product, the median over the rounds."""
    return statistics.median(float(said["best_flops"]) for said in products)


def ratio(target: Target, sides: Mapping[str, Summary]) -> float | None:
    """Return our median over the other side's, or None where one of them was not measured."""
    ours, theirs = sides.get(OURS), sides.get(target.against)
    if ours is None or theirs is None:
        return None
    if target.measure == "speed":
        return ours.rows_per_second / theirs.rows_per_second
    if ours.beyond_bytes is None or not theirs.beyond_bytes:
        return None
    return ours.beyond_bytes / theirs.beyond_bytes


def verdict(target: Target, sides: Mapping[str, Summary]) -> str:
    """Say in one line whether a target is met."""
    found = ratio(target, sides)
    speed = target.measure == "speed"
    what = f"{'rows/s' if speed else 'memory'} of {target.against}"
    bound = f"(target: {'at least' if speed else 'at most'} {target.factor:g})"
    if found is None:
        return f"not measured: {what} {bound}"
    met = found >= target.factor if speed else found <= target.factor
    return f"{'met' if met else 'missed':<6}  {found:.2f} times the {what} {bound}"


def table(sides: Mapping[str, Summary], best: float) -> list[str]:
    """Return the lines of a table, at most 80 columns wide.

    Args:
        sides: By name, in order.
        best: Operations a second of the fastest matrix product.
    """
    head = ("side", "rows/s", "low-high", "tokens/s", "step s", "beyond", "RSS", "share")
    lines = [_line(head)]
    for name, side in sides.items():
        lines.append(
            _line(
                (
                    name,
                    _short(side.rows_per_second),
                    f"{_short(side.slowest)}-{_short(side.fastest)}",
                    f"{side.tokens_per_second:,.0f}",
                    f"{side.step_seconds:.3f}",
                    _mib(side.beyond_bytes),
                    _mib(side.resident_bytes),
                    # What PyTorch multiplies with is not what the limit was measured with.
                    "-" if side.flops is None or "PEFT" in name else f"{side.flops / best:.0%}",
                )
            )
        )
    return lines


def _line(cells: tuple[str, ...]) -> str:
    side, rate, spread, tokens, step, beyond, resident, share = cells
    return (
        f"{side:<19} {rate:>7} {spread:>13} {tokens:>8} {step:>7} {beyond:>7} {resident:>7} "
        f"{share:>5}"
    )


def _short(rate: float) -> str:
    """Write three digits or four."""
    return f"{rate:.3f}" if rate < 1 else f"{rate:.2f}" if rate < 100 else f"{rate:.0f}"


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / _MIB:,.0f}"


def _less(total: int | None, part: int | None) -> float | None:
    return None if total is None or part is None else float(total - part)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
