"""What a store holds at one moment: its sessions, HEAD, its labels and the moves of HEAD.

Every command reads the store once and works on what it read; `SessionStore` is what writes. HEAD
holds a session's id or ``base``. It is replaced before the move is logged: a log that lacks the
last move is a gap that the next line's old id shows, a logged move that never happened a lie.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.files.sealed import entries, read_regular
from mlx_tune.settings import DEFAULT_STORE, typed
from mlx_tune.store import format as store_format
from mlx_tune.store.labels import ID_LINE_BYTES, REMOVED, TAGS, read_labels
from mlx_tune.store.runs import RUNS
from mlx_tune.store.session import PROMOTE, Session, scan_sessions
from mlx_tune.store.session import SESSIONS as SESSIONS
from mlx_tune.text import quoted

BASE = "base"
HEAD = "HEAD"
HEAD_LOG = "HEAD.log"
SHOWN = 10  # a line that lists sessions names at most so many
_REF = "(base|[0-9a-f]{64})"
_OURS = re.compile(r"\d{4,}-.+-[0-9a-f]{8}|\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-.+", re.ASCII)
"""What a session's or a run's folder is called."""
_MOVE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ) {_REF} {_REF} (.*)")


@dataclass(frozen=True, kw_only=True)
class HeadMove:
    """One line of HEAD.log.

    Attributes:
        time: UTC, ISO 8601, whole seconds.
        old: Where HEAD stood, a session's id or ``base``.
        new: Where it went.
        why: In the person's or the command's words.
    """

    time: str
    old: str
    new: str
    why: str


@dataclass(frozen=True, kw_only=True)
class StoreSnapshot:
    """A store as it was when it was read.

    Labels and HEAD.log are read when they are first needed, and kept: a disk that cannot read them
    fails only the commands that need them.

    Attributes:
        root: The folder.
        sessions: The sound ones by id, in order of number, then id.
        damaged: Why, by the folder's name, which ends with eight digits of the id.
        stored_head: The id or ``base`` that HEAD holds; None where it is missing or garbled.
        is_new: There is no HEAD, no session, and no log of any.
    """

    root: Path
    sessions: Mapping[str, Session]
    damaged: Mapping[str, DamagedStoreError]
    stored_head: str | None = None
    is_new: bool = False

    @property
    def is_head_lost(self) -> bool:
        """Tell whether HEAD is missing or garbled, so that it has to be rebuilt.

        One that names a session which is not here is not lost: that is known, and is damage.
        """
        return not self.is_new and self.stored_head is None

    @property
    def head_id(self) -> str:
        """The id in use, or ``base``, rebuilt where HEAD is lost; the session may be missing.

        Raises:
            DiskError: HEAD is lost, and its log or a label cannot be read.
        """
        return self._rebuilt_head[0] if self.is_head_lost else self.stored_head or BASE

    @cached_property
    def _rebuilt_head(self) -> tuple[str, str]:
        """The id, or ``base``, that HEAD most likely held, and the evidence for it."""
        # A removed session is never HEAD, so a line that ends on one is not the last move made.
        logged = [move.new for move in self.moves if move.new not in self.removed]
        if logged:
            here = [session_id for session_id in logged if self.holds(session_id)]
            # The base only where the last line says so: a loss must not pass for a way back there.
            is_known = bool(here) and (here[-1] != BASE or logged[-1] == BASE)
            return (here if is_known else logged)[-1], f"the last sound line of {HEAD_LOG}"
        newest = self._first_whole(self._promoted())
        return newest.id if newest else BASE, "the newest session that was promoted"

    def _promoted(self) -> list[Session]:
        """Return the sessions that the gate let pass and nobody removed, newest first."""
        by_time = sorted(self.sessions.values(), key=lambda s: str(s.record.get("created", "")))
        promoted = [s for s in by_time[::-1] if s.record.get("verdict") == PROMOTE]
        return [session for session in promoted if not self.is_removed(session)]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Warnings for a person: a lost HEAD, damaged sessions, files that are no labels."""
        damage = (str(error) for error in self.damaged.values())
        return (*self.head_notes, *damage, *self.label_notes)

    @property
    def head_notes(self) -> tuple[str, ...]:
        """The note that HEAD had to be rebuilt, if it had to and could be."""
        if not self.is_head_lost or not self.holds(self.head_id):
            return ()
        session_id, evidence = self._rebuilt_head
        found = self.sessions.get(session_id)
        shown = found.folder_name if found else session_id[:12]
        return (
            f"{self.root / HEAD} is missing or holds no session's id; going on from {shown}, by "
            f"{evidence}; if that is wrong, `{typed('rollback --to SESSION', self.root)}`",
        )

    @cached_property
    def label_notes(self) -> tuple[str, ...]:
        """A note for every file among the labels that is none."""
        notes: list[str] = []
        for folder in (TAGS, REMOVED):
            with suppress(DiskError):  # it fails whatever needs these labels
                read_labels(self.root / folder, notes)
        return tuple(notes)

    @cached_property
    def tags(self) -> Mapping[str, str]:
        """The id of each tag's session, by the tag's name.

        Raises:
            DiskError: One cannot be read.
        """
        return read_labels(self.root / TAGS)

    def tags_of(self, session: Session) -> list[str]:
        """Return the names a person gave to a session."""
        return [name for name, session_id in self.tags.items() if session_id == session.id]

    @cached_property
    def removed(self) -> frozenset[str]:
        """The ids of the sessions that are marked for removal.

        Raises:
            DiskError: A mark cannot be read.
        """
        return frozenset(read_labels(self.root / REMOVED).values())

    @cached_property
    def moves(self) -> Sequence[HeadMove]:
        """The moves of HEAD, oldest first.

        Raises:
            DiskError: HEAD.log cannot be read.
        """
        return head_moves(self.root)

    def head(self) -> Session | None:
        """Return the session in use, or None for the bare base.

        Raises:
            DamagedStoreError: It is damaged or missing; the message says how to go back to the
                newest sound one.
        """
        try:
            return self.session(self.head_id)
        except DamagedStoreError as error:
            names = f"{HEAD_LOG} names it last" if self.is_head_lost else f"{HEAD} names it"
            raise DamagedStoreError(f"{error}; {names}, so {self.recovery_advice()}") from error

    def find(self, ref: str) -> Session | None:
        """Return the session a person means, or None for ``base``.

        Args:
            ref: A tag, a number (``3``, ``0003``), a name, a folder's name, four or more digits of
                an id, ``HEAD``, or ``base``. A tag goes before a number or an id, not before the
                name of another session.

        Raises:
            UsageError: It means none, with those there are, or several, with which.
            DamagedStoreError: It is HEAD, which is damaged or missing.
        """
        if ref == HEAD:
            return self.head()
        if ref == BASE:
            return None
        sessions = self.sessions.values()
        if tagged := self.tags.get(ref):
            if tagged not in self.sessions:
                raise UsageError(
                    f"tag {quoted(ref)} names {tagged[:12]}…, which is not among the sound "
                    f"sessions; there are {self._listed()}"
                )
            matches = [s for s in sessions if s.id == tagged or s.name == ref]
        else:
            matches = [s for s in sessions if ref in {s.folder_name, s.id}]
            matches = matches or [s for s in sessions if _means(ref, s)]
        if not matches:
            raise UsageError(f"no session {quoted(ref)} in {self.root}; there are {self._listed()}")
        if len(matches) > 1:
            raise UsageError(
                f"{quoted(ref)} means {len(matches)} sessions: "
                f"{', '.join(s.folder_name for s in matches)}; give the whole of one of these"
            )
        return matches[0]

    def _listed(self) -> str:
        names = [session.folder_name for session in self.sessions.values()]
        older = [f"{len(names) - SHOWN} older"] if len(names) > SHOWN else []
        return ", ".join([BASE, *older, *names[-SHOWN:]])

    def chain(self, session: Session | None) -> list[Session]:
        """Return a session's ancestors from the root to itself; nothing for the bare base.

        Raises:
            DamagedStoreError: A parent is missing or damaged, or the parents run in a circle; the
                message says how to go back to the newest sound session.
        """
        try:
            return self.ancestors(session)
        except DamagedStoreError as error:
            raise DamagedStoreError(f"{error}; {self.recovery_advice()}") from error

    def ancestors(self, session: Session | None) -> list[Session]:
        """Return what :meth:`chain` returns, for a caller that goes on where a chain is broken.

        Raises:
            DamagedStoreError: As for :meth:`chain`, without the way back, which takes long to find.
        """
        chain: dict[str, Session] = {}
        while session is not None:
            if session.id in chain:
                raise DamagedStoreError(
                    f"{session.path}: is its own ancestor; run `{typed('doctor', self.root)}`"
                )
            chain[session.id] = session
            parent_id = session.parent or BASE
            if not self.holds(parent_id):
                raise DamagedStoreError(
                    f"{session.path}: its parent {parent_id[:12]}… is missing from the store; "
                    f"run `{typed('doctor', self.root)}`"
                )
            session = self.session(parent_id)
        return list(chain.values())[::-1]

    @cached_property
    def in_use(self) -> frozenset[str]:
        """The ids of HEAD and of its ancestors, as far up as they are sound."""
        found: set[str] = set()
        session_id = self.head_id
        while session_id in self.sessions and session_id not in found:
            found.add(session_id)
            session_id = self.sessions[session_id].parent or BASE
        return frozenset(found)

    @cached_property
    def head_error(self) -> DamagedStoreError | None:
        """Why HEAD's chain cannot be used; None where it can."""
        try:
            self.chain(self.head())
        except DamagedStoreError as error:
            return error
        return None

    def base(self) -> dict[str, Any] | None:
        """Return the ``name`` and ``fingerprint`` of HEAD's base model; None before a session.

        Where HEAD is the base, or damaged, they are those of the newest sound session.
        """
        for session in (self.sessions.get(self.head_id), *[*self.sessions.values()][::-1]):
            if session and isinstance(session.record.get("base"), dict):
                return dict(session.record["base"])
        return None

    def holds(self, session_id: str) -> bool:
        """Tell whether an id, or ``base``, names something here, be it damaged."""
        return session_id == BASE or session_id in self.sessions or bool(self._damage(session_id))

    def session(self, session_id: str) -> Session | None:
        """Return the session of an id, or None for ``base``.

        Raises:
            DamagedStoreError: It is damaged or missing.
        """
        if session_id == BASE:
            return None
        if session_id not in self.sessions:
            raise self._damage(session_id) or DamagedStoreError(
                f"{self.root / SESSIONS}: {session_id[:12]}… is missing"
            )
        return self.sessions[session_id]

    def _damage(self, session_id: str) -> DamagedStoreError | None:
        return next((e for name, e in self.damaged.items() if name.endswith(session_id[:8])), None)

    def is_removed(self, session: Session) -> bool:
        """Tell whether a session is marked for removal."""
        return session.id in self.removed

    def check_here(self, session: Session) -> None:
        """Refuse a session that is not, or no longer, in this store.

        Raises:
            DamagedStoreError: It is not here, or what lies in its place is damaged.
        """
        if session.id not in self.sessions:
            raise DamagedStoreError(
                f"{session.folder_name} is not, or no longer, in {self.root}; "
                f"run `{typed('doctor', self.root)}`"
            )

    def check_kept(self, session: Session) -> None:
        """Refuse a session that is marked for removal.

        Raises:
            UsageError: It is.
        """
        if self.is_removed(session):
            raise UsageError(
                f"{session.folder_name} is removed; "
                f"`{typed(f'rm --undo {session.id[:8]}', self.root)}` keeps it"
            )

    def recovery_advice(self) -> str:
        """Return which session to go back to where HEAD stands on something damaged or missing."""
        past = [session_id for move in self.moves[::-1] for session_id in (move.new, move.old)]
        kept = [session_id for session_id in dict.fromkeys(past) if session_id not in self.removed]
        sound = [self.sessions[one] for one in kept if one in self.sessions]
        return rollback_advice(self._first_whole([*sound, *self._promoted()]), self.root)

    def _first_whole(self, sessions: Iterable[Session]) -> Session | None:
        """Return the first session every byte of whose chain is right; None if none is."""
        is_whole = cache(Session.is_whole)  # a long chain is read once, not once a descendant
        for session in sessions:
            with suppress(DamagedStoreError):
                if all(map(is_whole, self.ancestors(session))):
                    return session
        return None


