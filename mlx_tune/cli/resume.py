"""`mlx-tune resume`: go on with an interrupted run."""

from typing import Annotated

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def resume(
    run: Annotated[
        str | None, typer.Argument(help="A folder of runs/; default: the newest unfinished.")
    ] = None,
    *,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Go on with an interrupted training from its newest checkpoint."""
    from mlx_tune.cli.training_view import TrainingView, check_promoted
    from mlx_tune.workflows.run import resume as carry_out

    view = TrainingView(as_json=json)
    with view:
        outcome = carry_out(store, run, view)
    view.show_outcome(outcome)
    check_promoted(outcome)
