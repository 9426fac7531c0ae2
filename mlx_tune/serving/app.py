"""Puts a server together from a store: base, engine, routes, access; and takes it down again."""

import contextlib
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from mlx_tune import __version__
from mlx_tune.errors import MlxTuneError
from mlx_tune.models.bases import Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.serving.engine import METRICS_TYPE, Engine
from mlx_tune.serving.errors import ApiError, internal_error
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy
from mlx_tune.serving.lineage import lineage_routes
from mlx_tune.serving.models import ModelCache
from mlx_tune.serving.openai import Backend, openai_routes
from mlx_tune.serving.refusals import refusal
from mlx_tune.serving.registry import HEAD, ModelRegistry, RegisteredModel
from mlx_tune.serving.requests import RequestParser
from mlx_tune.serving.schemas import ERRORS, Health
from mlx_tune.serving.transport import serve
from mlx_tune.training.memory import limit_bytes
from mlx_tune.workflows.workspace import bare_base_note, open_workspace

END_SECONDS = 0.3
"""For the engine to end, of the two seconds that the process has after a signal."""
_PAGE = Path(__file__).parent / "page"
_PAGE_SUFFIXES = frozenset({".html", ".css", ".js", ".mjs", ".svg"})


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """The options of `mlx-tune serve`; those of access are :meth:`AccessPolicy.for_host`'s.

    Attributes:
        base: The base model, when not the store's own.
        port: TCP port; 0 takes any free one.
        most_loaded: Sessions in memory besides the one in use.
        most_waiting: Answers that are not finished, at most.
        prefix_bytes: Of what each model keeps for prompts that begin alike.
    """

    store: Path
    base: str | None
    host: str
    port: int
    token: str | None
    allow_hosts: Sequence[str]
    allow_origins: Sequence[str]
    most_loaded: int
    most_waiting: int
    prefix_bytes: int


@dataclass(frozen=True, kw_only=True)
class PreparedServer:
    """A server that does not listen yet; ``first`` is HEAD's model, to be loaded first."""

    app: AccessMiddleware
    engine: Engine
    first: RegisteredModel
    policy: AccessPolicy

    def start(self, *, say: Say) -> None:
        """Start the engine, and load HEAD before the first request."""

        def loaded(future: "Future[None]") -> None:
            if error := future.exception():
                say(str(error))

        self.engine.start()
        self.engine.load(self.first).add_done_callback(loaded)


def run(
    request: ServeRequest, *, say: Say, started: Callable[[str, int, AccessPolicy], None]
) -> bool:
    """Serve a store until SIGINT or SIGTERM.

    Args:
        request: The options.
        say: Called with one line about whatever takes long.
        started: Called with the address, the port and the policy once requests are answered.

    Returns:
        Whether the engine's thread has ended. If not, it is in the middle of a load or a long step,
        and the process cannot end in the ordinary way: MLX aborts it.

    Raises:
        UsageError: Nothing can listen there, or a name is malformed.
        IncompatibleError: The base is not the one the store's sessions stand on.
        DamagedStoreError: The session in use is damaged.
    """
    ready = prepare(request, say=say)

    def begin(host: str, port: int) -> None:
        ready.start(say=say)
        started(host, port, ready.policy)

    serve(
        ready.app,
        host=request.host,
        port=request.port,
        started=begin,  # a port in use is reported before anything is loaded
        on_stop=ready.engine.stop,
    )
    return ready.engine.join(END_SECONDS)


def prepare(request: ServeRequest, *, say: Say) -> PreparedServer:
    """Put a store's server together; the errors are those of :func:`run`."""
    policy = AccessPolicy.for_host(
        request.host,
        token=request.token,
        allow_hosts=request.allow_hosts,
        allow_origins=request.allow_origins,
    )
    info = open_workspace(request.store, base=request.base, say=say).info
    registry = ModelRegistry(request.store, fingerprint=info.fingerprint)
    first = registry.get(HEAD)
    if not first.chain:
        say(bare_base_note(request.store))
    parser = RequestParser(
        load_tokenizer(info.folder, info.template),
        vocabulary=int(info.config["vocab_size"]),
        context=info.config.get("max_position_embeddings"),
    )
    engine = Engine(
        # A tokenizer of the engine's own: it is not to be shared between threads.
        lambda: ModelCache(
            info,
            load_tokenizer(info.folder, info.template),
            most=request.most_loaded,
            prefix_bytes=request.prefix_bytes,
            memory_bytes=limit_bytes(),
        ),
        most_waiting=request.most_waiting,
    )
    backend = Backend(engine, registry, parser, base=info.name)
    app = AccessMiddleware(
        create_app(backend, lineage_routes(request.store, registry, info), _page_routes()), policy
    )
    return PreparedServer(app=app, engine=engine, first=first, policy=policy)


