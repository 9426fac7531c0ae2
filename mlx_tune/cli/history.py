"""The commands that describe what is in a store: log and show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_tune.cli.console import (
    TABLE_COLUMNS,
    console,
    duration,
    percent,
    print_json,
    print_labelled,
    print_wrapped,
    say,
    setting_value,
    size,
    told_apart,
)
from mlx_tune.cli.options import STORE, HeadArgument, JsonOption, StoreOption
from mlx_tune.errors import UsageError
from mlx_tune.settings import recorded_settings

if TYPE_CHECKING:
    from mlx_tune.store.session import Session
    from mlx_tune.store.snapshot import StoreSnapshot

_PROMOTED = (None, "promote")  # a record without a verdict is older than verdicts are


def log(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """List the sessions, newest first; `*` marks HEAD, `│` its chain."""
    from mlx_tune.store.snapshot import read_store

    snapshot = read_store(store)
    say(*snapshot.head_notes, *snapshot.label_notes)  # damaged sessions are listed
    if json:
        sessions = [_session_json(session, snapshot) for session in snapshot.sessions.values()]
        damaged = [{"folder": n, "problem": str(error)} for n, error in snapshot.damaged.items()]
        moves = [dict(vars(move)) for move in snapshot.moves]
        head = {"head": snapshot.head_id, "base": snapshot.base()}
        print_json({**head, "sessions": sessions, "damaged": damaged, "moves": moves})
    elif snapshot.sessions or snapshot.damaged:
        show_listing(snapshot)
    else:
        print(f"{store}: no sessions yet")
    if snapshot.head_error is not None:  # the sound sessions were listed first
        raise snapshot.head_error


def show_listing(store: StoreSnapshot) -> None:
    """Print the table, newest first, and under it what is damaged."""
    from mlx_tune.store.snapshot import BASE

    mark = "*" if store.head_id == BASE else "│" if store.in_use else ""
    recorded = store.base()
    base = f"{mark:<4}", Text(Path(str(recorded["name"])).name if recorded else BASE)
    printer, newest_first = console(), reversed(list(store.sessions.values()))
    if printer.width < TABLE_COLUMNS:
        for session in newest_first:
            _print_narrow(session, store, printer)
        printer.print(Text.assemble(*base))
        _show_damaged(store)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "session", "id", "rows", "right", "reworded", "trained", "on"):
        # On a narrow terminal a long name takes several lines; the other columns stay whole.
        folds, counts = heading == "session", heading in ("rows", "right", "reworded")
        side: Literal["right", "left"] = "right" if counts else "left"
        table.add_column(
            heading, header_style="dim", no_wrap=not folds, overflow="fold", justify=side
        )
    for session in newest_first:
        table.add_row(*_cells(session, store))
    table.add_row(*base)
    printer.print(table)
    _show_damaged(store)


def _print_narrow(session: Session, store: StoreSnapshot, printer: Console) -> None:
    """Print a session in lines of its own, where a table would cut its columns."""
    mark, name, identity, rows, right, reworded, trained, parent = _cells(session, store)
    printer.print(Text.assemble(mark, " ", name))
    for words in (
        f"{identity}, {rows} rows, {trained}, on {parent}",
        f"right {right}, reworded {reworded}",
    ):
        print_wrapped(printer, f"     {words}")


def _show_damaged(store: StoreSnapshot) -> None:
    """Print a line for each damaged session, but for the one that the command prints last."""
    for problem in map(str, store.damaged.values()):
        if problem not in str(store.head_error):
            print(f"✗ {problem}")


def _session_json(session: Session, store: StoreSnapshot) -> dict[str, Any]:
    """Return a session for ``--json``; docs/file-formats.md explains the keys."""
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
        "recall": _own_score(session, "verbatim"),
        "as_taught": _own_score(session, "as_taught"),
        "other_words": _own_score(session, "other_words"),
        "verdict": session.record.get("verdict"),
        "tags": store.tags_of(session),
        "removed": store.is_removed(session),
        "in_use": session.id in store.in_use,
    }


def _cells(session: Session, store: StoreSnapshot) -> list[Text]:
    from mlx_tune.store.snapshot import BASE

    shown = _session_json(session, store)
    # A session of an earlier version was only asked word for word, and what is so is right.
    right = shown["as_taught"] or shown["recall"]
    mark = "*" if store.head_id == session.id else "│" if shown["in_use"] else " "
    columns = (
        session.id[:8],
        "–" if shown["rows"] is None else str(shown["rows"]),
        _share(right),
        _share(shown["other_words"]),
        (shown["created"] or "–")[:10],
        (session.parent or BASE)[:8],
    )
    cells = [Text(f"{mark} {session.number:>2}"), _labelled(session, store), *map(Text, columns)]
    for cell in cells if shown["removed"] else ():
        cell.stylize("dim")
    return cells


def _labelled(session: Session, store: StoreSnapshot) -> Text:
    """Return a session's name with its tags and state."""
    labels = [(name, "cyan") for name in store.tags_of(session)]
    if (verdict := session.record.get("verdict")) not in _PROMOTED:
        labels.append((f"held back: {verdict}", "yellow"))
    if store.is_removed(session):
        labels.append(("removed", ""))
    text = Text(session.name)
    for number, (label, style) in enumerate(labels):
        text.append(", " if number else " (").append(label, style=style)
    return text.append(")") if labels else text


