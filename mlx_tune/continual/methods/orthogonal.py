"""Orthogonal: the new adapter reads directions that no earlier one reads.

Paper:
    Wang et al. 2023, arXiv:2310.14152 (O-LoRA).
Idea:
    An adapter changes what a layer makes of the inputs that lie along the columns of its A. If
    the new A's columns are at right angles to every old one's, the new change is silent wherever
    an old change reads.
Equation:
    loss = −log p(new) + λ Σ_modules Σ_past Σ_jk (A_pastᵀ A)_jk²,  λ = 0.5

The squares are the paper's. Its published code adds up absolute values instead, whose gradient is
as large close to a right angle as far from it. Measured on SmolLM2-135M after one session (rank 8):
41 from the first step to the last, where the task's is 0.8, so that clipping the norm to 1 leaves
the task next to nothing of A. The squares' falls from 1.3 to 0.02, and the angles come out the
same. That code also has a term for the size of A and B, whose weight its scripts set to 0.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_tune.continual.methods.method import Method
from mlx_tune.training.adapter import Adapter, Factors


class _Orthogonal(Method):
    def penalty(self, factors: Factors, past: Sequence[Adapter]) -> mx.array:
        return self.penalty_weight * overlap(factors, past)


METHOD = _Orthogonal(name="orthogonal", replay="none", penalty_weight=0.5)


def overlap(factors: Factors, past: Sequence[Adapter]) -> mx.array:
    """Return how far an adapter reads what earlier ones read: Σ (A_pastᵀ A)², float32 ().

    Args:
        factors: By module path; ``lora_a`` float32 (in_dims, rank).
        past: Earlier adapters of any rank; a module that one lacks has nothing to overlap with.
    """
    total = mx.array(0.0)
    for path, (lora_a, _) in factors.items():
        for adapter in past:
            if path in adapter.factors:
                total = total + mx.square(adapter.factors[path][0].T @ lora_a).sum()
    return total
