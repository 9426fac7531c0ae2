"""The routes: OpenAI's API, the health and the metrics, and the page."""

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from mlx_tune import __version__
from mlx_tune.errors import MlxTuneError
from mlx_tune.serving import chat, completions, metrics
from mlx_tune.serving.engine import STOPPING, BusyError, DownError, Engine
from mlx_tune.serving.events import JobFailedError, events
from mlx_tune.serving.job import Ask, Failure, Piece
from mlx_tune.serving.replies import (
    ERRORS,
    ChatReply,
    CompletionReply,
    ErrorReply,
    Health,
    ModelCard,
    ModelList,
    error_body,
)
from mlx_tune.serving.requests import Reader, RequestError
from mlx_tune.serving.schemas import AdapterRequest, ChatRequest, CompletionRequest, Drawn
from mlx_tune.serving.shelf import BASE, Choice, Shelf, UnknownModelError

RETRY_SECONDS = 1
_LOOK_SECONDS = 0.2
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class Api:
    """What the routes share."""

    def __init__(self, engine: Engine, shelf: Shelf, reader: Reader, *, base: str) -> None:
        """Take the parts.

        Args:
            engine: Makes the answers.
            shelf: Which models can be named.
            reader: Checks requests.
            base: The base model's name.
        """
        self.engine, self.shelf, self.reader, self.base = engine, shelf, reader, base
        self.metrics = metrics.Metrics(engine)
        self.began = int(time.time())

    async def asks(
        self, read: Callable[[Any, Choice], list[Ask]], request: Drawn
    ) -> tuple[Choice, list[Ask]]:
        """Check a request; what takes long of it is not done on the event loop."""

        def check() -> tuple[Choice, list[Ask]]:
            choice = self.shelf.choose(request.model)
            return choice, read(request, choice)

        choice, asks = await run_in_threadpool(check)
        if len(asks) > (most := self.engine.most_waiting):  # it would be told to wait for ever
            raise RequestError(
                f"{len(asks)} answers are asked for at once, and this server makes {most}; ask for "
                "fewer, or start it with a larger --waiting",
                param="n",
            )
        return choice, asks

    async def pieces(self, asks: list[Ask]) -> AsyncGenerator[tuple[int, Piece]]:
        """Yield the answers' pieces, the first of them timed."""
        began, is_first = time.perf_counter(), True
        async with contextlib.aclosing(events(self.engine, asks)) as heard:
            async for number, piece in heard:
                if is_first and (piece.text or piece.finish):
                    self.metrics.first_token.observe(time.perf_counter() - began)
                    is_first = False
                yield number, piece

    def head(self, kind: str, choice: Choice) -> dict[str, Any]:
        """Return what every reply begins with."""
        return {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": choice.name,
        }

    async def answer(
        self, http: Request, request: Drawn, shape: Any, asks: list[Ask], head: dict[str, Any]
    ) -> Response:
        """Answer in one piece, or as a stream of events; stop when nobody listens any more."""
        pieces = self.pieces(asks)
        if not request.stream:
            return JSONResponse(await _unless_left(http, shape.reply(pieces, asks, head)))
        options = request.stream_options
        usage = options is not None and options.include_usage
        chunks = shape.chunks(pieces, asks, head, usage=usage)
        first = await _unless_left(http, anext(chunks))  # until then a failure is a status
        return EventSourceResponse(_stream(first, chunks), sep="\n")


async def _stream(first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any]]) -> Any:
    """Yield a stream's events; one that fails midway says so as its last."""
    encode = functools.partial(JSONResponse.render, JSONResponse(None))
    try:
        async with contextlib.aclosing(chunks):
            yield {"data": encode(first).decode()}
            async for chunk in chunks:
                yield {"data": encode(chunk).decode()}
    except JobFailedError as error:
        yield {"data": encode(_failed(error.failure)).decode()}
        return
    yield {"data": "[DONE]"}


def _failed(failure: Failure) -> dict[str, Any]:
    return error_body(failure.message, status=failure.status, code=failure.code)


async def _unless_left(http: Request, answer: Any) -> Any:
    """Return what is awaited; give it up as soon as the client has left."""
    asked = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(_left(http))
    try:
        await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise HTTPException(499, "the client left")
        return asked.result()
    finally:
        for task in (asked, left):
            task.cancel()
        await asyncio.gather(asked, left, return_exceptions=True)


