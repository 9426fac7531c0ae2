"""Labels: small files that each name one session, a person's tags and the marks of removal.

A session is never written again, so a tag or a mark is a file of its own. A session that is marked
as removed stays where it is until `gc` collects it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.files.durable import disk_errors, make_folder, replace_file, sync_folder
from mlx_tune.files.sealed import entries, read_regular
from mlx_tune.settings import typed
from mlx_tune.store import format as store_format
from mlx_tune.store.runs import give_up, list_runs
from mlx_tune.store.session import Session, check_name
from mlx_tune.text import quoted

if TYPE_CHECKING:  # both read labels
    from mlx_tune.store.snapshot import StoreSnapshot
    from mlx_tune.store.store import SessionStore

TAGS = "tags"
REMOVED = "removed"
_ID = re.compile("([0-9a-f]{64})\n?")
ID_LINE_BYTES = 65  # an id and its line break


def read_labels(folder: Path, notes: list[str] | None = None) -> dict[str, str]:
    """Return the id that each label of a folder holds, by the label's name.

    Args:
        folder: ``tags`` or ``removed`` of a store; it may be missing.
        notes: Takes a line for every label that is no such file.

    Raises:
        DiskError: The folder or a label cannot be read; that is no reason to go on without.
    """
    found: dict[str, str] = {}
    for path in entries(folder):
        try:
            data = read_regular(path, most_bytes=ID_LINE_BYTES)
        except DamagedStoreError:
            data = b""
        line = f"{path}: holds no session's id and is passed over; delete it"
        if match := _ID.fullmatch(data.decode("utf-8", errors="replace")):
            found[path.name] = match[1]
        elif notes is not None and line not in notes:
            notes.append(line)
    return found


def put_label(folder: Path, name: str, identity: str) -> None:
    """Let a label name a session, durably.

    Raises:
        DiskError: The disk is full, read-only or failing; the label is as it was.
    """
    with disk_errors("write", folder / name):
        make_folder(folder)
    replace_file(folder / name, f"{identity}\n".encode())


def drop_label(folder: Path, name: str) -> None:
    """Take a label away, durably; one that is not there stays so.

    Raises:
        DiskError: The disk is read-only or failing.
    """
    with disk_errors("delete", folder / name, safe="the label may still be there"):
        (folder / name).unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)


# What means a session by its number or its id, or by both, as a folder's name does.
_TAKEN = re.compile("[0-9]+|[0-9a-f]{4,64}|[0-9]{4,}-.+-[0-9a-f]{8}")


def tag(store: SessionStore, name: str, session: Session | None) -> Session:
    """Give a session a name, and return it; a tag of that name moves.

    Raises:
        UsageError: The name is not allowed, or means a session already, or the session is removed,
            or there is none: the bare base has no tags.
        DamagedStoreError: The session is no longer in the store.
        LockedError: Another process is writing.
        DiskError: The disk is full, read-only or failing.
    """
    if session is None:
        raise UsageError(
            f"tag {name}: the base model is no session, and only sessions have tags; "
            f"`{typed('log', store.root)}` lists them"
        )
    check_name(name, "tag")
    if _TAKEN.fullmatch(name):
        raise UsageError(
            f"tag {quoted(name)} could be taken for a session's number or id; put a word to it"
        )
    with store.locked(f"tag {name}"):
        # Under the lock: until then it may have been removed, even collected.
        now = store.snapshot()
        now.check_here(session)
        now.check_kept(session)
        clash = [s for s in now.sessions.values() if s.name == name and s != session]
        if clash:
            raise UsageError(
                f"tag {quoted(name)}: {clash[0].folder_name} is called that; choose another"
            )
        put_label(store.root / TAGS, name, session.id)
    return session


def check_untagged(store: StoreSnapshot, name: str) -> None:
    """Refuse a name for a new session that a tag has: it would mean two things.

    Raises:
        UsageError: A tag has it; how to choose another, or to take the tag away.
        DiskError: A tag cannot be read.
    """
    if tagged := store.tags.get(name):
        session = store.sessions.get(tagged)
        shown = session.folder_name if session else f"{tagged[:12]}…"
        delete = typed(f"tag --delete {name}", store.root)
        raise UsageError(
            f"session name {quoted(name)}: a tag of {shown} is called that; choose another with "
            f"--name, or take the tag away with `{delete}`"
        )


def untag(store: SessionStore, name: str) -> None:
    """Take a tag away; its session stays.

    Raises:
        UsageError: There is no such tag.
        LockedError: Another process is writing.
        DiskError: The disk is read-only or failing.
    """
    with store.locked(f"untag {name}"):
        tags = store.snapshot().tags
        if name not in tags:
            raise UsageError(f"no tag {quoted(name)}; there are {', '.join(tags) or 'none'}")
        drop_label(store.root / TAGS, name)


def mark_removed(store: SessionStore, session: Session) -> None:
    """Mark a session for the next collection; a second time changes nothing.

    Raises:
        UsageError: It is HEAD, or a session, a tag or an unfinished run needs it.
        DamagedStoreError: It is no longer in the store.
        LockedError: Another process is writing.
        DiskError: The disk is full, read-only or failing.
    """
    with store.locked(f"rm {session.folder_name}"):
        now = store.snapshot()
        now.check_here(session)
        if needs := _needed_by(now, session):
            raise UsageError(f"{session.folder_name} was not removed: {'; '.join(needs)}")
        # A version that knows no marks would list a marked session, and train on it.
        store_format.require(store.root, store_format.REMOVAL)
        put_label(store.root / REMOVED, session.folder_name, session.id)


def unmark_removed(store: SessionStore, session: Session) -> None:
    """Take the mark away again.

    Raises:
        UsageError: It is not marked.
        LockedError: Another process is writing.
        DiskError: The disk is read-only or failing.
    """
    with store.locked(f"rm --undo {session.folder_name}"):
        removed = store.snapshot().removed
        if session.id not in removed:
            raise UsageError(f"{session.folder_name} is not removed; nothing to undo")
        if session.parent in removed:
            raise UsageError(
                f"{session.folder_name}: its parent {session.parent[:8]} is removed too; "
                f"first `{typed(f'rm --undo {session.parent[:8]}', store.root)}`"
            )
        for name, identity in read_labels(store.root / REMOVED).items():
            if identity == session.id:
                drop_label(store.root / REMOVED, name)


def _needed_by(store: StoreSnapshot, session: Session) -> list[str]:
    """Say what needs a session, with what to do about each."""
    needs = []
    if store.head() == session:
        needs.append(f"HEAD is there, `{typed('rollback', store.root)}` first")
    children = [s for s in store.sessions.values() if s.parent == session.id]
    if kept := [child.folder_name for child in children if not store.is_removed(child)]:
        needs.append(
            f"{', '.join(kept)} was trained on it, remove that first, or teach the rest anew "
            f"without it: `{typed(f'consolidate --without {session.id[:8]}', store.root)}`"
        )
    needs += [
        f"the tag {name} names it, `{typed(f'tag --delete {name}', store.root)}` first"
        for name in store.tags_of(session)
    ]
    needs += [
        f"the unfinished run {run.path.name} stands on it, "
        f"`{typed(f'resume {run.path.name}', store.root)}` or `{give_up(run.path)}` first"
        for run in list_runs(store.root)
        if run.is_unfinished and run.record.get("parent") == session.id
    ]
    return needs
