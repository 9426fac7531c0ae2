"""`mlx-tune log`: the lineage."""

from pathlib import Path
from typing import Any

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def log(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """List the sessions, newest first; `*` marks the one in use."""
    from mlx_tune.cli.console import console, print_json, say
    from mlx_tune.errors import DamagedStoreError
    from mlx_tune.lineage.store import Store

    kept = Store.open(store)
    sessions, head, in_use, damage = kept.sessions(), None, set(), None
    try:
        head = kept.head()
        in_use = {session.id for session in kept.chain(head)}
    except DamagedStoreError as error:  # what is sound is listed first
        damage = error
    for note in kept.notes:
        say(note)
    if json:
        print_json(
            {
                "head": head.id if head else "base",
                "sessions": [
                    {"id": s.id, "folder": s.folder_name, "parent": s.parent, **_numbers(s.record)}
                    for s in sessions
                ],
            }
        )
        return
    if not sessions:
        print(f"{store}: no sessions yet")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "session", "id", "rows", "recall", "trained", "on"):
        table.add_column(heading, header_style="dim", no_wrap=True)
    folder = {s.id: s for s in sessions}
    for session in reversed(sessions):
        mark = "*" if head and session.id == head.id else ("│" if session.id in in_use else "")
        numbers = _numbers(session.record)
        parent = folder.get(session.parent or "")
        table.add_row(
            mark,
            f"{session.number} {session.name}",
            session.id[:8],
            str(numbers["rows"]),
            numbers["recall"] or "–",
            str(numbers["created"])[:10],
            f"{parent.number} {parent.name}" if parent else "base",
        )
    base = kept.base() or {"name": "base"}
    table.add_row(
        "*" if head is None and damage is None else "│",
        Path(str(base["name"])).name,
        "",
        "",
        "",
        "",
        "",
    )
    console().print(table)
    if damage is not None:
        raise damage


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
