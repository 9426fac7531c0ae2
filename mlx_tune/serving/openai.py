"""OpenAI's API: its routes, and answers as one reply or as a stream of chunks."""

import asyncio
import contextlib
import functools
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from mlx_tune.inference import Logprob
from mlx_tune.serving.engine import Engine, Metrics, generate, result_of
from mlx_tune.serving.errors import ApiError
from mlx_tune.serving.jobs import GenerationRequest, TextDelta, TokenStep
from mlx_tune.serving.registry import BASE, ModelRegistry, RegisteredModel
from mlx_tune.serving.requests import RequestParser
from mlx_tune.serving.schemas import (
    ERRORS,
    AdapterRequest,
    BaseRequest,
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    ErrorReply,
    JsonRoute,
    ModelCard,
    ModelList,
)
from mlx_tune.serving.tools import ToolCallParser

Deltas = AsyncGenerator[tuple[int, TextDelta]]
"""The deltas of several answers, each with its answer's number."""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class Backend:
    """What the routes share; ``base`` is the base model's name."""

    def __init__(
        self, engine: Engine, registry: ModelRegistry, parser: RequestParser, *, base: str
    ) -> None:
        self.engine, self.registry, self.parser, self.base = engine, registry, parser, base
        self.metrics = Metrics(engine)
        self.began = int(time.time())

    def card(self, model: RegisteredModel) -> ModelCard:
        """Return what is listed of a model."""
        is_base = model.name == BASE
        return ModelCard(
            id=model.name,
            created=self.began,
            root=self.base if is_base else model.root,
            parent=None if is_base else BASE,
            max_model_len=self.parser.context,
        )


class ResponseAccumulator(ABC):
    """Adds up the deltas of a request's answers, and puts them into OpenAI's shape."""

    kind: ClassVar[str]
    reply_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, requests: Sequence[GenerationRequest], *, model: str) -> None:
        self.requests = requests
        self.texts = [""] * len(requests)
        self.steps: list[list[TokenStep]] = [[] for _ in requests]
        self.finish: list[str | None] = [None] * len(requests)
        self._generated = [0] * len(requests)
        self._id = f"{self.kind}-{secrets.token_hex(12)}"
        self._created, self._model = int(time.time()), model

    @abstractmethod
    def _choice(self, number: int) -> dict[str, Any]:
        """Return a finished answer."""

    @abstractmethod
    def _chunk_choices(self, number: int, delta: TextDelta) -> Iterator[dict[str, Any]]:
        """Yield the choices that a stream sends for a delta, a chunk each."""

    async def reply(self, deltas: Deltas) -> dict[str, Any]:
        """Return the reply to a request without a stream."""
        async for number, delta in deltas:
            self._add(number, delta)
        return {
            "id": self._id,
            "object": self.reply_object,
            "created": self._created,
            "model": self._model,
            "choices": [self._choice(number) for number in range(len(self.requests))],
            "usage": self._usage(),
        }

    async def chunks(self, deltas: Deltas, *, usage: bool) -> AsyncGenerator[dict[str, Any]]:
        """Yield the chunks of a stream; the last counts the tokens if ``usage`` is set."""
        head: dict[str, Any] = {"id": self._id, "created": self._created, "model": self._model}
        head |= {"object": self.chunk_object, **({"usage": None} if usage else {})}
        async with contextlib.aclosing(deltas):
            async for number, delta in deltas:
                self._add(number, delta)
                for choice in self._chunk_choices(number, delta):
                    yield {**head, "choices": [choice]}
        if usage:
            yield {**head, "choices": [], "usage": self._usage()}

    def _add(self, number: int, delta: TextDelta) -> None:
        self.texts[number] += delta.text
        self.steps[number] += delta.steps
        self.finish[number] = delta.finish
        self._generated[number] = max(self._generated[number], delta.tokens)

    def _usage(self) -> dict[str, int]:
        # Answers to one prompt count it once, as OpenAI does; equal prompts are several.
        read = sum(len(request.prompt) for request in self.requests if not request.is_repeat)
        made = sum(self._generated)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


