"""How the next token is chosen, with a seed of the request's own, and how likely it was."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_tune.inference.text import TokenBytes

Sampler = Callable[[mx.array], mx.array]
"""From log-probabilities (rows, vocabulary) to token ids (rows,)."""
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""From the tokens so far, prompt included, int (tokens,), and logits (1, vocabulary) to logits."""

MIN_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON has no number for; OpenAI's API does the same."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A request's settings for sampling.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token each time.
        top_p: Only the likeliest tokens that together reach this share, over 0 to 1.
        top_k: Only so many of the likeliest; 0 for all.
        min_p: Only tokens at least this share as likely as the likeliest, 0 to 1.
        frequency_penalty: Subtracted from a token's logit for each time it was generated.
        presence_penalty: Subtracted once from the logit of each token that was generated.
        logit_bias: Added to the logits of tokens, by id.
        seed: The same seed draws the same tokens, whatever else is drawn at the time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def sampler(self) -> Sampler:
        """Return a sampler with a random state of its own; greedy requests share one function."""
        from mlx_lm.sample_utils import greedy_sampler

        return _SeededSampler(self) if self.temperature > 0 else greedy_sampler

    def processors(self, prompt_tokens: int) -> tuple[LogitsProcessor, ...]:
        """Return what changes the logits of what follows so many tokens of a prompt."""
        from mlx_lm.sample_utils import make_logits_processors

        processors = make_logits_processors(logit_bias=dict(self.logit_bias))
        if self.frequency_penalty or self.presence_penalty:
            processors.append(lambda tokens, logits: self._penalise(tokens[prompt_tokens:], logits))
        return tuple(processors)

    # mlx-lm's own processor subtracts once per occurrence, and each subtraction is rounded: with
    # logits near 20 in bfloat16, ten penalties of 0.05 have no effect at all.
    def _penalise(self, generated: mx.array, logits: mx.array) -> mx.array:
        if not generated.size:
            return logits
        counts = mx.zeros(logits.shape[-1:], dtype=logits.dtype).at[generated].add(1)
        return logits - self.frequency_penalty * counts - self.presence_penalty * (counts > 0)


class _SeededSampler:
    """Samples with a key of its own: mlx-lm's sampler takes the random state that all share."""

    def __init__(self, settings: Sampling) -> None:
        self._settings = settings
        self._key = mx.random.key(settings.seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

        settings = self._settings
        self._key, key = mx.random.split(self._key)
        if settings.top_p < 1:
            logprobs = apply_top_p(logprobs, settings.top_p)
        if settings.min_p > 0:
            logprobs = apply_min_p(logprobs, settings.min_p)
        if 0 < settings.top_k < logprobs.shape[-1]:  # mlx-lm's refuses all of the vocabulary
            logprobs = apply_top_k(logprobs, settings.top_k)
        return mx.random.categorical(logprobs / settings.temperature, key=key)


@dataclass(frozen=True, kw_only=True)
class Logprob:
    r"""A token and how likely it was.

    Attributes:
        token: Its id.
        text: Its characters; a byte that is none by itself is written ``\xe4``, as OpenAI does.
        raw: Its bytes, exactly.
        logprob: The natural logarithm of its probability, at least ``MIN_LOGPROB``.
    """

    token: int
    text: str
    raw: bytes
    logprob: float


def token_logprobs(
    logprobs: mx.array, token: int, k: int, token_bytes: TokenBytes, *, first: bool = False
) -> tuple[Logprob, list[Logprob]]:
    """Return the chosen token of a step and the likeliest ones, which may include it.

    Args:
        logprobs: As for ``top_tokens``.
        token: The chosen one.
        k: How many of the likeliest at most.
        token_bytes: The tokenizer's.
        first: Whether the token begins a text, such as an answer.
    """

    def one(number: int, logprob: float) -> Logprob:
        raw = token_bytes(number, first=first)
        text = raw.decode(errors="backslashreplace")
        finite = max(logprob, MIN_LOGPROB) if math.isfinite(logprob) else MIN_LOGPROB
        return Logprob(token=number, text=text, raw=raw, logprob=finite)

    chosen = one(token, float(np.array(logprobs.reshape(-1)[token].astype(mx.float32))))
    return chosen, [one(number, logprob) for number, logprob in top_tokens(logprobs, k)]


def top_tokens(logprobs: mx.array, k: int) -> list[tuple[int, float]]:
    """Return the ids of the likeliest tokens with their log-probabilities, likeliest first.

    Args:
        logprobs: Of one step, any float dtype, (vocabulary,) or (1, vocabulary).
        k: How many at most, 0 or more. There are fewer where fewer are possible, as under a
            grammar; of two that are equally likely the lower id comes first.
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
