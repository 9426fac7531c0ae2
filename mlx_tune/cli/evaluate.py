"""`mlx-tune eval`: what does it still know?"""

from typing import Annotated, Any

import typer

from mlx_tune.cli.options import STORE, BaseOption, JsonOption, SessionOption, StoreOption


def eval_(
    *,
    session: SessionOption = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Ask about this session's chain; default: the answering one's."),
    ] = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Ask every session's questions, as taught and reworded, and score the answers."""
    from mlx_tune.cli.console import console, percent, print_json, say, warn_of_slow_blas
    from mlx_tune.workflows.evaluate import evaluate

    warn_of_slow_blas()
    answering, recall = evaluate(store, session=session, base=base, on=on, say=say)
    who = answering.folder_name if answering else "base"
    if json:
        print_json({"session": who, "recall": [entry.to_json() for entry in recall]})
        return
    from rich.table import Table

    def shown(score: Any) -> str:
        return "no questions" if score is None else percent(score.right, score.asked)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("questions of", "word for word", "reworded"):
        table.add_column(heading, header_style="dim")
    for entry in recall:
        table.add_row(
            f"{entry.number} {entry.name}", shown(entry.verbatim), shown(entry.paraphrases)
        )
    printer = console()
    printer.print(f"answers of {who}", markup=False)
    printer.print(table)
