"""None: the chain is folded and the new rows are trained alone.

Paper:
    Luo et al. 2023, arXiv:2308.08747, measure what this forgets; Lialin et al. 2023,
    arXiv:2307.05695 (ReLoRA), fold and begin afresh as it does, on one data set.
Idea:
    Nothing holds the old in place. It is the floor that the other methods are compared with.
Equation:
    loss = mean over the supervised tokens of the new rows of −log p(token)
    W_t = W_0 + Σ_{i ≤ t} scale_i (A_i B_i)ᵀ
"""

from mlx_tune.continual.methods.method import Method

METHOD = Method(name="none", replay="none")
