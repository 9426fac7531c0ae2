"""`mlx-tune consolidate`: one session in the place of a chain."""

from typing import Annotated, Any

import typer

from mlx_tune.cli.options import STORE, ConfigOption, JsonOption, StoreOption, with_settings


@with_settings
def consolidate(
    *,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="A session of the chain to leave out; may be repeated."),
    ] = None,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Teach the bare base all that the chain was taught, as one new first session.

    It takes the place of the chain in use, whose sessions stay; the gate holds it to what each of
    them knew when it was learned. It keeps a chain short, and it is the way to be rid of a session
    in its middle.
    """
    from mlx_tune.cli.training_view import TrainingView, check_promoted
    from mlx_tune.workflows.plan import TrainingRequest
    from mlx_tune.workflows.run import train

    request = TrainingRequest(
        data=(), consolidates=True, store=store, flags=flags, config=config, without=without or ()
    )
    view = TrainingView(as_json=json)
    with view:
        outcome = train(request, view)
    view.show_outcome(outcome)
    check_promoted(outcome)
