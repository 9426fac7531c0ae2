"""`mlx-tune log`: the lineage."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_tune.cli.options import STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.lineage.session import Session


def log(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """List the sessions, newest first; `*` marks the one in use."""
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.errors import DamagedStoreError
    from mlx_tune.lineage.store import Store

    kept = Store.open(store)
    sessions, in_use, damage = kept.sessions(), [], None
    try:
        in_use = kept.chain(kept.head())
    except DamagedStoreError as error:  # what is sound is listed first
        damage = error
    for note in kept.notes:
        say(note)
    if json:
        print_json(
            {
                "head": in_use[-1].id if in_use else "base",
                "sessions": [
                    {"id": s.id, "folder": s.folder_name, "parent": s.parent, **_numbers(s.record)}
                    for s in sessions
                ],
            }
        )
    elif sessions:
        base = kept.base() or {"name": "base"}
        _print(sessions, [s.id for s in in_use], base=Path(str(base["name"])).name)
    else:
        print(f"{store}: no sessions yet")
    if damage is not None:
        raise damage


def _print(sessions: "Sequence[Session]", in_use: list[str], *, base: str) -> None:
    """Print the table; ``in_use`` holds the ids of HEAD's chain, root first."""
    from rich.table import Table

    from mlx_tune.cli.console import console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "session", "id", "rows", "recall", "trained", "on"):
        table.add_column(heading, header_style="dim", no_wrap=True)
    names = {s.id: f"{s.number} {s.name}" for s in sessions}
    for session in reversed(sessions):
        numbers = _numbers(session.record)
        table.add_row(
            "*" if in_use[-1:] == [session.id] else "│" if session.id in in_use else "",
            names[session.id],
            session.id[:8],
            str(numbers["rows"]),
            numbers["recall"] or "–",
            str(numbers["created"])[:10],
            names.get(session.parent or "", "base"),
        )
    table.add_row("│" if in_use else "*", base)
    console().print(table)


def _numbers(record: Any) -> dict[str, Any]:
    """Return what a list shows of a session's record."""
    recall = record.get("recall") or []
    own = recall[-1]["verbatim"] if recall else None
    return {
        "created": record.get("created", ""),
        "rows": record.get("data", {}).get("rows", ""),
        "rehearsed": record.get("data", {}).get("rehearsed", ""),
        "recall": f"{own['right']}/{own['asked']}" if own else None,
        "verdict": record.get("verdict"),
    }
