"""Seed: every session stands on the base and the last adapter alone.

Paper:
    None; this is the old program, kept to be compared with.
Idea:
    Before this one, only the newest adapter was folded before the next was trained, so a third
    session no longer stood on the first.
Equation:
    W_t = W_0 + scale_{t−1} (A_{t−1} B_{t−1})ᵀ + scale_t (A_t B_t)ᵀ
"""

from collections.abc import Sequence
from typing import TypeVar

from mlx_tune.continual.methods.method import Method

_Session = TypeVar("_Session")


class _Seed(Method):
    def stands_on(self, chain: Sequence[_Session]) -> Sequence[_Session]:
        return chain[-1:]


METHOD = _Seed(name="seed", replay="none")
