"""What a training minimises besides the taught tokens' cross-entropy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_tune.training.joined import Factors
from mlx_tune.training.mixture import Teacher

Penalty = Callable[[Factors], mx.array]
"""Of the adapter alone, float32 (); it enters every step once."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised besides.

    Attributes:
        penalty: Added to the loss of a step; None for none.
        teachers: By name, the factors beside the frozen weights that make the network the teacher,
            so that no second model is needed; none for the network as it was folded.
    """

    penalty: Penalty | None = None
    teachers: Mapping[Teacher, Factors] = field(default_factory=dict)
