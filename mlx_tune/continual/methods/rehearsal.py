"""Rehearsal: old rows are trained again among the new ones.

Paper:
    Scialom et al. 2022, arXiv:2205.12393 (a language model learns task after task with a little
    of the old data mixed in); Rolnick et al. 2019, arXiv:1811.11682 (experience replay); Ibrahim
    et al. 2024, arXiv:2403.08763 (the same at the size of pre-training).
Idea:
    The old loss is still there to be minimised, so no step may leave it behind. The new adapter
    has only to say again what the fold says already, which takes few passes.
Equation:
    loss = mean over the supervised tokens of new ∪ old rows of −log p(token)

Which old rows come, and how many an epoch, is decided in ``continual/rehearse.py``.
"""

from mlx_tune.continual.methods.method import Method

METHOD = Method(name="rehearsal")
