"""The commands that move HEAD and keep a store in order; none of them needs a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_tune import Store
from mlx_tune.cli.console import console, counted, print_json, print_wrapped, say, size
from mlx_tune.cli.options import (
    STORE,
    HeadArgument,
    JsonOption,
    SessionArgument,
    StoreOption,
    session_option,
)
from mlx_tune.errors import UsageError
from mlx_tune.settings import typed

if TYPE_CHECKING:
    from mlx_tune.store.snapshot import StoreSnapshot
    from mlx_tune.store.store import SessionStore
    from mlx_tune.workflows.store_commands import Collection


def rollback(
    *,
    to: Annotated[
        str | None, session_option("A session by tag, number, name or id, or `base`.")
    ] = None,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Go one step back, or to any session; nothing is deleted."""
    move = Store(store).rollback(to)
    say(*move.notes)
    before, after = (s.folder_name if s else "base" for s in (move.before, move.after))
    if json:
        print_json({"before": before, "after": after})
        return
    if move.was_damaged:
        said = f"✓ HEAD is {after} (was a damaged session, which is kept)"
    elif move.before == move.after:
        said = f"HEAD is {after} already"
    else:
        said = f"✓ HEAD is {after} (was {before}, which is kept)"
    print_wrapped(console(), said)
    if move.before and move.before != move.after:
        print(f"take it up again with: {typed(f'rollback --to {move.before.id[:8]}', store)}")


def promote(
    session: SessionArgument, *, store: StoreOption = STORE, json: JsonOption = False
) -> None:
    """Put a session in use that the gate held back or refused; nothing is deleted."""
    from mlx_tune.cli.gate_view import show_reasons

    done = Store(store).promote(session)
    say(*done.notes)
    before, after = done.before.folder_name if done.before else "base", done.session.folder_name
    left = [one.folder_name for one in done.left]
    if json:
        said = {"verdict": done.verdict, "reasons": list(done.reasons)}
        print_json({"before": before, "after": after, **said, "left": left})
        return
    kept = ", which is kept" if done.before else ""
    print_wrapped(console(), f"✓ HEAD is {after} (was {before}{kept})")
    if done.is_overruled:
        printer = console()
        says = ":" if done.reasons else ""
        printer.print(f"this overrules the gate, which said {done.verdict}{says}", markup=False)
        show_reasons(done.reasons, printer)
    if left:
        print(f"left behind, still kept: {', '.join(left)}")
    back = f"rollback --to {done.before.id[:8] if done.before else 'base'}"
    print(f"go back with: {typed(back, store)}")


