"""`mlx-tune rm`: mark a session for removal."""

from typing import Annotated

import typer

from mlx_tune.cli.options import STORE, StoreOption


def rm(
    session: Annotated[
        str, typer.Argument(help="A session by tag, number, name or id.", show_default=False)
    ],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away again.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Mark a session as removed, for `mlx-tune gc` to collect."""
    from mlx_tune.cli.console import say, store_flag
    from mlx_tune.errors import UsageError
    from mlx_tune.lineage.collect import KEPT_DAYS
    from mlx_tune.lineage.removal import keep, remove
    from mlx_tune.workflows.existing import open_existing

    kept = open_existing(store)
    chosen = kept.find(session)
    if chosen is None:
        raise UsageError("the base model is no session of the store, so it cannot be removed")
    if undo:
        keep(kept, chosen)
    else:
        remove(kept, chosen)
    for note in kept.notes:
        say(note)
    print(f"✓ {chosen.folder_name} is {'kept' if undo else 'removed'}")
    if undo:
        return
    flag = store_flag(store)
    collect, undo_it = f"mlx-tune gc {flag}", f"mlx-tune rm --undo {chosen.id[:8]} {flag}"
    print(f"`{collect.rstrip()}` moves it to the trash, where it is kept for {KEPT_DAYS} days")
    print(f"take it back with: {undo_it.rstrip()}")
