"""Tags: names that a person gives to sessions, and may give to others later."""

from __future__ import annotations

import re

from mlx_tune.errors import UsageError
from mlx_tune.lineage import labels
from mlx_tune.lineage.session import Session, check_name, quoted
from mlx_tune.lineage.store import Store

# What means a session by its number or its id, or by both, as a folder's name does.
_TAKEN = re.compile("[0-9]+|[0-9a-f]{4,64}|[0-9]{4,}-.+-[0-9a-f]{8}")


def tags(store: Store) -> dict[str, str]:
    """Return each tag with the id of its session, by name."""
    return labels.read(store.root / labels.TAGS, store.notes)


def tag(store: Store, name: str, session: Session) -> None:
    """Give a session a name; a tag of that name moves.

    Raises:
        UsageError: The name is not allowed, or means a session already, or the session is removed.
        DamagedStoreError: The session is no longer in the store.
        LockedError: Another process is writing.
        DiskError: The disk is full, read-only or failing.
    """
    check_name(name, "tag")
    if _TAKEN.fullmatch(name):
        raise UsageError(
            f"tag {quoted(name)} could be taken for a session's number or id; put a word to it"
        )
    with store.locked(f"tag {name}"):
        # Under the lock: until then it may have been removed, even collected.
        store.check_here(session)
        store.check_kept(session)
        clash = [s for s in store.sessions() if s.name == name and s != session]
        if clash:
            raise UsageError(
                f"tag {quoted(name)}: {clash[0].folder_name} is called that; choose another"
            )
        labels.put(store.root / labels.TAGS, name, session.id)


def untag(store: Store, name: str) -> None:
    """Take a tag away; its session stays.

    Raises:
        UsageError: There is no such tag.
        LockedError: Another process is writing.
        DiskError: The disk is read-only or failing.
    """
    with store.locked(f"untag {name}"):
        known = tags(store)
        if name not in known:
            raise UsageError(f"no tag {quoted(name)}; there are {', '.join(known) or 'none'}")
        labels.drop(store.root / labels.TAGS, name)
