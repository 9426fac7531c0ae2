"""Soup: keep only a part β of the newest change, the largest that the gate lets through.

Paper:
    Wortsman et al. 2021, arXiv:2109.01903 (weights before and after fine-tuning, interpolated);
    Wortsman et al. 2022, arXiv:2203.05482 (model soups).
Idea:
    Somewhere on the line from the weights before a session to those after it, what was known is
    often still there and what is new is there already. Nothing is trained for it: the adapter is
    linear, so its scale times β is the point on the line. The training itself is rehearsal's.
Equation:
    W(β) = W_{t−1} + β scale_t (A_t B_t)ᵀ,  0 < β ≤ 1
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mlx_tune.continual.gate import SEVERITY, Decision
from mlx_tune.continual.methods.method import Method
from mlx_tune.store.session import PROMOTE
from mlx_tune.training.adapter import Adapter

METHOD = Method(name="soup", searches_scale=True)

BETAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Below a half the new rows are mostly gone, and training again with more rehearsal is better."""


def search(
    judge: Callable[[float], Decision], *, betas: Sequence[float] = BETAS
) -> tuple[float, Mapping[float, Decision]]:
    """Return the largest β that is promoted, else the best one.

    The best is the least severe verdict, then the highest worst share kept, then the highest
    backward transfer, then the smallest rise on general questions, then the largest β.

    Args:
        judge: Scores the model with the newest change times β, and decides. Called from the
            largest β down, and no more once one is promoted.
        betas: Which to try, in any order, each above 0 and at most 1.

    Returns:
        β, and the decision of each that was tried, in the order tried.

    Raises:
        ValueError: No β is given.
    """
    judged: dict[float, Decision] = {}
    for beta in sorted(set(betas), reverse=True):
        judged[beta] = judge(beta)
        if judged[beta].verdict == PROMOTE:
            return beta, judged
    return max(judged, key=lambda beta: (_merit(judged[beta]), beta)), judged


def scaled(adapter: Adapter, beta: float) -> Adapter:
    """Return an adapter whose change is β times as large."""
    return replace(adapter, scale=adapter.scale * beta)


def _merit(decision: Decision) -> tuple[float, float, float, float]:
    """Return what is compared, higher is better; what was not measured is neither for nor against.

    All decisions of a search lack the same values, so what stands in for them never decides.
    """
    worst, backward, general = decision.worst, decision.backward, decision.general
    return (
        -SEVERITY[decision.verdict],
        float(worst.share) if worst else 0.0,
        backward.points if backward else 0.0,
        -general.nats_per_token if general else 0.0,
    )
