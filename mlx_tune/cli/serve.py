"""The commands about servers: serve, and check-server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mlx_tune.cli.console import print_json, say, warn_of_slow_blas
from mlx_tune.cli.options import STORE, BaseOption, JsonOption, StoreOption
from mlx_tune.errors import UsageError
from mlx_tune.text import one_line


def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Address; one that other machines can reach requires the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free port.")] = 8321,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MLX_TUNE_TOKEN",
            help="Require this of every request; default: a random one, for changes alone.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name it answers to.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Another origin whose pages may use it.")
    ] = None,
    loaded: Annotated[
        int, typer.Option(min=1, help="Sessions in memory besides the one in use.")
    ] = 3,
    waiting: Annotated[int, typer.Option(min=1, help="Most requests running or queued.")] = 64,
    prefix_mb: Annotated[
        int, typer.Option(min=0, help="MiB of memory to cache shared prompt prefixes.")
    ] = 256,
    store: StoreOption = STORE,
    base: BaseOption = None,
) -> None:
    """Serve the model that HEAD names: an OpenAI-compatible API, and a page."""
    with _serve_extra("serving"):
        from mlx_tune.serving.app import ServeRequest, run
        from mlx_tune.serving.guard import AccessPolicy
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


def check_server(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Its address, such as http://127.0.0.1:8321.")
    ],
    *,
    token: Annotated[
        str | None, typer.Option(help="Its token, if it wants one.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to ask; default: the first it lists.")
    ] = None,
    ours: Annotated[
        bool,
        typer.Option(
            "--ours", help="Expect what mlx-tune serve alone promises; default: if it is one."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="How long an answer may take, in seconds.")
    ] = 120.0,
    json: JsonOption = False,
) -> None:
    """Check an OpenAI-compatible server: a line for each thing it should do.

    The exit code is 0 if it does them all, and 1 if not.
    """
    with _serve_extra("checking a server"):
        from mlx_tune.workflows import check_server as checks
        from mlx_tune.workflows.api_client import connect
    found = []
    with connect(url, token=token, timeout_seconds=timeout) as client:
        for outcome in checks.check_server(client, model=model, expect_ours=ours, say=say):
            found.append({**vars(outcome), "passed": outcome.passed})
            if not json:
                reason = "" if outcome.passed else f": {one_line(outcome.reason)}"
                print(f"{'✓' if outcome.passed else '✗'} {outcome.name}{reason}", flush=True)
    passed = sum(outcome["passed"] for outcome in found)
    if json:
        print_json({"url": url, "passed": passed, "asked": len(found), "checks": found})
    else:
        print(f"{passed} of {len(found)} checks passed")
    if passed < len(found):
        raise typer.Exit(1)


@contextmanager
def _serve_extra(what: str) -> Iterator[None]:
    """Name the packages to install where an import of the block finds one missing."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{what} needs {error.name}, which is not installed; "
            "`pip install 'mlx-tune-continual[serve]'` does that"
        ) from error
