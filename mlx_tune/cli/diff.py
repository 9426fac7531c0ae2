"""`mlx-tune diff`: two sessions side by side."""

from typing import Annotated

import typer

from mlx_tune.cli.options import STORE, BaseOption, JsonOption, StoreOption

_REFERENCE = "A session by number, name or id, or `HEAD`, or `base`."


def diff(
    a: Annotated[str, typer.Argument(help=_REFERENCE)],
    b: Annotated[str, typer.Argument(help="Another.")],
    *,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers/--no-answers",
            help="Ask both models every question taught; without, no model is loaded.",
        ),
    ] = True,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer, not only those that differ most.")
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two sessions: settings, data, metrics, weights and answers."""
    from mlx_tune.cli.console import console, print_json, say, warn_of_slow_blas
    from mlx_tune.cli.diff_json import diff_json
    from mlx_tune.cli.diff_view import ANSWERS, show_diff
    from mlx_tune.workflows.diff import diff as compare

    if answers:
        warn_of_slow_blas()
    shown = None if json else ANSWERS
    found = compare(store, a, b, base=base, ask=answers, shown=shown, say=say)
    if json:
        print_json(diff_json(found))
    else:
        show_diff(found, console(), every_layer=layers)
