"""Brings a server up from a store: base, engine, routes, guard; and down again."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.rendering import Renderer
from mlx_tune.serving.app import Api, create_app
from mlx_tune.serving.engine import Engine
from mlx_tune.serving.lineage_routes import lineage_routes
from mlx_tune.serving.models import Models
from mlx_tune.serving.page_routes import page_routes
from mlx_tune.serving.policy import Policy, decide
from mlx_tune.serving.requests import Reader
from mlx_tune.serving.security import Guard
from mlx_tune.serving.shelf import HEAD, Shelf
from mlx_tune.serving.transport import serve
from mlx_tune.workflows.folded import choose_base, locate_base


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


def run(request: ServeRequest, *, say: Say, started: Callable[[str, int, Policy], None]) -> None:
    """Serve a store until a signal says stop.

    Args:
        request: What was asked for.
        say: Told, in a line, what takes long.
        started: Told where it answers, and whom.

    Raises:
        UsageError: Nothing can listen there, or a name is none.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """
    policy = decide(
        request.host,
        token=request.token,
        allow_hosts=request.allow_hosts,
        allow_origins=request.allow_origins,
    )
    store = Store.open(request.store)
    info = locate_base(store, choose_base(store, request.base), say)
    engine = _engine(info, request)
    shelf = Shelf(request.store)
    renderer = Renderer()
    reader = Reader(
        replace(load_tokenizer(info.folder, info.template), renderer=renderer),
        vocabulary=int(info.config["vocab_size"]),
        context=info.config.get("max_position_embeddings"),
    )
    api = Api(engine, shelf, reader, base=info.name)
    app = create_app(api, lineage_routes(request.store, info), page_routes())
    engine.start()
    engine.load(shelf.choose(HEAD), lambda failure: say(failure.message) if failure else None)
    with closing(renderer):
        serve(
            Guard(app, policy),
            host=request.host,
            port=request.port,
            started=lambda host, port: started(host, port, policy),
            on_stop=engine.stop,
        )


def _engine(info: BaseInfo, request: ServeRequest) -> Engine:
    def models() -> Models:
        # A tokenizer of the engine's own: it is not to be shared between threads.
        tokenizer = load_tokenizer(info.folder, info.template)
        return Models(info, tokenizer, most=request.most_loaded, prefix_bytes=request.prefix_bytes)

    return Engine(models, most_waiting=request.most_waiting)
