"""How much of what a base knew in general is lost: ΔG, by its own answers to general questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_tune.continual.paired import Changes


@dataclass(frozen=True, kw_only=True)
class Rise:
    """How much less likely a model finds the base's own greedy answers than the base does.

    ΔG = Σᵢ nowᵢ / Σᵢ tokensᵢ − Σᵢ baseᵢ / Σᵢ tokensᵢ, where nowᵢ and baseᵢ are the losses of probe
    i's answer, summed over its tokens. 0 for the base itself; negative where a model has grown
    surer of those answers than the base was. The answers are greedy, not sampled, so this is no
    estimate of a divergence.

    Attributes:
        nats_per_token: ΔG; 0 of no tokens.
        asked: How many probes it is measured on.
        rose: How many probes' loss is higher than the base's: with ``fell``, what a sign test
            needs.
        fell: How many probes' loss is lower.

    Source:
        After the general-ability delta of Wang et al. 2023 (TRACE), arXiv:2310.06762, in nats
        instead of accuracies.
    """

    nats_per_token: float
    asked: int
    rose: int
    fell: int

    @property
    def changes(self) -> Changes:
        """For the sign test."""
        return Changes(worse=self.rose, better=self.fell)


def rise(base: Sequence[float], now: Sequence[float], tokens: Sequence[int]) -> Rise:
    """Return how the loss of general answers rose, from the base's to a model's of now.

    Args:
        base: The base's loss of each probe's answer, nats, summed over its tokens.
        now: The model's, likewise.
        tokens: How many tokens each answer has.

    Raises:
        ValueError: The three are not of one length.
    """
    changes = [after - before for before, after, _ in zip(base, now, tokens, strict=True)]
    total = sum(tokens)
    return Rise(
        nats_per_token=math.fsum(changes) / total if total else 0.0,
        asked=len(changes),
        rose=sum(change > 0 for change in changes),
        fell=sum(change < 0 for change in changes),
    )