def read_snapshot(root: Path) -> StoreSnapshot:
    """Read a store: HEAD, and the manifest and the record of every session. It may be missing.

    Raises:
        IncompatibleError: A newer version wrote the store or one of its sessions.
        DamagedStoreError: format.json is not what was written.
        UsageError: The path is a file.
        DiskError: HEAD, the folder or a session cannot be read.
    """
    store_format.check(root)
    while True:
        # In this order: a session is in the listing before HEAD names it.
        head = read_head(root)
        sessions, damaged = scan_sessions(root)
        found = StoreSnapshot(
            root=root,
            sessions=sessions,
            damaged=damaged,
            stored_head=head,
            is_new=not (sessions or damaged or _is_any(root, HEAD, HEAD_LOG)),
        )
        # Else it moved meanwhile, and is not lost.
        if (head and found.holds(head)) or read_head(root) == head:
            return found


def read_store(root: Path) -> StoreSnapshot:
    """Read a store for whoever only looks, and so creates none: a folder that was named is there.

    Raises:
        DamagedStoreError: It is not; a model of its sessions must not become the base in silence.
    """
    if root != DEFAULT_STORE:
        need_store(root)
    return read_snapshot(root)


def need_store(root: Path) -> None:
    """Refuse a folder that is no store.

    Raises:
        DamagedStoreError: It is none; nothing was created.
        DiskError: It cannot be read.
    """
    # Any of them will do: one may be what was lost.
    if _is_any(root, store_format.FILE, HEAD, HEAD_LOG):
        return
    # Other programs have folders of these two names.
    inside = (path.name for name in (SESSIONS, RUNS) for path in entries(root / name))
    if not any(map(_OURS.fullmatch, inside)):
        raise DamagedStoreError(
            f"{root}: no store is there; put it back or name another with --store, or train a "
            f"first session with `{typed('train data/cs.json', root)}`"
        )


