"""How likely a model finds a text: what it says of every token of a prompt."""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn

_CHUNK = 128  # tokens whose logits are held at once


def prompt_logprobs(model: nn.Module, prompt: Sequence[int]) -> Iterator[mx.array]:
    """Yield, for every token but the first, the log-probabilities that it came from.

    Args:
        model: Folded, in evaluation mode.
        prompt: Tokens, at least one.

    Yields:
        float32 (vocabulary,), for token 1, 2, …
    """
    from mlx_lm.models.cache import make_prompt_cache

    layers = make_prompt_cache(model)
    read = prompt[:-1]
    for begin in range(0, len(read), _CHUNK):
        part = mx.array([list(read[begin : begin + _CHUNK])])
        logits = model(part, cache=layers)[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        mx.eval(logprobs)
        yield from logprobs
