"""`mlx-tune train`: one continual session."""

from typing import Any

from mlx_tune.cli.options import (
    STORE,
    ConfigOption,
    DataArgument,
    JsonOption,
    StoreOption,
    with_settings,
)


@with_settings
def train(
    data: DataArgument,
    *,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Train one session on top of everything learned so far."""
    from mlx_tune.cli.training_view import TrainingView, check_promoted
    from mlx_tune.workflows.plan import TrainingRequest
    from mlx_tune.workflows.run import train as carry_out

    view = TrainingView(as_json=json)
    with view:
        outcome = carry_out(
            TrainingRequest(data=data, store=store, flags=flags, config=config), view
        )
    view.show_outcome(outcome)
    check_promoted(outcome)
