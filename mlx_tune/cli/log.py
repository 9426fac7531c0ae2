"""`mlx-tune log`: the lineage."""

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def log(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """List the sessions, newest first; `*` marks HEAD, `│` its chain."""
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.cli.lineage_view import print_lineage, to_json
    from mlx_tune.store.store import SessionStore
    from mlx_tune.workflows.store_commands import list_store

    lineage = list_store(SessionStore.open(store))
    for note in lineage.notes:
        say(note)
    if json:
        print_json(to_json(lineage))
    elif lineage.sessions or lineage.damaged:
        print_lineage(lineage)
    else:
        print(f"{store}: no sessions yet")
    if lineage.error is not None:  # what is sound was listed first
        raise lineage.error
