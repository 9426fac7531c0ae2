"""The commands that train: train, plan, resume, consolidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_tune import Store
from mlx_tune.cli.console import Waiting, console, print_json
from mlx_tune.cli.options import (
    STORE,
    ConfigOption,
    DataArgument,
    JsonOption,
    StoreOption,
    session_option,
    with_settings,
)

if TYPE_CHECKING:
    from mlx_tune.cli.training_view import TrainingView
    from mlx_tune.workflows.run import TrainingOutcome

TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Record it besides in tensorboard, wandb, mlflow or trackio; may be repeated."
    ),
]


@with_settings
def train(
    data: DataArgument,
    *,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    track: TrackOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Train one session on top of everything learned so far."""
    kept, track = Store(store, config=config), track or []
    follow(lambda view: kept.train(data, observer=view, track=track, **flags), as_json=json)


@with_settings
def plan(
    data: DataArgument,
    *,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Show what train would do, and why; nothing is written."""
    from mlx_tune.cli.plan_view import plan_json, show_plan

    with Waiting() as waiting:
        planned = Store(store, config=config, say=waiting.say).plan(data, **flags)
    if json:
        print_json(plan_json(planned))
    else:
        show_plan(planned, console())


def resume(
    run: Annotated[
        str | None, typer.Argument(help="A folder of runs/; default: the newest unfinished.")
    ] = None,
    *,
    discard: Annotated[
        bool, typer.Option("--discard", help="Delete the run instead; no session is deleted.")
    ] = False,
    track: TrackOption = None,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Continue an interrupted training from its newest checkpoint."""
    if discard:
        name = Store(store).discard(run)
        if json:
            print_json({"discarded": name})
        else:
            print(f"✓ {name} is given up and deleted; HEAD and the sessions are as they were")
        return
    follow(lambda view: Store(store).resume(run, observer=view, track=track or []), as_json=json)


@with_settings
def consolidate(
    *,
    without: Annotated[
        list[str] | None, session_option("A session of the chain to leave out; may be repeated.")
    ] = None,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    track: TrackOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Train the bare base on all rows of the chain, as one new first session.

    It replaces the chain in use, whose sessions stay in the store; the gate compares it with what
    each of them knew when it was learned. This keeps a chain short, and it is the way to remove a
    session from its middle.
    """
    kept = Store(store, config=config)
    left_out, track = without or (), track or []
    follow(
        lambda view: kept.consolidate(without=left_out, observer=view, track=track, **flags),
        as_json=json,
    )


def follow(work: Callable[[TrainingView], TrainingOutcome], *, as_json: bool) -> None:
    """Print a training as it runs, then its outcome; a session held back ends with an error."""
    from mlx_tune.cli.training_view import TrainingView, check_promoted

    view = TrainingView(as_json=as_json)
    with view:
        outcome = work(view)
    view.show_outcome(outcome)
    check_promoted(outcome)
