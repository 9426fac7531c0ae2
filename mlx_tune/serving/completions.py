"""Texts that go on, in OpenAI's older shape: one reply, or a stream of chunks."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from mlx_tune.serving.job import Ask, Piece, Step
from mlx_tune.serving.replies import CompletionReply
from mlx_tune.serving.tally import Tally

Pieces = AsyncGenerator[tuple[int, Piece]]


async def reply(pieces: Pieces, asks: Sequence[Ask], head: dict[str, Any]) -> dict[str, Any]:
    """Return the whole reply; the arguments are those of `chat.reply`."""
    tally = Tally(asks)
    async for number, piece in pieces:
        tally.add(number, piece)
    choices = [
        {
            "index": number,
            "text": tally.texts[number],
            "logprobs": _logprobs(tally.steps[number], ask, offset=0),
            "finish_reason": tally.finish[number],
        }
        for number, ask in enumerate(asks)
    ]
    whole = {**head, "choices": choices, "usage": tally.usage()}
    return CompletionReply.model_validate(whole).model_dump()


async def chunks(
    pieces: Pieces, asks: Sequence[Ask], head: dict[str, Any], *, usage: bool
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the chunks of a stream."""
    tally = Tally(asks)
    common = {**head, "object": "text_completion", **({"usage": None} if usage else {})}
    offsets = [0] * len(asks)
    async with contextlib.aclosing(pieces):
        async for number, piece in pieces:
            tally.add(number, piece)
            logprobs = _logprobs(piece.steps, asks[number], offset=offsets[number])
            offsets[number] += sum(len(step.chosen.text) for step in piece.steps)
            choice = {"index": number, "text": piece.text, "logprobs": logprobs}
            yield {**common, "choices": [{**choice, "finish_reason": piece.finish}]}
    if usage:
        yield {**common, "choices": [], "usage": tally.usage()}


def _logprobs(steps: Sequence[Step], ask: Ask, *, offset: int) -> dict[str, Any] | None:
    """Return the lists of the older shape; offsets count characters of the tokens' texts."""
    if ask.alternatives is None:
        return None
    offsets = []
    for step in steps:
        offsets.append(offset)
        offset += len(step.chosen.text)
    return {
        "tokens": [step.chosen.text for step in steps],
        "token_logprobs": [None if step.is_first else step.chosen.logprob for step in steps],
        "top_logprobs": [_likely(step) for step in steps],
        "text_offset": offsets,
    }


def _likely(step: Step) -> dict[str, float] | None:
    """Return the likely tokens by their text; the likeliest of those that read alike."""
    if step.is_first:
        return None
    found: dict[str, float] = {}
    for other in step.others:
        found.setdefault(other.text, other.logprob)
    return found
