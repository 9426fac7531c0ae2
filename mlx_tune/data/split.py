"""Holds rows out of a training, so that something is left that it cannot have learned by heart."""

import math
from collections.abc import Sequence

import numpy as np

from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError


def split(rows: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on and those held out, each in the order they came in.

    Args:
        rows: All of them.
        share: Of the rows to hold out, 0 to 1; rounded up to whole rows, 0 holds none out.
        seed: Of the choice; it depends on nothing else but the number of rows.

    Raises:
        InputError: Nothing would be left to train on.
    """
    count = math.ceil(share * len(rows))
    if count and count >= len(rows):
        raise InputError(
            f"--validation {share:g} of {len(rows)} row{'s' * (len(rows) != 1)} leaves none to "
            "train on; hold out less, or nothing"
        )
    # The number keeps this draw apart from the order of rows, which has the same seed.
    chosen = set(np.random.default_rng([seed, 0, 1]).permutation(len(rows))[:count].tolist())
    kept = [row for i, row in enumerate(rows) if i not in chosen]
    return kept, [row for i, row in enumerate(rows) if i in chosen]