def tag(
    name: Annotated[
        str | None, typer.Argument(help="The tag; without one, all are listed.")
    ] = None,
    session: HeadArgument = None,
    *,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the tag; its session stays.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """List the tags, or give a session one; a tag of that name moves."""
    from mlx_tune.store.labels import untag
    from mlx_tune.store.store import open_store

    writer = open_store(store)
    snapshot = writer.snapshot()
    if delete:
        if name is None or session is not None:
            raise UsageError("to take a tag away, name it alone: `mlx-tune tag --delete NAME`")
        untag(writer, name)
        lines = [f"✓ the tag {name} is gone; its session stays"]
    elif name is not None:
        lines = [_give_tag(writer, snapshot, name, session)]
    else:
        lines = _tag_lines(snapshot) or [
            f"{store}: no tags; `{typed('tag NAME', store)}` gives HEAD one"
        ]
    if json:
        print_json(_tags_json(writer.snapshot() if name else snapshot))
    else:
        print("\n".join(lines))
    say(*snapshot.notes)


def _give_tag(writer: SessionStore, snapshot: StoreSnapshot, name: str, ref: str | None) -> str:
    """Tag a session, and return the line that says so."""
    from mlx_tune.store.labels import tag as put_tag

    tags = snapshot.tags  # as they are before
    found = snapshot.head() if ref is None else snapshot.find(ref)
    session = put_tag(writer, name, found)
    before = tags.get(name, session.id)
    was = "" if before == session.id else f" (was {_folder(snapshot, before) or before[:8]})"
    return f"✓ {name} is {session.folder_name}{was}"


def _tag_lines(snapshot: StoreSnapshot) -> list[str]:
    width = max(map(len, snapshot.tags), default=0)
    return [
        f"{name:<{width}}  {_folder(snapshot, at) or at[:8] + ' is not in the store'}"
        for name, at in snapshot.tags.items()
    ]


def _tags_json(snapshot: StoreSnapshot) -> list[dict[str, Any]]:
    """Return the tags for ``--json``; ``folder`` is null where the session is not in the store."""
    return [
        {"name": name, "id": session_id, "folder": _folder(snapshot, session_id)}
        for name, session_id in snapshot.tags.items()
    ]


def _folder(snapshot: StoreSnapshot, session_id: str) -> str | None:
    session = snapshot.sessions.get(session_id)
    return session.folder_name if session else None


def rm(
    session: SessionArgument,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Remove the mark.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Mark a session as removed, for `mlx-tune gc` to collect."""
    from mlx_tune.store.gc import KEPT_DAYS

    chosen = Store(store, say=say).remove(session, undo=undo)
    print(f"✓ {chosen.folder_name} is {'kept' if undo else 'removed'}")
    if undo:
        return
    collect, undo_it = typed("gc", store), typed(f"rm --undo {chosen.id[:8]}", store)
    print(f"`{collect}` moves it to the trash, where it is kept for {KEPT_DAYS} days")
    print(f"take it back with: {undo_it}")


def gc(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Move removed sessions to the trash; delete trash older than 30 days.

    What killed writes left, and checkpoints of runs that became sessions, are deleted too.
    """
    collection = Store(store).gc(dry_run=dry_run)
    done = collection.done
    say(*collection.notes)
    if json:
        print_json({"dry_run": dry_run, **vars(done), "way_back": collection.way_back})
    else:
        _show_collection(collection, dry_run=dry_run)
        if not done.moved and not done.deleted:
            print(f"{store}: nothing to collect")


def _show_collection(collection: Collection, *, dry_run: bool) -> None:
    from mlx_tune.store.gc import KEPT_DAYS

    done = collection.done
    moved, freed = counted(len(done.moved), "session"), size(done.freed_bytes)
    kept = f"kept there for {KEPT_DAYS} days; to take one back:"
    if done.moved and dry_run:
        print(f"{moved} would move to the trash:", *done.moved, sep="\n  ")
    elif done.moved:
        print(f"✓ {moved} moved to the trash, {kept}", *collection.way_back, sep="\n  ")
    if done.deleted:
        what = f"{freed} would be freed" if dry_run else f"✓ {freed} freed"
        print(f"{what} by deleting", *done.deleted, sep="\n  ")


def verify(
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash the base model too; that may be gigabytes.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Check every byte of every session; nothing is changed.

    HEAD, its log, tags, marks and checkpoints of unfinished runs are checked too.
    """
    found = Store(store, say=say).verify(deep=deep)
    if json:
        counts = {"sessions": found.sessions, "files": found.files, "size_bytes": found.size_bytes}
        lines = {"problems": found.problems, "notes": found.notes}
        print_json({"sound": found.error is None, **counts, **lines})
    else:
        whole = counted(found.sessions, "session")
        read = f"{counted(found.files, 'file')}, {size(found.size_bytes)}"
        print(f"{'✓ ' if found.error is None else ''}{whole} whole: {read}")
        for note in found.notes:
            print(f"! {note}")
    if found.error is not None:
        raise type(found.error)("\n".join(found.problems))


def doctor(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """Show what this machine can do, what is wrong, and how to fix it."""
    from mlx_tune.workflows.doctor import examine

    findings = examine(store)
    if json:
        print_json([{"about": f.about, "text": f.text, "good": f.good} for f in findings])
    else:
        for finding in findings:
            mark = "✓" if finding.good else "✗"
            print(f"{mark} {finding.about:<9} {finding.text}")
    for finding in findings:
        if finding.error is not None:
            raise finding.error
