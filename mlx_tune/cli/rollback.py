"""`mlx-tune rollback`: a step back."""

from typing import Annotated

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def rollback(
    *,
    to: Annotated[
        str | None, typer.Option("--to", help="A session by tag, number, name or id, or `base`.")
    ] = None,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Go one step back, or to any session; nothing is deleted."""
    from mlx_tune.cli.console import print_json, say, store_flag
    from mlx_tune.workflows.store_commands import rollback as carry_out

    move = carry_out(store, to)
    for note in move.notes:
        say(note)
    before, after = (s.folder_name if s else "base" for s in (move.before, move.after))
    if json:
        print_json({"before": before, "after": after})
        return
    if move.was_damaged:
        print(f"✓ HEAD is {after} (was a damaged session, which is kept)")
    elif move.before == move.after:
        print(f"HEAD is {after} already")
    else:
        print(f"✓ HEAD is {after} (was {before}, which is kept)")
    if move.before and move.before != move.after:
        again = f"mlx-tune rollback --to {move.before.id[:8]} {store_flag(store)}"
        print(f"take it up again with: {again.rstrip()}")
