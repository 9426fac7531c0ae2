"""A scripted OpenAI-compatible server on loopback, right in everything but what a test breaks.

It has no model: its tokens are characters, its likeliest answer is always the same, and what it
draws depends on the seed alone.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = "Red — warm 🔥, green — calm, blue — far away."
FIELDS = {
    "model", "messages", "prompt", "temperature", "max_tokens", "stop", "seed", "n", "stream",
    "stream_options", "logprobs", "top_logprobs", "echo",
}  # fmt: skip
LIMIT_BYTES = 1024**2
OTHERS = "xyz"


@dataclass
class Reply:
    """What is about to be sent, for a test to break: JSON, or the chunks of a stream."""

    status: int = 200
    json: Any = None
    chunks: list[Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        if self.chunks is None:
            body, kind = json.dumps(self.json), "application/json"
        else:
            texts = [c if isinstance(c, str) else json.dumps(c) for c in self.chunks]
            body, kind = "".join(f"data: {text}\n\n" for text in texts), "text/event-stream"
        return Response(body, self.status, {"Content-Type": kind, **self.headers})


@dataclass(frozen=True)
class Asked:
    """A request: its path, its headers, and its JSON; None where it has none."""

    path: str
    headers: Any
    body: Any

    def __getattr__(self, name: str) -> Any:
        return (self.body or {}).get(name)


Break = Callable[[Asked, Reply], None]


@contextmanager
def running(
    breaks: Break | None = None, *, owner: str = "mlx-tune", token: str | None = None
) -> Iterator[str]:
    """Run a server in a thread; gives its address."""

    async def handle(request: Request) -> Response:
        data = await request.body()
        try:
            body = json.loads(data or "null")
        except ValueError:
            body = None
        asked = Asked(request.url.path, request.headers, body)
        reply = _reply(asked, data, owner, token)
        if breaks is not None:
            breaks(asked, reply)
        return reply.response()

    app = Starlette(routes=[Route("/{path:path}", handle, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none", http="h11"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _reply(asked: Asked, data: bytes, owner: str, token: str | None) -> Reply:
    if not asked.headers["host"].startswith("127.0.0.1:"):
        return _error(403, "this host is not served here")
    if asked.path == "/health":
        return Reply(json={"status": "ok"})
    if token is not None and asked.headers.get("authorization") != f"Bearer {token}":
        return _error(401, "a token is wanted")
    if asked.path == "/v1/models":
        model = {"object": "model", "created": 1_700_000_000, "owned_by": owner}
        return Reply(json={"object": "list", "data": [{"id": i, **model} for i in ("head", "b")]})
    if len(data) > LIMIT_BYTES:
        return _error(413, "the body is too large")
    return _refusal(asked) or _generated(asked)


def _error(status: int, message: str) -> Reply:
    kind = "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return Reply(status=status, json={"error": error})


def _refusal(asked: Asked) -> Reply | None:
    if not isinstance(asked.body, dict):
        return _error(400, "the body is no JSON object")
    if unknown := set(asked.body) - FIELDS:
        return _error(400, f"{', '.join(unknown)} is no field")
    if asked.model != "head":
        return _error(404, f"the model {asked.model} is none")
    if not isinstance(asked.max_tokens, int):
        return _error(400, "max_tokens is a whole number")
    is_chat = asked.path == "/v1/chat/completions"
    if is_chat and not (isinstance(asked.messages, list) and asked.messages):
        return _error(400, "messages is a list of at least one")
    return None


def _generated(asked: Asked) -> Reply:
    """Answer a request that is right."""
    is_chat = asked.path == "/v1/chat/completions"
    drawn = [_draw(asked, number) for number in range(asked.n or 1)]
    prompt_tokens = 30 if is_chat else len(asked.prompt)
    count = sum(tokens for _, _, tokens in drawn)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": count,
        "total_tokens": prompt_tokens + count,
    }
    if asked.stream:
        return Reply(chunks=_chunks(asked, is_chat, drawn[0], usage))
    choices = [
        _choice(asked, is_chat, i, text, ending) for i, (text, ending, _) in enumerate(drawn)
    ]
    kind = "chat.completion" if is_chat else "text_completion"
    return Reply(json={**_head(kind), "choices": choices, "usage": usage})


def _draw(asked: Asked, number: int) -> tuple[str, str, int]:
    """Return an answer, why it ended, and how many tokens it took."""
    text = ANSWER
    if asked.temperature:
        seed = None if asked.seed is None else asked.seed + number
        text = "".join(random.Random(seed).choices("abcdefgh ", k=60))
    ending = "length" if len(text) > asked.max_tokens else "stop"
    text = text[: asked.max_tokens]
    found = [text.index(stop) for stop in asked.stop or [] if stop in text]
    if not found:
        return text, ending, len(text)
    return text[: min(found)], "stop", min(found) + 1


def _head(kind: str) -> dict[str, Any]:
    return {"id": "answer-1", "object": kind, "created": 1_700_000_000, "model": "head"}


def _choice(asked: Asked, is_chat: bool, number: int, text: str, ending: str) -> dict[str, Any]:
    said = (asked.prompt if asked.echo else "") + text if not is_chat else text
    own = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": said}
    logprobs = None
    if asked.logprobs:
        logprobs = _chat_logprobs(text, asked.top_logprobs) if is_chat else _logprobs(asked, text)
    return {"index": number, **own, "finish_reason": ending, "logprobs": logprobs}


def _chat_logprobs(text: str, top: int) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            {
                **entry(token, -0.1),
                "top_logprobs": [entry(t, -0.1 - i) for i, t in enumerate(token + OTHERS)][:top],
            }
            for token in text
        ]
    }


def _logprobs(asked: Asked, text: str) -> dict[str, Any]:
    best = [dict.fromkeys((token + OTHERS)[: asked.logprobs], -0.5) for token in text]
    return {
        "tokens": list(text),
        "token_logprobs": [-0.5] * len(text),
        "top_logprobs": best,
        "text_offset": list(range(len(text))),
    }


def _chunks(asked: Asked, is_chat: bool, drawn: tuple[str, str, int], usage: Any) -> list[Any]:
    text, ending, _ = drawn
    said = (asked.prompt if asked.echo else "") + text
    pieces = [said[i : i + 2] for i in range(0, len(said), 2)]
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    own = [{"delta": {"content": p}} if is_chat else {"text": p} for p in pieces]
    if is_chat:
        own = [{"delta": {"role": "assistant", "content": ""}}, *own, {"delta": {}}]
    reasons = [None] * (len(own) - 1) + [ending]
    chunks: list[Any] = [
        {**_head(kind), "choices": [{"index": 0, **one, "finish_reason": reason}]}
        for one, reason in zip(own, reasons, strict=True)
    ]
    if (asked.stream_options or {}).get("include_usage"):
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**_head(kind), "choices": [], "usage": usage})
    return [*chunks, "[DONE]"]
