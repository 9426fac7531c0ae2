"""Orthogonal: the new adapter reads directions that no earlier one reads.

Paper:
    Wang et al. 2023, arXiv:2310.14152 (O-LoRA).
Idea:
    An adapter changes what a layer makes of the inputs that lie along the columns of its A. If
    the new A's columns are at right angles to every old one's, the new change is silent wherever
    an old change reads.
Equation:
    loss = −log p(new) + λ Σ_modules Σ_past Σ_jk |(A_pastᵀ A)_jk|,  λ = 0.5

The paper's equation squares the entries; its published code, which gave its tables, takes their
absolute values with λ = 0.5, and so does this. That code also has λ₂ Σ (‖A‖₂ + ‖B‖₂) with λ₂ = 0,
which is left out.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_tune.continual.methods.method import Method
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.joined import Factors


class _Orthogonal(Method):
    def penalty(self, factors: Factors, past: Sequence[Adapter]) -> mx.array:
        return self.penalty_weight * overlap(factors, past)


METHOD = _Orthogonal(name="orthogonal", replay="none", penalty_weight=0.5)


def overlap(factors: Factors, past: Sequence[Adapter]) -> mx.array:
    """Return how far an adapter reads what earlier ones read: Σ |A_pastᵀ A|, float32 ().

    Args:
        factors: By module path; ``lora_a`` float32 (in_dims, rank).
        past: Earlier adapters of any rank; a module that one lacks has nothing to overlap with.
    """
    total = mx.array(0.0)
    for path, (lora_a, _) in factors.items():
        for adapter in past:
            if path in adapter.factors:
                total = total + mx.abs(adapter.factors[path][0].T @ lora_a).sum()
    return total
