"""What lies under sessions/ at one moment, the sound apart from the damaged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.lineage.head import BASE
from mlx_tune.lineage.sealed import entries
from mlx_tune.lineage.session import Session, quoted, read_session

SESSIONS = "sessions"
SHOWN = 10  # a line that lists sessions names at most so many


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Every session there is.

    Attributes:
        sound: By id, in order of number, then id.
        damaged: Why, by the folder's name, which ends with eight digits of the id.
    """

    sound: Mapping[str, Session]
    damaged: Mapping[str, DamagedStoreError]

    def holds(self, word: str) -> bool:
        """Say whether an id, or ``base``, names something here, be it damaged."""
        return word == BASE or word in self.sound or self._damage(word) is not None

    def session(self, word: str) -> Session | None:
        """Return the session of an id that the shelf holds, or None for ``base``.

        Raises:
            DamagedStoreError: It is damaged.
        """
        if word == BASE:
            return None
        if word not in self.sound and (error := self._damage(word)):
            raise error
        return self.sound[word]

    def _damage(self, word: str) -> DamagedStoreError | None:
        """Return what is wrong with the session of an id, if it is here and not sound."""
        return next((e for name, e in self.damaged.items() if name.endswith(word[:8])), None)

    def parent(self, session: Session) -> Session | None:
        """Return a session's parent, or None for the bare base.

        Raises:
            DamagedStoreError: The parent is missing or damaged.
        """
        word = session.parent or BASE
        if not self.holds(word):
            raise DamagedStoreError(
                f"{session.path}: its parent {word[:12]}… is missing from the store; "
                "run `mlx-tune doctor`"
            )
        return self.session(word)

    def chain(self, session: Session | None) -> list[Session]:
        """Return a session's ancestors from the root to itself; nothing for the bare base.

        Raises:
            DamagedStoreError: A parent is missing or damaged, or the parents run in a circle.
        """
        chain: dict[str, Session] = {}
        while session is not None:
            if session.id in chain:
                raise DamagedStoreError(
                    f"{session.path}: is its own ancestor; run `mlx-tune doctor`"
                )
            chain[session.id] = session
            session = self.parent(session)
        return list(chain.values())[::-1]

    def first_whole(self, sessions: Iterable[Session]) -> Session | None:
        """Return the first session every byte of whose chain is right; None if none is."""
        known: dict[str, bool] = {}  # a long chain is read once, not once a descendant
        for session in sessions:
            with suppress(DamagedStoreError):
                chain = self.chain(session)
                if all(_is_whole(member, known) for member in chain):
                    return session
        return None


def scan(root: Path) -> Shelf:
    """Read the manifest and the record of every session in a store.

    Raises:
        IncompatibleError: A newer version wrote one of them.
        DiskError: The folder cannot be read.
    """
    sound: list[Session] = []
    damaged: dict[str, DamagedStoreError] = {}
    for path in entries(root / SESSIONS):
        try:
            sound.append(read_session(path))
        except (DamagedStoreError, DiskError) as error:
            if not os.path.lexists(path):  # a collection moved it while it was read
                continue
            if isinstance(error, DiskError):
                raise
            damaged[path.name] = error
    sound.sort(key=lambda session: (session.number, session.id))
    return Shelf(sound={session.id: session for session in sound}, damaged=damaged)


def find(ref: str, sessions: Sequence[Session], place: Path) -> Session:
    """Return the one session that a number, name, folder's name or piece of an id means.

    Raises:
        UsageError: It means none, with those there are, or several, with which.
    """
    matches = [s for s in sessions if ref in {s.folder_name, s.id}]
    matches = matches or [s for s in sessions if _means(ref, s)]
    if not matches:
        raise UsageError(f"no session {quoted(ref)} in {place}; there are {_listed(sessions)}")
    if len(matches) > 1:
        raise UsageError(
            f"{quoted(ref)} means {len(matches)} sessions: "
            f"{', '.join(s.folder_name for s in matches)}; give the whole of one of these"
        )
    return matches[0]


def tagged(tag: str, identity: str, sessions: Sequence[Session]) -> Session:
    """Return the session of a tag.

    Raises:
        UsageError: It is damaged or gone; with those there are.
    """
    for session in sessions:
        if session.id == identity:
            return session
    raise UsageError(
        f"tag {quoted(tag)} names {identity[:12]}…, which is not among the sound sessions; "
        f"there are {_listed(sessions)}"
    )


def _is_whole(session: Session, known: dict[str, bool]) -> bool:
    if session.id not in known:
        known[session.id] = session.is_whole()
    return known[session.id]


def _means(ref: str, session: Session) -> bool:
    numbered = re.fullmatch("[0-9]{1,9}", ref) is not None and int(ref) == session.number
    prefixed = re.fullmatch("[0-9a-f]{4,64}", ref) is not None and session.id.startswith(ref)
    return numbered or prefixed or ref == session.name


def _listed(sessions: Sequence[Session]) -> str:
    names = [session.folder_name for session in sessions[-SHOWN:]]
    left_out = len(sessions) - len(names)
    more = [f"{left_out} older"] if left_out else []
    return ", ".join([BASE, *more, *names])