class ChatAccumulator(ResponseAccumulator):
    """Conversations; a stream is a role, then texts and calls, then why it ended."""

    kind, reply_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, requests: Sequence[GenerationRequest], *, model: str) -> None:
        super().__init__(requests, model=model)
        self._parsers = [ToolCallParser(one.tools) if one.tools else None for one in requests]
        self._calls = [0] * len(requests)
        self._begun: set[int] = set()

    def _choice(self, number: int) -> dict[str, Any]:
        text, calls = self._split(number, self.texts[number], is_last=True)
        return {
            "index": number,
            "message": {"role": "assistant", "content": text, "tool_calls": calls or None},
            "logprobs": self._logprobs(number, self.steps[number]),
            "finish_reason": self._reason(number),
        }

    def _chunk_choices(self, number: int, delta: TextDelta) -> Iterator[dict[str, Any]]:
        def choice(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
            empty = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
            return {**empty, **more}

        if number not in self._begun:
            self._begun.add(number)
            yield choice({"role": "assistant", "content": ""})
        before = self._calls[number]
        text, calls = self._split(number, delta.text, is_last=delta.finish is not None)
        if text or delta.steps:
            yield choice({"content": text}, logprobs=self._logprobs(number, delta.steps))
        for index, call in enumerate(calls, start=before):
            yield choice({"tool_calls": [{"index": index, **call}]})
        if delta.finish is not None:
            yield choice({}, finish_reason=self._reason(number))

    def _split(self, number: int, text: str, *, is_last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Return what of the next text may be shown, and the calls that are complete in it."""
        parser = self._parsers[number]
        text, calls = parser.add(text, is_last=is_last) if parser else (text, [])
        self._calls[number] += len(calls)
        return text, calls

    def _reason(self, number: int) -> str | None:
        reason = self.finish[number]
        return "tool_calls" if self._calls[number] and reason == "stop" else reason

    def _logprobs(self, number: int, steps: Sequence[TokenStep]) -> dict[str, Any] | None:
        if self.requests[number].top_logprobs is None:
            return None
        found = [
            {**_logprob(step.chosen), "top_logprobs": [_logprob(one) for one in step.others]}
            for step in steps
        ]
        return {"content": found}


def _logprob(token: Logprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


class CompletionAccumulator(ResponseAccumulator):
    """Texts that are continued, in OpenAI's older shape."""

    kind, reply_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, requests: Sequence[GenerationRequest], *, model: str) -> None:
        super().__init__(requests, model=model)
        self._offsets = [0] * len(requests)

    def _choice(self, number: int) -> dict[str, Any]:
        return self._part(number, self.texts[number], self.steps[number])

    def _chunk_choices(self, number: int, delta: TextDelta) -> Iterator[dict[str, Any]]:
        yield self._part(number, delta.text, delta.steps)

    def _part(self, number: int, text: str, steps: Sequence[TokenStep]) -> dict[str, Any]:
        logprobs, reason = self._logprobs(number, steps), self.finish[number]
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, number: int, steps: Sequence[TokenStep]) -> dict[str, Any] | None:
        """Return the lists of the older shape; offsets count characters of the tokens' texts."""
        if self.requests[number].top_logprobs is None:
            return None
        offsets = []
        for step in steps:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(step.chosen.text)
        return {
            "tokens": [step.chosen.text for step in steps],
            "token_logprobs": [None if step.is_first else step.chosen.logprob for step in steps],
            "top_logprobs": [_likeliest(step) for step in steps],
            "text_offset": offsets,
        }


def _likeliest(step: TokenStep) -> dict[str, float] | None:
    """Return the likely tokens by their text; the likeliest of those that read alike."""
    found: dict[str, float] = {}
    for token in step.others:
        found.setdefault(token.text, token.logprob)
    return None if step.is_first else found


