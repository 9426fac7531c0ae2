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
    from mlx_tune.store.gc import KEPT_DAYS
    from mlx_tune.store.labels import mark_removed, unmark_removed
    from mlx_tune.store.store import open_store

    kept = open_store(store)
    chosen = kept.find(session)
    if chosen is None:
        raise UsageError("the base model is no session of the store, so it cannot be removed")
    if undo:
        unmark_removed(kept, chosen)
    else:
        mark_removed(kept, chosen)
    for note in kept.notes:
        say(note)
    print(f"✓ {chosen.folder_name} is {'kept' if undo else 'removed'}")
    if undo:
        return
    flag = store_flag(store)
    collect, undo_it = f"mlx-tune gc {flag}", f"mlx-tune rm --undo {chosen.id[:8]} {flag}"
    print(f"`{collect.rstrip()}` moves it to the trash, where it is kept for {KEPT_DAYS} days")
    print(f"take it back with: {undo_it.rstrip()}")