def _own_score(session: Session, kind: str) -> dict[str, int] | None:
    """Return a score of a session's own questions when it was trained; None without any."""
    scores = session.record.get("recall") or [{}]
    own = scores[-1].get(kind)
    counts = ("right", "asked", "confused")
    return {count: own[count] for count in counts if count in own} if own else None


def _share(score: Mapping[str, int] | None) -> str:
    return f"{score['right']}/{score['asked']}" if score else "–"


def show(
    session: HeadArgument = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Show the settings that have their defaults too.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Show a session: its data, settings, metrics and recall."""
    from mlx_tune.store.snapshot import read_store

    snapshot = read_store(store)
    chosen = snapshot.head() if session is None else snapshot.find(session)
    say(*snapshot.notes)
    if chosen is None:
        raise UsageError("the base model has no session to show; `mlx-tune base show` describes it")
    if json:
        print_json({"id": chosen.id, "path": str(chosen.path), **chosen.record})
        return
    files = [("files", str(chosen.path)), ("id", chosen.id)]
    print_labelled(console(), [*_lines(chosen.record, every=every), *files], width=11)


def _lines(record: Any, *, every: bool) -> list[tuple[str, str]]:
    from mlx_tune.cli.gate_view import fidelity_lines

    data, base = record["data"], record["base"]
    sources = ", ".join(data["sources"]) or "none"
    lines = [
        ("session", f"{record['number']} {record['name']}, {record['created']}"),
        ("base", f"{base['name']} · {base['fingerprint'][:12]}"),
        ("parent", (record["parent"] or "the base")[:12]),
        ("data", f"{sources} · {data['rows']} rows, {data['rehearsed']} rehearsed"),
    ]
    if training := record.get("training"):
        text = (
            f"{training['steps']} steps in {duration(training['seconds'])}, last loss "
            f"{training['last_loss']:.4f}, peak {size(training['peak_memory_bytes'])}"
        )
        lines.append(("training", text))
    if imported := record.get("imported"):
        trained_on = imported["base"] or "a base that it does not name"
        lines.append(("imported", f"from {imported['folder']}, trained on {trained_on}"))
    if fidelity := record.get("fidelity"):
        lines += fidelity_lines(fidelity)
    names = told_apart([(entry["number"], entry["name"]) for entry in record["recall"]])
    for entry, name in zip(record["recall"], names, strict=True):
        if taught := entry.get("as_taught"):
            text = f"{name}: {taught['right']} of {taught['asked']} as taught"
            confused = taught["confused"]
            if reworded := entry["other_words"]:
                text += f", {reworded['right']} of {reworded['asked']} in other words"
                confused += reworded["confused"]
            lines.append(("right", text + (f", confused {confused}" if confused else "")))
        if verbatim := entry["verbatim"]:
            share = percent(verbatim["right"], verbatim["asked"])
            lines.append(("recall", f"{name}: {share} word for word"))
    settings = recorded_settings(record["sizing"])
    decided = {name: one for name, one in settings.items() if every or one["source"] != "default"}
    for name, chosen in decided.items():
        shown = f"{name.replace('_', ' ')} {setting_value(chosen['value'])}"
        lines.append(("setting", f"{shown} — {chosen['reason']} ({chosen['source']})"))
    if more := len(settings) - len(decided):
        lines.append(("setting", f"{more} more have their defaults; --all shows them"))
    return lines
