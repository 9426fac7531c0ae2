"""Generation: one answer, many, or answers that come and go; alone in calling mlx-lm's generators.

``grammar`` is imported by its own name: it needs llguidance, which the extra ``serve`` installs.
"""

from mlx_tune.inference.batcher import BATCH_SIZE, Batcher, GeneratedToken, PrefixCache
from mlx_tune.inference.generate import (
    MARGIN_TOKENS,
    Conversation,
    GeneratedText,
    batch_generate,
    context_tokens,
    prompt_logprobs,
    stream,
)
from mlx_tune.inference.sampling import (
    MIN_LOGPROB,
    LogitsProcessor,
    Logprob,
    Sampler,
    Sampling,
    token_logprobs,
    top_tokens,
)
from mlx_tune.inference.text import StopStrings, StreamingDetokenizer, TokenBytes

__all__ = [
    "BATCH_SIZE",
    "MARGIN_TOKENS",
    "MIN_LOGPROB",
    "Batcher",
    "Conversation",
    "GeneratedText",
    "GeneratedToken",
    "LogitsProcessor",
    "Logprob",
    "PrefixCache",
    "Sampler",
    "Sampling",
    "StopStrings",
    "StreamingDetokenizer",
    "TokenBytes",
    "batch_generate",
    "context_tokens",
    "prompt_logprobs",
    "stream",
    "token_logprobs",
    "top_tokens",
]
