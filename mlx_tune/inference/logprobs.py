"""How likely the chosen token of a step was, and which would have been likelier or next."""

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_tune.inference.spelling import Spelling

IMPOSSIBLE = -9999.0
"""What stands for minus infinity, which JSON has no number for; OpenAI's API does the same."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    r"""A token and how likely it was.

    Attributes:
        token: Its number.
        text: Its characters; a byte that is none by itself is written ``\xe4``, as OpenAI does.
        spelt: Its bytes, exactly.
        logprob: The natural logarithm of its probability, at least IMPOSSIBLE.
    """

    token: int
    text: str
    spelt: bytes
    logprob: float


def top(logprobs: mx.array, k: int) -> list[tuple[int, float]]:
    """Return the likeliest tokens with their log-probabilities, likeliest first.

    Args:
        logprobs: Of one step, any float type, (vocabulary,) or (1, vocabulary).
        k: How many at most, 0 or more. Fewer come where fewer are possible, as under a grammar;
            of equal ones the lower number comes first.
    """
    values = np.array(logprobs.astype(mx.float32)).reshape(-1)
    possible = np.flatnonzero(np.isfinite(values))
    count = min(k, len(possible))
    if count <= 0:
        return []
    # A full sort of 128,256 values takes 30 times as long.
    least = np.partition(values[possible], -count)[-count]
    likely = possible[values[possible] >= least]
    order = np.argsort(-values[likely], kind="stable")[:count]
    return [(int(token), float(values[token])) for token in likely[order]]


def scored(
    logprobs: mx.array, token: int, k: int, spelling: Spelling, *, first: bool = False
) -> tuple[Scored, list[Scored]]:
    """Return the chosen token of a step and its likeliest alternatives, itself among them.

    Args:
        logprobs: As for ``top``.
        token: The chosen one.
        k: How many alternatives at most.
        spelling: The tokenizer's.
        first: Whether the token begins a text, such as an answer.
    """

    def one(number: int, logprob: float) -> Scored:
        spelt = spelling(number, first=first)
        text = spelt.decode(errors="backslashreplace")
        finite = logprob if math.isfinite(logprob) else IMPOSSIBLE
        return Scored(token=number, text=text, spelt=spelt, logprob=max(finite, IMPOSSIBLE))

    chosen = one(token, float(np.array(logprobs.reshape(-1)[token].astype(mx.float32))))
    return chosen, [one(number, logprob) for number, logprob in top(logprobs, k)]
