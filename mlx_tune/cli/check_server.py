"""`mlx-tune check-server`: does a server do what OpenAI's clients expect?"""

from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.options import JsonOption

if TYPE_CHECKING:
    from mlx_tune.workflows.check_server import Outcome


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
    from mlx_tune.workflows.api_checks.client import Client
    from mlx_tune.workflows.check_server import check_server as carry_out

    client = Client.at(url, token=token, timeout_seconds=timeout)
    outcomes = []
    for outcome in carry_out(client, model=model, expect_ours=ours, say=say):
        outcomes.append(outcome)
        if not json:
            _print(outcome)
    passed = sum(outcome.passed for outcome in outcomes)
    if json:
        checks = [{**vars(outcome), "passed": outcome.passed} for outcome in outcomes]
        print_json({"url": url, "passed": passed, "asked": len(outcomes), "checks": checks})
    else:
        print(f"{passed} of {len(outcomes)} checks passed")
    if passed < len(outcomes):
        raise typer.Exit(1)


def _print(outcome: "Outcome") -> None:
    from mlx_tune.cli.console import plain

    mark = "✓" if outcome.passed else "✗"
    reason = "" if outcome.passed else f": {plain(outcome.reason)}"
    print(f"{mark} {outcome.name}{reason}", flush=True)
