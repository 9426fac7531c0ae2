"""Answers, token by token, from mlx-lm's generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.nn as nn

from mlx_tune.errors import UsageError
from mlx_tune.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some of an answer.

    Attributes:
        text: What came since the piece before; may be empty.
        finish: Why this was the last piece: ``stop`` (the model ended its turn) or ``length``;
            None before that.
    """

    text: str
    finish: str | None


def stream(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
) -> Iterator[Piece]:
    """Yield the answer to a prompt as it is generated.

    Args:
        model: Folded, in evaluation mode.
        tokenizer: The base's.
        prompt: Tokens after which the model answers.
        max_tokens: The most to generate.
        temperature: 0 takes the likeliest token each time.

    Raises:
        UsageError: The prompt alone is longer than the model can read.
    """
    from mlx_lm.generate import stream_generate
    from mlx_lm.sample_utils import make_sampler

    for response in stream_generate(
        model,
        tokenizer.wrapper,
        list(prompt),
        max_tokens=room(model, prompt, max_tokens),
        sampler=make_sampler(temp=temperature),
    ):
        yield Piece(text=response.text, finish=response.finish_reason)


def room(model: nn.Module, prompt: Sequence[int], max_tokens: int) -> int:
    """Return how many tokens an answer may have: what is asked for, or what the model can read.

    Raises:
        UsageError: The prompt alone is longer than that.
    """
    context = context_tokens(model)
    if context and len(prompt) >= context:
        raise UsageError(
            f"the conversation is {len(prompt)} tokens long and the model reads {context}; "
            "ask less at once, or start afresh (/clear in a chat)"
        )
    return min(max_tokens, context - len(prompt)) if context else max_tokens


def context_tokens(model: nn.Module) -> int | None:
    """Return how many tokens a model can read, its answer's included; None if it does not say."""
    return getattr(model.args, "max_position_embeddings", None) or None
