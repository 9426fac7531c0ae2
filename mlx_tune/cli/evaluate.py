"""`mlx-tune eval`: what does it still know?"""

from typing import Annotated

import typer

from mlx_tune.cli.options import STORE, BaseOption, JsonOption, SessionOption, StoreOption


def eval_(
    *,
    session: SessionOption = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Ask about this session's chain; default: the answering one's."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Ask the answering session alone, none before it.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask all of them anew, whatever is known already.")
    ] = False,
    facts: Annotated[
        bool,
        typer.Option("--facts", help="Generate answers and look for their key facts; slower."),
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Show what every session is known by, as taught and reworded, after each of them.

    The table is the retention matrix: down, the model after each session; across, whose questions.
    """
    from mlx_tune.cli.console import console, print_json, say, warn_of_slow_blas
    from mlx_tune.cli.eval_view import show_evaluation
    from mlx_tune.errors import UsageError
    from mlx_tune.workflows.evaluate import evaluate

    if quick and fresh:
        raise UsageError(
            "--quick and --fresh: one measures a single row, the other all; give one of the two"
        )
    warn_of_slow_blas()
    found = evaluate(
        store, session=session, base=base, on=on, say=say, fresh=fresh, quick=quick, facts=facts
    )
    if json:
        answering = found.answering.session
        who = answering.folder_name if answering else found.answering.id
        recall = [entry.to_json() for entry in found.recall]
        print_json({"session": who, "recall": recall, **found.to_json()})
        return
    show_evaluation(found, console())
