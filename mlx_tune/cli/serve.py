"""`mlx-tune serve`: the model behind OpenAI's API, and a page to talk to it."""

import os
import sys
from typing import Annotated

import typer

from mlx_tune.cli.console import say, warn_of_slow_blas
from mlx_tune.cli.options import STORE, BaseOption, StoreOption
from mlx_tune.errors import UsageError


def serve(
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address; one that other machines can reach requires the token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes any free port.")] = 8321,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="MLX_TUNE_TOKEN",
            help="Require this of every request; default: a random one, for changes alone.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Another name it answers to.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", help="Another origin whose pages may use it."),
    ] = None,
    loaded: Annotated[
        int, typer.Option("--loaded", min=1, help="Sessions in memory besides the one in use.")
    ] = 3,
    waiting: Annotated[
        int, typer.Option("--waiting", min=1, help="Most requests running or queued.")
    ] = 64,
    prefix_mb: Annotated[
        int,
        typer.Option("--prefix-mb", min=0, help="MiB of memory to cache shared prompt prefixes."),
    ] = 256,
    store: StoreOption = STORE,
    base: BaseOption = None,
) -> None:
    """Serve the model that HEAD names: an OpenAI-compatible API, and a page."""
    try:
        from mlx_tune.serving.app import ServeRequest, run
        from mlx_tune.serving.guard import AccessPolicy
    except ImportError as error:
        raise UsageError(
            f"serving needs {error.name}, which is not installed; "
            "`pip install 'mlx-tune-continual[serve]'` does that"
        ) from error
    warn_of_slow_blas()

    def started(address: str, port: int, policy: AccessPolicy) -> None:
        where = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        print(f"page   {where}/#token={policy.token}")
        print(f"API    {where}/v1")
        whom = "everything" if policy.token_for_all else "rolling back and promoting"
        print(f"token  {policy.token} (for {whom})")
        print("Ctrl-C stops it.", flush=True)

    request = ServeRequest(
        store=store,
        base=base,
        host=host,
        port=port,
        token=token,
        allow_hosts=allow_host or (),
        allow_origins=allow_origin or (),
        most_loaded=loaded,
        most_waiting=waiting,
        prefix_bytes=prefix_mb << 20,
    )
    if not run(request, say=say, started=started):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