def _is_any(root: Path, *names: str) -> bool:
    return any(os.path.lexists(root / name) for name in names)


def read_head(root: Path) -> str | None:
    """Return the session's id or ``base``, or None when HEAD is missing or garbage.

    Raises:
        DiskError: It is there and cannot be read; that is no reason to guess.
    """
    text = _read_text(root / HEAD, most_bytes=ID_LINE_BYTES)
    return text.removesuffix("\n") if re.fullmatch(f"{_REF}\n?", text) else None


def head_moves(root: Path) -> list[HeadMove]:
    """Return HEAD's moves, oldest first; lines that a power cut left torn are left out."""
    matches = map(_MOVE.fullmatch, _read_text(root / HEAD_LOG).split("\n"))
    return [HeadMove(time=m[1], old=m[2], new=m[3], why=m[4]) for m in matches if m]


def torn_log_lines(root: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of HEAD.log that hold no move."""
    lines = enumerate(_read_text(root / HEAD_LOG).split("\n"), start=1)
    return [number for number, line in lines if line and not _MOVE.fullmatch(line)]


def rollback_advice(session: Session | None, root: Path) -> str:
    """Return what to do about a damaged session, given the newest good one; None is the base."""
    name, ref = (session.folder_name, session.id[:8]) if session else (BASE, BASE)
    return f"go back to {name} with `{typed(f'rollback --to {ref}', root)}`"


def _read_text(path: Path, *, most_bytes: int | None = None) -> str:
    try:
        return read_regular(path, most_bytes=most_bytes).decode("utf-8", errors="replace")
    except DamagedStoreError:
        return ""


def _means(ref: str, session: Session) -> bool:
    numbered = re.fullmatch("[0-9]{1,9}", ref) and int(ref) == session.number
    prefixed = re.fullmatch("[0-9a-f]{4,64}", ref) and session.id.startswith(ref)
    return bool(numbered or prefixed or ref == session.name)
