"""Removal, first half: a session is marked, and stays where it is until the trash is collected."""

from __future__ import annotations

from mlx_tune.errors import UsageError
from mlx_tune.lineage import format as store_format
from mlx_tune.lineage import labels
from mlx_tune.lineage.runs import runs
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store


def removed(store: Store) -> set[str]:
    """Return the ids of the sessions that are marked."""
    return labels.removed(store.root, store.notes)


def remove(store: Store, session: Session) -> None:
    """Mark a session for the next collection; a second time changes nothing.

    Raises:
        UsageError: It is HEAD, or a session, a tag or an unfinished run stands on it.
        DamagedStoreError: It is no longer in the store.
        LockedError: Another process is writing.
        DiskError: The disk is full, read-only or failing.
    """
    with store.locked(f"rm {session.folder_name}"):
        store.check_here(session)
        if needs := _needed_by(store, session):
            raise UsageError(f"{session.folder_name} was not removed: {'; '.join(needs)}")
        # A version that knows no marks would list a marked session, and train on it.
        store_format.require(store.root, store_format.REMOVAL)
        labels.put(store.root / labels.REMOVED, session.folder_name, session.id)


def keep(store: Store, session: Session) -> None:
    """Take the mark away again.

    Raises:
        UsageError: It is not marked.
        LockedError: Another process is writing.
        DiskError: The disk is read-only or failing.
    """
    with store.locked(f"rm --undo {session.folder_name}"):
        if session.id not in removed(store):
            raise UsageError(f"{session.folder_name} is not removed; nothing to undo")
        if session.parent in removed(store):
            raise UsageError(
                f"{session.folder_name}: its parent {session.parent[:8]} is removed too; "
                f"first `mlx-tune rm --undo {session.parent[:8]}`"
            )
        for name, identity in labels.read(store.root / labels.REMOVED).items():
            if identity == session.id:
                labels.drop(store.root / labels.REMOVED, name)


def _needed_by(store: Store, session: Session) -> list[str]:
    """Say what stands on a session, with what to do about each."""
    gone = removed(store)
    needs = []
    if store.head() == session:
        needs.append("HEAD is there, `mlx-tune rollback` first")
    if children := [s for s in store.sessions() if s.parent == session.id and s.id not in gone]:
        names = ", ".join(child.folder_name for child in children)
        needs.append(
            f"{names} was trained on it, remove that first, or teach the rest anew without it: "
            f"`mlx-tune consolidate --without {session.id[:8]}`"
        )
    tags = labels.read(store.root / labels.TAGS)
    needs += [
        f"the tag {name} names it, `mlx-tune tag --delete {name}` first"
        for name, word in tags.items()
        if word == session.id
    ]
    needs += [
        f"the unfinished run {run.path.name} stands on it, `mlx-tune resume {run.path.name}` or "
        f"delete {run.path} first"
        for run in runs(store.root)
        if run.is_unfinished and run.record.get("parent") == session.id
    ]
    return needs
