"""What a training minimises besides the taught tokens' cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from mlx_tune.training.joined import Factors

Penalty = Callable[[Factors], mx.array]
"""Of the adapter alone, float32 (); it enters every step once."""

Divergence = Callable[[mx.array, mx.array, mx.array], mx.array]
"""Of teacher's and student's logits, float32 (tokens, vocabulary), and weights, float32 (tokens,);
float32 ()."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised besides.

    Attributes:
        penalty: Added to the loss of a step; None for none.
        divergence: Takes the place of the cross-entropy for distilled rows, whose teacher is the
            network without its adapter, so that no second model is needed.
    """

    penalty: Penalty | None = None
    divergence: Divergence | None = None