def create_app(backend: Backend, *routers: APIRouter) -> FastAPI:
    """Return the application: OpenAI's routes, the server's own, and ``routers``."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        backend.engine.stop()
        backend.parser.close()

    app = _DocumentedApp(
        title="mlx-tune",
        version=__version__,
        description="The model that a lineage's HEAD names, and every other of its sessions.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    for router in (openai_routes(backend), _server_routes(backend), *routers):
        app.include_router(router)
    # ApiError is an MlxTuneError; Exception is every error that was not foreseen.
    for kind in (RequestValidationError, HTTPException, MlxTuneError, Exception):
        app.add_exception_handler(kind, _answer_error)
    return app


class _DocumentedApp(FastAPI):
    """Removes FastAPI's own 422 from the OpenAPI document: such errors are a 400 here."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def _server_routes(backend: Backend) -> APIRouter:
    router = APIRouter(responses=ERRORS, tags=["server"])

    @router.get("/health", response_model_exclude_none=True)
    def health() -> Health:
        """Return 200 if requests are answered, else 503 with the reason."""
        if backend.engine.trouble is not None:
            raise backend.engine.unavailable()
        return Health(warning=backend.registry.warning)

    @router.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Show what was done, as Prometheus reads it."""
        return Response(backend.metrics.text(), media_type=METRICS_TYPE)

    return router


def _page_routes() -> APIRouter:
    """Return the page: a handful of files, read once; a request can name no other."""
    files = {
        path.relative_to(_PAGE).as_posix(): path.read_bytes()
        for path in sorted(_PAGE.rglob("*"))
        if path.suffix in _PAGE_SUFFIXES
    }
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index() -> Response:
        return part("index.html")

    @router.get("/page/{name:path}")
    def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such part")
        kind = "text/javascript" if name.endswith("js") else mimetypes.guess_type(name)[0]
        return Response(files[name], media_type=kind)

    return router


async def _answer_error(request: Request, error: Exception) -> Response:
    failure = _as_api_error(error)
    if isinstance(error, HTTPException) and error.status_code == 404:
        failure.message += _where_to_go(request.url.path)
    headers = {name.decode(): value.decode() for name, value in failure.fields}
    return JSONResponse(failure.to_json(), status_code=failure.status, headers=headers or None)


def _as_api_error(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case RequestValidationError(body=body):
            return refusal(error.errors(), body)
        case HTTPException(status_code=status, detail=detail, headers=headers):
            codes = {404: "not_found", 405: "method_not_allowed"}
            fields = tuple((k.encode(), v.encode()) for k, v in (headers or {}).items())
            code = codes.get(status, "invalid_request")
            return ApiError(str(detail), status=status, code=code, fields=fields)
        case MlxTuneError():  # a damaged store, for example
            return internal_error(str(error))
        case _:
            return internal_error()


_OFFERED = ("/chat/completions", "/completions", "/models")


def _where_to_go(path: str) -> str:
    """Return what a program that asked a path that there is not may have meant."""
    if path.startswith("/v1/v1/"):
        return "; the base URL ends in /v1 already, so leave one of the two out"
    if path.startswith(_OFFERED):
        return f"; ask /v1{path}, with a base URL that ends in /v1"
    if path.startswith(("/v1/responses", "/responses")):
        return "; the Responses API is not offered, use /v1/chat/completions"
    if path.startswith(("/api/chat", "/api/generate", "/api/tags", "/v1/messages")):
        return "; only OpenAI's API is offered, use /v1/chat/completions"
    return ""
