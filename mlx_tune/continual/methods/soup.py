"""Soup: the newest change is scaled by the β that keeps most, searched at the gate.

Paper:
    Wortsman et al. 2021, arXiv:2109.01903 (WiSE-FT: the line between a model and its fine-tuned
    self holds better ones than its ends), and 2022, arXiv:2203.05482 (Model soups).
Idea:
    A change that forgets is often too large, not wrong. Every point of the line is a fold, so the
    search trains nothing.
Equation:
    W(β) = W_{t−1} + β scale_t (A_t B_t)ᵀ,  0 ≤ β ≤ 1
"""

from mlx_tune.continual.methods.method import Method

METHOD = Method(name="soup", searches_scale=True)
