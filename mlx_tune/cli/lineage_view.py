"""How a lineage looks: a table of sessions for a person, all of it as JSON."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mlx_tune.cli.console import console
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import BASE
from mlx_tune.workflows.store_commands import StoreListing

_PROMOTED = (None, "promote")  # a record without a verdict is older than verdicts are


def print_lineage(lineage: StoreListing) -> None:
    """Print the table, newest first, and under it what is damaged."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "session", "id", "rows", "recall", "trained", "on"):
        # A long name gives way to a narrow terminal, over several lines; the rest stays whole.
        folds, counts = heading == "session", heading in ("rows", "recall")
        table.add_column(
            heading,
            header_style="dim",
            no_wrap=not folds,
            overflow="fold",
            justify="right" if counts else "left",
        )
    for session in reversed(lineage.sessions):
        table.add_row(*_cells(session, lineage))
    mark = "*" if lineage.head == BASE else "│" if lineage.in_use else ""
    base = Path(str(lineage.base["name"])).name if lineage.base else BASE
    table.add_row(f"{mark:<4}", Text(base))
    console().print(table)
    for problem in lineage.damaged.values():
        if problem not in str(lineage.error):  # which is printed last of all
            print(f"✗ {problem}")


def to_json(lineage: StoreListing) -> dict[str, Any]:
    """Return all of it; docs/file-formats.md says what each key is."""
    return {
        "head": lineage.head,
        "base": lineage.base,
        "sessions": [_session_json(session, lineage) for session in lineage.sessions],
        "damaged": [
            {"folder": name, "problem": problem} for name, problem in lineage.damaged.items()
        ],
        "moves": [dict(vars(move)) for move in lineage.moves],
    }


def _session_json(session: Session, lineage: StoreListing) -> dict[str, Any]:
    data = session.record.get("data", {})
    return {
        "id": session.id,
        "folder": session.folder_name,
        "number": session.number,
        "name": session.name,
        "parent": session.parent,
        "created": session.record.get("created"),
        "rows": data.get("rows"),
        "rehearsed": data.get("rehearsed"),
        "recall": _own_recall(session),
        "verdict": session.record.get("verdict"),
        "tags": list(lineage.tags.get(session.id, ())),
        "removed": session.id in lineage.removed,
        "in_use": session.id in lineage.in_use,
    }


def _cells(session: Session, lineage: StoreListing) -> list[Text]:
    shown, recall = _session_json(session, lineage), _own_recall(session)
    mark = "*" if lineage.head == session.id else "│" if shown["in_use"] else " "
    plain = (
        session.id[:8],
        "–" if shown["rows"] is None else str(shown["rows"]),
        f"{recall['right']}/{recall['asked']}" if recall else "–",
        (shown["created"] or "–")[:10],
        (session.parent or BASE)[:8],
    )
    cells = [Text(f"{mark} {session.number:>2}"), _labelled(session, lineage), *map(Text, plain)]
    for cell in cells if shown["removed"] else ():
        cell.stylize("dim")
    return cells


def _labelled(session: Session, lineage: StoreListing) -> Text:
    """Return a session's name with what is said of it."""
    labels = [(name, "cyan") for name in lineage.tags.get(session.id, ())]
    if (verdict := session.record.get("verdict")) not in _PROMOTED:
        labels.append((f"held back: {verdict}", "yellow"))
    if session.id in lineage.removed:
        labels.append(("removed", ""))
    text = Text(session.name)
    for number, (label, style) in enumerate(labels):
        text.append(", " if number else " (").append(label, style=style)
    return text.append(")") if labels else text


def _own_recall(session: Session) -> dict[str, int] | None:
    """Return the score of a session's own questions when it was trained; None without any."""
    scores = session.record.get("recall") or [{}]
    own = scores[-1].get("verbatim")
    return {"right": own["right"], "asked": own["asked"]} if own else None
