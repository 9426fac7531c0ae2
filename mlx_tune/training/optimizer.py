"""AdamW with gradient clipping, and the learning rate of each step."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mlx_tune.training.adapter import Factors

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_CLIP_NORM = 1.0

LOWEST_RATE = 0.25
"""Of the peak, where training goes on after the decay: what is not learned yet still can be."""

_Pair = tuple[mx.array, mx.array]

Moments = tuple[Factors, Factors]
"""First and second moments, each in the tree of the factors."""


def warmup_steps(new_rows: int, planned_steps: int) -> int:
    """Return the number of warm-up steps, min(⌊0.1·n⌋, 50) for n new rows.

    At least one planned step is left to the decay.
    """
    return min(new_rows // 10, 50, planned_steps - 1)


def learning_rate(
    step: int, *, peak: float, decay_steps: int, warmup: int, lowest: float = 0.0
) -> float:
    """Return the learning rate of a step: linear warm-up to the peak, then cosine decay.

    A decay of one step is none and takes the peak.

    Args:
        step: Counted from 1.
        peak: The highest learning rate.
        decay_steps: Steps until the rate is the lowest, the warm-up among them.
        warmup: Steps of the warm-up.
        lowest: The rate of that step and of all later ones.
    """
    if step <= warmup:
        return peak * step / warmup
    if decay_steps == 1:
        return peak
    progress = min(1.0, (step - warmup) / (decay_steps - warmup))
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with bias correction and no weight decay; gradients clipped to a global norm of 1.

    Attributes:
        lora_plus_ratio: Learning rate of every ``lora_b`` divided by that of its ``lora_a``. 1 is
            plain LoRA; LoRA+ takes more.
        compiled: Whether to compile the update, which on a CPU takes a third of the time.

    Source:
        Loshchilov & Hutter 2019, arXiv:1711.05101; Hayou et al. 2024, arXiv:2402.12354 (LoRA+).
    """

    lora_plus_ratio: float = 1.0
    compiled: bool = False

    def init(self, factors: Factors) -> Moments:
        """Return the moments before the first step: zeros, in the tree of the factors."""
        return tree_map(mx.zeros_like, dict(factors)), tree_map(mx.zeros_like, dict(factors))

    def update(
        self,
        factors: Factors,
        gradients: Factors,
        moments: Moments,
        *,
        norm: mx.array,
        rate: float,
        step: int,
    ) -> tuple[dict[str, tuple[mx.array, mx.array]], Moments]:
        """Return the factors and the moments after a step.

        Args:
            factors: The factors before the step.
            gradients: The gradients of the loss, float32, in the tree of the factors.
            moments: First and second moments before the step.
            norm: Global norm of the gradients, float32 ().
            rate: Learning rate of this step, for every ``lora_a``.
            step: Counted from 1.
        """
        numbers = [
            rate / (1 - _BETA_1**step),
            rate * self.lora_plus_ratio / (1 - _BETA_1**step),
            1 / (1 - _BETA_2**step),
        ]
        # As arrays: a compiled function is compiled anew for each new Python number.
        function = _compiled_update() if self.compiled else _update
        return function(factors, gradients, moments, norm, *map(mx.array, numbers))


def global_norm(gradients: Factors) -> mx.array:
    """Return the Euclidean norm of all gradients together, float32 ()."""
    squares = [mx.square(leaf).sum() for _, leaf in tree_flatten(dict(gradients))]
    return mx.sqrt(mx.stack(squares).sum())


def _update(
    factors: Factors,
    gradients: Factors,
    moments: Moments,
    norm: mx.array,
    rate_a: mx.array,
    rate_b: mx.array,
    unbias: mx.array,
) -> tuple[dict[str, tuple[mx.array, mx.array]], Moments]:
    clip = mx.minimum(_CLIP_NORM / (norm + 1e-6), 1.0)
    after, first, second = dict[str, _Pair](), dict[str, _Pair](), dict[str, _Pair]()
    for path, pair in factors.items():
        leaves = []
        for leaf, gradient, m, v, rate in zip(
            pair, gradients[path], moments[0][path], moments[1][path], (rate_a, rate_b), strict=True
        ):
            gradient = clip * gradient
            m = _BETA_1 * m + (1 - _BETA_1) * gradient
            v = _BETA_2 * v + (1 - _BETA_2) * mx.square(gradient)
            leaves.append((leaf - rate * m / (mx.sqrt(v * unbias) + _EPSILON), m, v))
        (a, m_a, v_a), (b, m_b, v_b) = leaves
        after[path], first[path], second[path] = (a, b), (m_a, m_b), (v_a, v_b)
    return after, (first, second)


@functools.cache
def _compiled_update() -> Callable[..., Any]:
    return mx.compile(_update)
