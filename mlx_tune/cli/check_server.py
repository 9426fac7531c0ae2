"""`mlx-tune check-server`: does a server do what OpenAI's clients expect?"""

from typing import Annotated

import typer

from mlx_tune.cli.options import JsonOption
from mlx_tune.text import one_line


def check_server(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Its address, such as http://127.0.0.1:8321.")
    ],
    *,
    token: Annotated[
        str | None, typer.Option("--token", help="Its token, if it wants one.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model to ask; default: the first it lists.")
    ] = None,
    ours: Annotated[
        bool,
        typer.Option(
            "--ours", help="Expect what mlx-tune serve alone promises; default: if it is one."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="How long an answer may take, in seconds.")
    ] = 120.0,
    json: JsonOption = False,
) -> None:
    """Check an OpenAI-compatible server: a line for each thing it should do.

    The exit code is 0 if it does them all, and 1 if not.
    """
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.errors import UsageError

    try:
        from mlx_tune.workflows import check_server as checks
        from mlx_tune.workflows.api_client import connect
    except ImportError as error:
        raise UsageError(
            f"checking a server needs {error.name}, which is not installed; "
            "`pip install 'mlx-tune-continual[serve]'` does that"
        ) from error
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
