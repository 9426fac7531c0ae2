"""Brings a server up from a store: base, engine, routes, guard; and down again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.serving.app import Api, create_app
from mlx_tune.serving.engine import Engine
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy
from mlx_tune.serving.lineage_routes import lineage_routes
from mlx_tune.serving.models import Models
from mlx_tune.serving.page_routes import page_routes
from mlx_tune.serving.requests import Reader
from mlx_tune.serving.shelf import HEAD, Choice, Shelf
from mlx_tune.serving.transport import serve
from mlx_tune.store.store import SessionStore
from mlx_tune.training.memory import limit_bytes
from mlx_tune.workflows.workspace import choose_base, locate_base

END_SECONDS = 0.3
"""What is left for the engine of the two seconds in which the process is to end."""


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What a person asked for.

    Attributes:
        store: The store's folder.
        base: The base model, when not the store's own.
        host: Address or name to listen on.
        port: TCP port; 0 takes any free one.
        token: The person's own; it is then asked for everywhere.
        allow_hosts: More names that the server answers to.
        allow_origins: Other pages that may ask it.
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
class Prepared:
    """A server that does not listen yet.

    Attributes:
        app: Everything it answers, behind its guard.
        engine: Not started.
        first: What HEAD stands for, to be loaded first.
        policy: Whom it trusts.
    """

    app: AccessMiddleware
    engine: Engine
    first: Choice
    policy: AccessPolicy

    def start(self, *, say: Say) -> None:
        """Start the engine, and load HEAD before somebody asks."""
        self.engine.start()
        self.engine.load(self.first, lambda failure: say(failure.message) if failure else None)


def run(
    request: ServeRequest, *, say: Say, started: Callable[[str, int, AccessPolicy], None]
) -> bool:
    """Serve a store until a signal says stop.

    Args:
        request: What was asked for.
        say: Told, in a line, what takes long.
        started: Told where it answers, and whom.

    Returns:
        Whether the engine's thread has ended. If not, it is in the middle of a load or a long step,
        and the process cannot end in the ordinary way: MLX aborts it.

    Raises:
        UsageError: Nothing can listen there, or a name is none.
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
        started=begin,  # a port that is taken is told before anything is loaded
        on_stop=ready.engine.stop,
    )
    return ready.engine.join(END_SECONDS)


def prepare(request: ServeRequest, *, say: Say) -> Prepared:
    """Put a store's server together; the errors are those of :func:`run`."""
    policy = AccessPolicy.for_host(
        request.host,
        token=request.token,
        allow_hosts=request.allow_hosts,
        allow_origins=request.allow_origins,
    )
    store = SessionStore.open(request.store)
    info = locate_base(store, choose_base(store, request.base), say)
    shelf = Shelf(request.store)
    first = shelf.choose(HEAD)
    tokenizer = load_tokenizer(info.folder, info.template)
    reader = Reader(
        tokenizer,
        vocabulary=int(info.config["vocab_size"]),
        context=info.config.get("max_position_embeddings"),
    )
    engine = _engine(info, request)
    api = Api(engine, shelf, reader, base=info.name)
    app = create_app(api, lineage_routes(request.store, info), page_routes())
    return Prepared(app=AccessMiddleware(app, policy), engine=engine, first=first, policy=policy)


def _engine(info: BaseInfo, request: ServeRequest) -> Engine:
    def models() -> Models:
        # A tokenizer of the engine's own: it is not to be shared between threads.
        tokenizer = load_tokenizer(info.folder, info.template)
        return Models(
            info,
            tokenizer,
            most=request.most_loaded,
            prefix_bytes=request.prefix_bytes,
            memory_bytes=limit_bytes(),
        )

    return Engine(models, most_waiting=request.most_waiting)
