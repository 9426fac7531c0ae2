"""`mlx-tune tag`: names for sessions."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.store.store import SessionStore


def tag(
    name: Annotated[
        str | None, typer.Argument(help="The tag; without one, all are listed.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Argument(help="A session by tag, number, name or id; default: HEAD."),
    ] = None,
    *,
    delete: Annotated[
        bool, typer.Option("--delete", help="Take the tag away; its session stays.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """List the tags, or give a session one; a tag of that name moves."""
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.errors import UsageError
    from mlx_tune.store.labels import untag
    from mlx_tune.store.store import open_store

    kept = open_store(store)
    if delete:
        if name is None or session is not None:
            raise UsageError("to take a tag away, name it alone: `mlx-tune tag --delete NAME`")
        untag(kept, name)
        lines = [f"✓ the tag {name} is gone; its session stays"]
    elif name is not None:
        lines = [_give(kept, name, session)]
    else:
        lines = _table(kept) or [f"{store}: no tags; `mlx-tune tag NAME` gives HEAD one"]
    if json:
        print_json(_listed(kept))
    else:
        print("\n".join(lines))
    for note in kept.notes:
        say(note)


def _give(store: "SessionStore", name: str, ref: str | None) -> str:
    """Tag a session, and say so in a line."""
    from mlx_tune.errors import UsageError
    from mlx_tune.store.labels import read_tags
    from mlx_tune.store.labels import tag as give

    session = store.head() if ref is None else store.find(ref)
    if session is None:
        raise UsageError(
            f"tag {name}: the base model is no session, and only sessions have tags; "
            "`mlx-tune log` lists them"
        )
    before = read_tags(store).get(name, session.id)
    give(store, name, session)
    was = "" if before == session.id else f" (was {_folders(store).get(before, before[:8])})"
    return f"✓ {name} is {session.folder_name}{was}"


def _table(store: "SessionStore") -> list[str]:
    listed = _listed(store)
    width = max((len(entry["name"]) for entry in listed), default=0)
    return [
        f"{entry['name']:<{width}}  {entry['folder'] or entry['id'][:8] + ' is not in the store'}"
        for entry in listed
    ]


def _listed(store: "SessionStore") -> list[dict[str, Any]]:
    """Return the tags for ``--json``; ``folder`` is null where the session is not in the store."""
    from mlx_tune.store.labels import read_tags

    folders = _folders(store)
    return [
        {"name": name, "id": identity, "folder": folders.get(identity)}
        for name, identity in read_tags(store).items()
    ]


def _folders(store: "SessionStore") -> dict[str, str]:
    return {session.id: session.folder_name for session in store.sessions()}