def openai_routes(backend: Backend) -> APIRouter:
    """Return OpenAI's part of the API."""
    router = APIRouter(responses=ERRORS, route_class=JsonRoute)
    engine, registry, parser = backend.engine, backend.registry, backend.parser

    @router.get("/v1/models", response_model=ModelList, tags=["models"])
    def models() -> ModelList:
        """List HEAD, every session and the base."""
        return ModelList(data=[backend.card(model) for model in registry.all()])

    @router.get("/v1/models/{name}", response_model=ModelCard, tags=["models"])
    def model(name: str) -> ModelCard:
        """Show one of them."""
        return backend.card(registry.get(name))

    @router.post(
        "/v1/chat/completions", response_model=ChatReply, responses=_STREAM, tags=["answers"]
    )
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        return await _answer(backend, http, request, parser.chat, ChatAccumulator)

    @router.post(
        "/v1/completions", response_model=CompletionReply, responses=_STREAM, tags=["answers"]
    )
    async def text_completions(request: CompletionRequest, http: Request) -> Response:
        """Continue a text."""
        return await _answer(backend, http, request, parser.completion, CompletionAccumulator)

    @router.post("/v1/embeddings", status_code=400, response_model=ErrorReply, tags=["answers"])
    def embeddings(_: Annotated[dict[str, Any], Body()]) -> Response:
        """Refuse: a chat model has no embeddings."""
        raise ApiError(
            "this server has no embeddings, for a chat model makes none; use a model made for them",
            code="not_supported",
        )

    @router.post("/v1/load_lora_adapter", response_class=PlainTextResponse, tags=["models"])
    async def load(request: AdapterRequest) -> PlainTextResponse:
        """Load a session before the first request to it, as vLLM does; never a path."""
        model = await run_in_threadpool(registry.get, request.lora_name)
        await result_of(engine, engine.load(model))
        return PlainTextResponse(f"Success: {model.name} is loaded.")

    @router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse, tags=["models"])
    async def unload(request: AdapterRequest) -> PlainTextResponse:
        """Free a session's memory; asked again, it is loaded again."""
        model = await run_in_threadpool(registry.get, request.lora_name)
        if not await result_of(engine, engine.unload(model)):
            message = f"{model.name} is not loaded, or answers somebody; ask again later"
            raise ApiError(message, param="lora_name")
        return PlainTextResponse(f"Success: {model.name} is no longer loaded.")

    return router


async def _answer(
    backend: Backend,
    http: Request,
    request: BaseRequest,
    parse: Callable[[Any, RegisteredModel], list[GenerationRequest]],
    accumulator: type[ResponseAccumulator],
) -> Response:
    """Answer in one piece or as a stream of events; stop when the client disconnects."""

    def check() -> tuple[RegisteredModel, list[GenerationRequest]]:
        model = backend.registry.get(request.model)
        return model, parse(request, model)

    model, requests = await run_in_threadpool(check)  # templates and schemas take long
    if len(requests) > (most := backend.engine.most_waiting):  # 429 would have it retry for ever
        raise ApiError(
            f"{len(requests)} answers are asked for at once, and this server makes {most}; ask for "
            "fewer, or start it with a larger --waiting",
            param="n",
        )
    response = accumulator(requests, model=model.name)
    deltas = _timed(backend.metrics, generate(backend.engine, requests))
    if not request.stream:
        return JSONResponse(await _unless_disconnected(http, response.reply(deltas)))
    options = request.stream_options
    chunks = response.chunks(deltas, usage=bool(options and options.include_usage))
    first = await _unless_disconnected(http, anext(chunks))  # until then a failure is a status
    return EventSourceResponse(_events(first, chunks), sep="\n")


async def _timed(metrics: Metrics, deltas: Deltas) -> Deltas:
    """Yield the deltas, the first of them timed."""
    began, is_first = time.perf_counter(), True
    async with contextlib.aclosing(deltas):
        async for number, delta in deltas:
            if is_first and (delta.text or delta.finish):
                metrics.first_token.observe(time.perf_counter() - began)
                is_first = False
            yield number, delta


async def _events(first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any]]) -> Any:
    """Yield a stream's events; if it fails midway, the last one is the error."""
    encode = functools.partial(JSONResponse.render, JSONResponse(None))
    try:
        async with contextlib.aclosing(chunks):
            yield {"data": encode(first).decode()}
            async for chunk in chunks:
                yield {"data": encode(chunk).decode()}
    except ApiError as error:
        yield {"data": encode(error.to_json()).decode()}
        return
    yield {"data": "[DONE]"}


async def _unless_disconnected(http: Request, answer: Any) -> Any:
    """Return what is awaited; give it up as soon as the client disconnects."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ApiError("client disconnected", status=499, code="client_disconnected")
        return answering.result()
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
