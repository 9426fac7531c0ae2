"""How the next token is drawn: greedy, or at random with a seed of the request's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx

Sampler = Callable[[mx.array], mx.array]
"""From log-probabilities (rows, vocabulary) to tokens (rows,)."""
Processor = Callable[[mx.array, mx.array], mx.array]
"""From the tokens so far, prompt included, int (tokens,), and logits (1, vocabulary) to logits."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a request says of the draw.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token each time.
        top_p: Only the likeliest tokens that together reach this share, over 0 to 1.
        top_k: Only so many of the likeliest; 0 for all.
        min_p: Only tokens at least this share as likely as the likeliest, 0 to 1.
        frequency_penalty: Taken from a token's logit for each time it was generated.
        presence_penalty: Taken once from the logit of each token that was.
        logit_bias: Added to the logits of tokens, by id.
        seed: Of the draw; the same seed draws the same, whatever else is drawn at the time.
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
        """Return the draw, with a state of its own; greedy ones share one."""
        return _Draw(self) if self.temperature > 0 else greedy

    def processors(self, prompt_tokens: int) -> tuple[Processor, ...]:
        """Return what changes the logits before they are normalised.

        Args:
            prompt_tokens: How many of the tokens so far were not generated.
        """
        found: list[Processor] = []
        if self.logit_bias:
            found.append(self._biased)
        if self.frequency_penalty or self.presence_penalty:
            found.append(lambda tokens, logits: self._penalised(tokens[prompt_tokens:], logits))
        return tuple(found)

    def _biased(self, _: mx.array, logits: mx.array) -> mx.array:
        ids = mx.array(list(self.logit_bias))
        return logits.at[:, ids].add(mx.array(list(self.logit_bias.values()), dtype=logits.dtype))

    def _penalised(self, said: mx.array, logits: mx.array) -> mx.array:
        if not said.size:
            return logits
        counts = mx.zeros(logits.shape[-1:], dtype=logits.dtype).at[said].add(1)
        return logits - self.frequency_penalty * counts - self.presence_penalty * (counts > 0)


def greedy(logprobs: mx.array) -> mx.array:
    """Return the likeliest token of each row."""
    return mx.argmax(logprobs, axis=-1)


class _Draw:
    """Draws with a key of its own: mlx-lm's sampler draws from the state that all share."""

    def __init__(self, settings: Sampling) -> None:
        self._settings = settings
        self._key = mx.random.key(settings.seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self._key, now = mx.random.split(self._key)
        kept = self._kept(logprobs)
        return mx.random.categorical(kept / self._settings.temperature, key=now)

    def _kept(self, logprobs: mx.array) -> mx.array:
        from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

        wanted = self._settings
        if wanted.top_p < 1:
            logprobs = apply_top_p(logprobs, wanted.top_p)
        if wanted.min_p > 0:
            logprobs = apply_min_p(logprobs, wanted.min_p)
        if 0 < wanted.top_k < logprobs.shape[-1]:  # mlx-lm's refuses all of the vocabulary
            logprobs = apply_top_k(logprobs, wanted.top_k)
        return logprobs
