"""The server's API with scripted replies, so that the page is tested without a model."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from helpers.page_stories import Story

PAGE = Path(__file__).parents[2] / "mlx_tune" / "serving" / "page"
TOKEN = "loopback-and-lineage"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types dompurify"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What one question is answered with.

    Attributes:
        text: The whole answer.
        whole: Sent in one piece; else a character at a time.
        pause: Seconds between pieces.
        failure: A message that ends the stream after the text; None for none.
        finish: As OpenAI's `finish_reason`.
        status: Anything but 200 refuses the request with `failure`.
    """

    text: str = ""
    whole: bool = False
    pause: float = 0.0
    failure: str | None = None
    finish: str = "stop"
    status: int = 200


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    token: str | None
    body: Any


@dataclass(kw_only=True)
class FakeServer:
    """A server on loopback in a thread of this process.

    Attributes:
        story: The lineage, retention and training it tells of.
        reply: What a question is answered with, by the model's id and its messages.
        guarded: Every call needs the token, not only those that move HEAD.
        calls: Those that came in, the page's own files left out.
        left: How many clients went away before their answer was whole.
    """

    story: Story
    reply: Callable[[str, list[dict[str, str]]], Reply]
    guarded: bool = False
    calls: list[Call] = field(default_factory=list)
    left: int = 0
    port: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FakeServer":
        """Start, and wait until it listens."""
        config = uvicorn.Config(
            self._app(),
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            ws="none",
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the fake server did not start"
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, streams included."""
        assert self._server
        assert self._thread
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", lambda _: FileResponse(PAGE / "index.html", headers=HEADERS)),
                Mount("/page", StaticFiles(directory=PAGE)),
                Route("/v1/models", self._told(lambda _: self.story.models())),
                Route("/api/lineage", self._told(lambda _: self.story.lineage())),
                Route("/api/retention", self._told(self._retention)),
                Route("/api/training", self._told(lambda _: self.story.training)),
                Route("/api/rollback", self._moved("to"), methods=["POST"]),
                Route("/api/promote", self._moved("session"), methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def _retention(self, request: Request) -> Any:
        return self.story.retention(request.query_params.get("session"))

    def _told(self, tell: Callable[[Request], Any]) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            refused = await self._note(request, needs_token=self.guarded)
            return refused or JSONResponse(tell(request))

        return endpoint

    def _moved(self, key: str) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            refused = await self._note(request, needs_token=True)
            if refused:
                return refused
            self.story.move(self.calls[-1].body[key])
            return JSONResponse({"head": self.story.head})

        return endpoint

    async def _note(self, request: Request, *, needs_token: bool) -> Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        raw = await request.body()
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.calls.append(
            Call(
                method=request.method,
                path=path,
                token=given,
                body=json.loads(raw) if raw else None,
            )
        )
        if needs_token and given != TOKEN:
            return _refusal(401, "this needs the token that `mlx-tune serve` printed")
        return None

    async def _chat(self, request: Request) -> Response:
        refused = await self._note(request, needs_token=self.guarded)
        if refused:
            return refused
        body = self.calls[-1].body
        reply = self.reply(body["model"], body["messages"])
        if reply.status != 200:
            return _refusal(reply.status, reply.failure or "refused")
        return StreamingResponse(self._stream(reply, body["model"]), media_type="text/event-stream")

    async def _stream(self, reply: Reply, model: str) -> AsyncIterator[str]:
        is_whole = False
        try:
            for chunk in _chunks(reply, model):
                yield chunk
                await asyncio.sleep(reply.pause)
            is_whole = True
        finally:
            self.left += not is_whole


def _chunks(reply: Reply, model: str) -> Iterator[str]:
    yield ": ping\r\n\r\n"
    yield _event(_chunk(model, {"role": "assistant", "content": ""}))
    for piece in [reply.text] if reply.whole else reply.text:
        yield _event(_chunk(model, {"content": piece}))
    if reply.failure:
        yield _event({"error": {"message": reply.failure, "type": "server_error", "code": None}})
        return
    yield _event(_chunk(model, {}, reply.finish))
    usage = {"prompt_tokens": 9, "completion_tokens": len(reply.text.split()), "total_tokens": 0}
    yield _event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _chunk(model: str, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": model, "choices": [choice], "usage": None}


def _event(data: Any) -> str:
    return f"data: {json.dumps(data)}\r\n\r\n"


def _refusal(status: int, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status)
