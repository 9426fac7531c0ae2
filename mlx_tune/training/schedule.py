"""The learning rate of each step: linear warm-up, then cosine decay to zero."""

import math


def warmup_steps(new_rows: int, planned_steps: int) -> int:
    """Return min(⌊0.1·n⌋, 50) for n new rows; fewer in a run too short to hold them."""
    return min(new_rows // 10, 50, planned_steps - 1)


def learning_rate(step: int, *, peak: float, planned_steps: int, warmup: int) -> float:
    """Return the rate of a step, counted from 1.

    peak·t/w while t ≤ w; after that a half cosine that reaches 0 at the last planned step. A run
    of one step has nothing to decay over and takes the peak.
    """
    if step <= warmup:
        return peak * step / warmup
    if planned_steps == 1:
        return peak
    progress = (step - warmup) / (planned_steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