async def _left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def routes(api: Api) -> APIRouter:
    """Return OpenAI's part of the API."""
    router = APIRouter(responses=ERRORS)

    @router.get("/v1/models", response_model=ModelList, tags=["models"])
    def models() -> ModelList:
        """List HEAD, every session and the base."""
        return ModelList(data=[_card(api, choice) for choice in api.shelf.choices()])

    @router.get("/v1/models/{name}", response_model=ModelCard, tags=["models"])
    def model(name: str) -> ModelCard:
        """Show one of them."""
        return _card(api, api.shelf.choose(name))

    @router.post(
        "/v1/chat/completions", response_model=ChatReply, responses=_STREAM, tags=["answers"]
    )
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        choice, asks = await api.asks(api.reader.chat, request)
        return await api.answer(http, request, chat, asks, api.head("chatcmpl", choice))

    @router.post(
        "/v1/completions", response_model=CompletionReply, responses=_STREAM, tags=["answers"]
    )
    async def text_completions(request: CompletionRequest, http: Request) -> Response:
        """Go on with a text."""
        choice, asks = await api.asks(api.reader.completion, request)
        return await api.answer(http, request, completions, asks, api.head("cmpl", choice))

    @router.post("/v1/embeddings", status_code=400, response_model=ErrorReply, tags=["answers"])
    def embeddings(_: Annotated[dict[str, Any], Body()]) -> Response:
        """Refuse: a chat model has no embeddings."""
        raise RequestError(
            "this server has no embeddings: a chat model's states are none; use a model made for "
            "them",
            param=None,
            code="not_supported",
        )

    @router.post("/v1/load_lora_adapter", response_class=PlainTextResponse, tags=["models"])
    async def load(request: AdapterRequest) -> PlainTextResponse:
        """Bring a session into memory before somebody asks it, as vLLM does; never a path."""
        choice = await run_in_threadpool(api.shelf.choose, request.lora_name)
        failure = await _told(api.engine, lambda done: api.engine.load(choice, done))
        if failure is not None:
            raise JobFailedError(failure)
        return PlainTextResponse(f"Success: {choice.name} is loaded.")

    @router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse, tags=["models"])
    async def unload(request: AdapterRequest) -> PlainTextResponse:
        """Let go of a session's memory; asked again, it is loaded again."""
        choice = await run_in_threadpool(api.shelf.choose, request.lora_name)
        if not await _told(api.engine, lambda done: api.engine.unload(choice, done)):
            raise RequestError(
                f"{choice.name} is not loaded, or answers somebody; ask again later",
                param="lora_name",
            )
        return PlainTextResponse(f"Success: {choice.name} is no longer loaded.")

    @router.get("/health", response_model=Health, tags=["server"])
    def health() -> Health:
        """Say whether questions would be answered: 200, or 503 with the reason."""
        if api.engine.trouble is not None:
            raise DownError
        return Health()

    @router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Show what was done, as Prometheus reads it."""
        return Response(api.metrics.text(), media_type=metrics.CONTENT_TYPE)

    return router


async def _told(engine: Engine, ask: Callable[[Callable[[Any], object]], None]) -> Any:
    """Return what the engine's thread answers.

    Raises:
        DownError: It answers nothing any more.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def tell(value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
            loop.call_soon_threadsafe(answer.set_result, value)

    ask(tell)
    while not answer.done():
        if engine.trouble is not None:
            raise DownError
        await asyncio.wait({answer}, timeout=_LOOK_SECONDS)
    return answer.result()


def _card(api: Api, choice: Choice) -> ModelCard:
    is_base = choice.name == BASE
    return ModelCard(
        id=choice.name,
        created=api.began,
        root=api.base if is_base else choice.root,
        parent=None if is_base else BASE,
        max_model_len=api.reader.context,
    )


class _Documented(FastAPI):
    """Leaves FastAPI's own 422 out of the OpenAPI document: what it stands for is a 400 here."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def create_app(api: Api, *routers: APIRouter) -> FastAPI:
    """Return the application.

    Args:
        api: What its routes share.
        routers: More of them: the page's.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        api.engine.stop()
        api.reader.close()

    app = _Documented(
        title="mlx-tune",
        version=__version__,
        description="The model that a lineage's HEAD names, and every other of its sessions.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    for router in (routes(api), *routers):
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(UnknownModelError, _unknown)
    app.add_exception_handler(MlxTuneError, _trouble)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(DownError, functools.partial(_down, api.engine))
    app.add_exception_handler(JobFailedError, _job_failed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)
    return app


def _json(status: int, body: dict[str, Any], **headers: str) -> Response:
    return JSONResponse(body, status_code=status, headers=headers or None)


def _invalid(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "extra_forbidden":
        what = "this server has no such field, and ignores none; leave it out"
    else:
        what = str(first["msg"]).removeprefix("Value error, ")
    message = f"{place}: {what}" if place else what
    code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_value"
    return _json(400, error_body(message, status=400, code=code, param=place or None))


def _refused(_: Request, error: Any) -> Response:
    body = error_body(str(error), status=error.status, code=error.code, param=error.param)
    return _json(error.status, body)


def _unknown(_: Request, error: Any) -> Response:
    return _json(404, error_body(str(error), status=404, code="model_not_found", param="model"))


def _trouble(_: Request, error: Any) -> Response:
    """Answer with what is wrong in the store."""
    return _json(500, error_body(str(error), status=500, code="internal_error"))


def _busy(_: Request, __: Any) -> Response:
    body = error_body("too many requests wait; try again", status=429, code="rate_limit_exceeded")
    return _json(429, body, **{"Retry-After": str(RETRY_SECONDS)})


def _down(engine: Engine, _: Request, __: Any) -> Response:
    why = engine.trouble or STOPPING
    return _json(503, error_body(why, status=503, code="engine_down"))


def _job_failed(_: Request, error: Any) -> Response:
    return _json(error.failure.status, _failed(error.failure))


def _http(_: Request, error: Any) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    body = error_body(str(error.detail), status=error.status_code, code=code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def _fault(_: Request, __: Any) -> Response:
    """Answer for what nobody foresaw; the server's terminal shows it."""
    message = "a fault in the server; its terminal says which"
    return _json(500, error_body(message, status=500, code="internal_error"))
