"""A store at one moment: its sessions, what is in use, and what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage import head
from mlx_tune.lineage.head import BASE, Move
from mlx_tune.lineage.removal import removed
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.lineage.tags import tags


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A store at one moment, as it is listed.

    Attributes:
        head: The id HEAD holds, ``base``, or None where it holds nothing that can be told.
        base: Name, source and fingerprint of the base model; None before a first session.
        sessions: The sound ones, by number, then id.
        in_use: Ids of HEAD and of what it stands on, as far up as the chain is whole.
        tags: Names by id.
        removed: Ids of the sessions that are marked.
        damaged: Why, by the folder's name.
        moves: Of HEAD, oldest first.
        notes: What a person should be told.
        error: Why HEAD's chain cannot be used; None where it can.
    """

    head: str | None
    base: Mapping[str, Any] | None
    sessions: Sequence[Session]
    in_use: frozenset[str]
    tags: Mapping[str, Sequence[str]]
    removed: frozenset[str]
    damaged: Mapping[str, str]
    moves: Sequence[Move]
    notes: Sequence[str]
    error: DamagedStoreError | None


def look(store: Store) -> Lineage:
    """Read what there is to list; a chain that is damaged is told, not raised.

    Raises:
        IncompatibleError: A newer version wrote the store or a session.
        DiskError: A file cannot be read.
    """
    shelf, error = store.shelf(), None
    word = head.read(store.root)
    try:
        current = store.head()
        word = current.id if current else BASE
        store.chain(current)
    except DamagedStoreError as damage:
        error = damage
    names: dict[str, list[str]] = {}
    for name, identity in tags(store).items():
        names.setdefault(identity, []).append(name)
    return Lineage(
        head=word,
        base=store.base(),
        sessions=list(shelf.sound.values()),
        in_use=_in_use(shelf.sound, word),
        tags=names,
        removed=frozenset(removed(store)),
        damaged={name: str(damage) for name, damage in shelf.damaged.items()},
        moves=head.moves(store.root),
        notes=list(store.notes),
        error=error,
    )


def _in_use(sound: Mapping[str, Session], word: str | None) -> frozenset[str]:
    """Follow the parents up from HEAD, as far as they are sound."""
    found: set[str] = set()
    while word is not None and word in sound:
        found.add(word)
        word = sound[word].parent
    return frozenset(found)
