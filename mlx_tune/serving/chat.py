"""Conversations in OpenAI's shape: one reply, or a stream of chunks."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from mlx_tune.inference import Logprob
from mlx_tune.serving.job import Ask, Piece, Step
from mlx_tune.serving.replies import ChatReply
from mlx_tune.serving.tally import Tally
from mlx_tune.serving.tools import ToolCall

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
            "logprobs": _logprobs(tally.steps[number], ask),
            **_said(tally.texts[number], str(tally.finish[number]), ask),
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

    readers = [ask.offered.reader() if ask.offered else None for ask in asks]
    made = [0] * len(asks)

    def chunk(number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
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
            text, calls = piece.text, list[ToolCall]()
            if (reader := readers[number]) is not None:
                text, calls = reader.add(text, is_last=piece.finish is not None)
            if text or piece.steps:
                yield chunk(number, {"content": text}, logprobs=logprobs)
            for call in calls:
                yield chunk(number, {"tool_calls": [{"index": made[number], **call.to_json()}]})
                made[number] += 1
            if piece.finish is not None:
                yield chunk(number, {}, finish_reason=_why(piece.finish, made[number]))
    if usage:
        yield {**common, "choices": [], "usage": tally.usage()}


def _said(text: str, finish: str, ask: Ask) -> dict[str, Any]:
    """Return an answer's message, and why it ended."""
    calls: list[ToolCall] = []
    if ask.offered is not None:
        text, calls = ask.offered.reader().add(text, is_last=True)
    message: dict[str, Any] = {"content": text}
    if calls:
        message["tool_calls"] = [call.to_json() for call in calls]
    return {"message": message, "finish_reason": _why(finish, len(calls))}


def _why(finish: str, calls: int) -> str:
    return "tool_calls" if calls and finish == "stop" else finish


def _logprobs(steps: Sequence[Step], ask: Ask) -> dict[str, Any] | None:
    if ask.alternatives is None:
        return None
    return {
        "content": [
            {**_one(step.chosen), "top_logprobs": [_one(other) for other in step.others]}
            for step in steps
        ]
    }


def _one(one: Logprob) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.raw)}
