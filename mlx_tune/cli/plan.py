"""`mlx-tune plan`: what train would do."""

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
def plan(
    data: DataArgument,
    *,
    store: StoreOption = STORE,
    config: ConfigOption = None,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Show what train would do, and why; nothing is written."""
    from mlx_tune.cli.console import console, print_json, say
    from mlx_tune.cli.plan_view import plan_json, show_plan
    from mlx_tune.workflows.plan import TrainingRequest, plan_training

    request = TrainingRequest(data=data, store=store, flags=flags, config=config, asks_model=False)
    planned = plan_training(request, say=say)
    if json:
        print_json(plan_json(planned))
    else:
        show_plan(planned, console())
