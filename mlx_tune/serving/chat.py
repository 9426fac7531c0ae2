"""Conversations in OpenAI's shape: one reply, or a stream of chunks."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from mlx_tune.inference.logprobs import Scored
from mlx_tune.serving.job import Ask, Piece, Step
from mlx_tune.serving.replies import ChatReply
from mlx_tune.serving.tally import Tally

Pieces = AsyncGenerator[tuple[int, Piece]]


async def reply(pieces: Pieces, asks: Sequence[Ask], head: dict[str, Any]) -> dict[str, Any]:
    """Return the whole reply.

    Args:
        pieces: As they come, with the answer's number.
        asks: What was asked, an answer each.
        head: ``id``, ``created`` and ``model``.
    """
    tally = Tally(asks)
    async for number, piece in pieces:
        tally.add(number, piece)
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": tally.texts[number]},
            "logprobs": _logprobs(tally.steps[number], ask),
            "finish_reason": tally.finish[number],
        }
        for number, ask in enumerate(asks)
    ]
    whole = {**head, "choices": choices, "usage": tally.usage()}
    return ChatReply.model_validate(whole).model_dump()


async def chunks(
    pieces: Pieces, asks: Sequence[Ask], head: dict[str, Any], *, usage: bool
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the chunks of a stream: a role, then texts, then why it ended, then what it took."""
    tally = Tally(asks)
    common = {**head, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}

    def chunk(number: int, delta: dict[str, str], **more: Any) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**common, "choices": [{**choice, **more}]}

    begun: set[int] = set()
    async with contextlib.aclosing(pieces):
        async for number, piece in pieces:
            if number not in begun:
                begun.add(number)
                yield chunk(number, {"role": "assistant", "content": ""})
            tally.add(number, piece)
            logprobs = _logprobs(piece.steps, asks[number])
            if piece.text or piece.steps:
                yield chunk(number, {"content": piece.text}, logprobs=logprobs)
            if piece.finish is not None:
                yield chunk(number, {}, finish_reason=piece.finish)
    if usage:
        yield {**common, "choices": [], "usage": tally.usage()}


def _logprobs(steps: Sequence[Step], ask: Ask) -> dict[str, Any] | None:
    if ask.alternatives is None:
        return None
    return {
        "content": [
            {**_one(step.chosen), "top_logprobs": [_one(other) for other in step.others]}
            for step in steps
        ]
    }


def _one(scored: Scored) -> dict[str, Any]:
    return {"token": scored.text, "logprob": scored.logprob, "bytes": list(scored.spelt)}
