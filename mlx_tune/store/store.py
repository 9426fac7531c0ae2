"""The store: every session that was ever committed, and HEAD, the one in use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, LockedError, UsageError
from mlx_tune.files import lock
from mlx_tune.files.durable import SCRATCH, disk_errors, make_folder, sync_folder, write_folder
from mlx_tune.files.records import refuse_taken, to_json
from mlx_tune.files.sealed import MANIFEST, seal, sha256
from mlx_tune.store import format as store_format
from mlx_tune.store import labels, snapshot
from mlx_tune.store.adapter_check import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from mlx_tune.store.session import (
    SCHEMA,
    SESSION_FILE,
    Session,
    check_name,
    folder_name,
    read_session,
)
from mlx_tune.store.snapshot import BASE, SESSIONS, StoreSnapshot

LOCK = "lock"
TRAINING_LOCK = "training.lock"
PATIENCE_SECONDS = 20.0  # for another's write, which takes as long as a flush or two


class SessionStore:
    """A folder of sessions. Nothing is created before the first write.

    Attributes:
        root: The folder.
        notes: What a person should be told, one line each: a HEAD that was rebuilt, a session that
            is damaged and was passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self._held = False

    @classmethod
    def open(cls, root: Path) -> SessionStore:
        """Return the store in a folder, which may be missing.

        Raises:
            IncompatibleError: A newer version of mlx-tune wrote it.
            DamagedStoreError: format.json is not what was written.
            UsageError: The path is a file.
        """
        store_format.check(root)
        return cls(root)

    def head(self) -> Session | None:
        """Return the session in use, or None for the bare base.

        A missing or garbled HEAD is rebuilt in memory, from HEAD.log, else from the newest promoted
        session, and a line in ``notes`` says so.

        Raises:
            DamagedStoreError: HEAD names a session that is damaged; the message names the newest
                sound one and the way back to it.
        """
        word, found = self._look()
        try:
            return found.session(word)
        except DamagedStoreError as error:
            back = snapshot.recovery_advice(snapshot.newest_sound(self.root, found))
            raise DamagedStoreError(f"{error}; HEAD names it, so {back}") from error

    def way_back(self) -> str:
        """Return what to do where HEAD stands on something damaged: which session to go back to."""
        return snapshot.recovery_advice(snapshot.newest_sound(self.root, self.shelf()))

    def head_is_lost(self) -> bool:
        """Say whether HEAD is missing or names no session here, so that ``head`` rebuilds it."""
        word, found = snapshot.read_head(self.root), self.shelf()
        return not self._is_new(found) and (word is None or not found.holds(word))

    def sessions(self) -> list[Session]:
        """Return the sound sessions by number, then id; ``notes`` says which are damaged."""
        found = self.shelf()
        for error in found.damaged.values():
            self._note(str(error))
        return list(found.sound.values())

    def find(self, ref: str) -> Session | None:
        """Return the session a person means, or None for ``base``.

        Args:
            ref: A tag, a number (``3``, ``0003``), a name, a folder's name, four or more digits of
                an id, ``HEAD``, or ``base``.

        Raises:
            UsageError: It means none, with those there are, or several, with which.
        """
        if ref == snapshot.HEAD:
            return self.head()
        if ref == BASE:
            return None
        sessions = self.sessions()
        tagged = labels.read_labels(self.root / labels.TAGS, self.notes).get(ref)
        if tagged is None:
            return snapshot.resolve_ref(ref, sessions, self.root)
        return snapshot.resolve_tag(ref, tagged, sessions)

    def shelf(self) -> StoreSnapshot:
        """Read the manifest and the record of every session.

        Raises:
            IncompatibleError: A newer version wrote the store or one of them.
            DiskError: The folder cannot be read.
        """
        store_format.check(self.root)  # each time: another process may have upgraded the store
        return snapshot.scan_sessions(self.root)

    def chain(self, session: Session | None) -> list[Session]:
        """Return a session's ancestors from the root to itself; nothing for the bare base.

        Raises:
            DamagedStoreError: A parent is missing or damaged, or the parents run in a circle; the
                message names the newest sound session and the way back to it.
        """
        found = self.shelf()
        try:
            return found.chain(session)
        except DamagedStoreError as error:
            back = snapshot.recovery_advice(snapshot.newest_sound(self.root, found))
            raise DamagedStoreError(f"{error}; {back}") from error

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Keep other processes from writing for the length of a block; blocks may be nested.

        Args:
            what: What for, in the words of whoever finds it taken.

        Raises:
            LockedError: Another process has been writing for longer than a write takes.
            IncompatibleError: A newer version of mlx-tune wrote the store.
            DiskError: The disk is read-only or failing.
        """
        if self._held:
            yield
            return
        with disk_errors("write", self.root):
            make_folder(self.root)
        with lock.hold(self.root / LOCK, what=what, wait_seconds=PATIENCE_SECONDS):
            store_format.check(self.root)  # another process may have upgraded it since it was read
            self._held = True
            try:
                yield
            finally:
                self._held = False

    @contextmanager
    def training(self, what: str) -> Iterator[None]:
        """Keep other trainings, and collections, out for the length of a block.

        Raises:
            LockedError: Another process is training here: its pid, and since when.
            DiskError: The disk is read-only or failing.
        """
        with disk_errors("write", self.root):
            make_folder(self.root)
        with lock.hold(self.root / TRAINING_LOCK, what=what):
            yield

    def check_here(self, session: Session) -> None:
        """Refuse a session of another store, or one that has left this one.

        Raises:
            DamagedStoreError: It is not here, or what lies in its place is damaged.
        """
        if session.id not in self.shelf().sound:
            raise DamagedStoreError(
                f"{session.folder_name} is not, or no longer, in {self.root}; run `mlx-tune doctor`"
            )

    def check_kept(self, session: Session) -> None:
        """Refuse a session that is marked for removal.

        Raises:
            UsageError: It is.
        """
        if session.id in labels.removed_ids(self.root):
            raise UsageError(
                f"{session.folder_name} is removed; `mlx-tune rm --undo {session.id[:8]}` keeps it"
            )

    def commit(
        self,
        *,
        name: str,
        parent: Session | None,
        record: Mapping[str, Any],
        files: Mapping[str, bytes],
    ) -> Session:
        """Write a session, whole and durable or not at all. HEAD stays where it is.

        Args:
            name: Within ``NAME_PATTERN``.
            parent: The session it was trained on, None for the bare base.
            record: What session.json holds besides schema, number, name and the parent's id.
            files: Everything else in the folder.

        Returns:
            The session; the one already there if the very same was committed before.

        Raises:
            UsageError: A name that is not allowed, or a key or file that is the store's to write.
            InputError: The adapter holds a NaN or an infinity, or is no pairs of float32 factors.
            IncompatibleError: The adapter's factors are not of the rank its config names.
            DamagedStoreError: The parent is not in this store, or what lies there is damaged.
            DiskError: The disk is full, read-only or failing; no session half written is left.
        """
        check_name(name)
        number = parent.number + 1 if parent else 1
        own = {
            "schema": SCHEMA,
            "number": number,
            "name": name,
            "parent": parent.id if parent else None,
        }
        refuse_taken("the record of a session", record, own)
        refuse_taken("the files of a session", files, {SESSION_FILE, MANIFEST})
        if WEIGHTS_FILE in files:
            check_adapter(files[WEIGHTS_FILE], files.get(CONFIG_FILE, b""), f"session {name}")
        sealed = seal({**files, SESSION_FILE: to_json({**record, **own}, Path(SESSION_FILE))})
        with self.locked(f"commit {name}"):
            self._prepare(parent)
            return self._write(folder_name(number, name, sha256(sealed[MANIFEST])), sealed)

    def move_head(self, to: Session | None, *, expected: Session | None, why: str) -> None:
        """Put another session, or the bare base, in use, and log the move, all under the lock.

        Args:
            to: Where HEAD goes.
            expected: Where the caller last saw HEAD.
            why: One line for HEAD.log.

        Raises:
            LockedError: HEAD is no longer where the caller saw it, and not at ``to`` either.
            UsageError: ``to`` is marked for removal.
            DamagedStoreError: The chain of ``to`` is broken, or it is not in this store.
            DiskError: The disk is full, read-only or failing; the message says where HEAD is.
        """
        with self.locked(why):
            current = self.head()
            if _session_id(current) not in {_session_id(expected), _session_id(to)}:
                raise _moved_meanwhile(to, expected, current)
            if (
                _session_id(current) == _session_id(to) != _session_id(expected)
                and not self.head_is_lost()
            ):
                return  # an attempt before this one made the move, or another process
            self._move(to, old=_session_id(expected), why=why)
            snapshot.link_session(self.root, "previous", expected.folder_name if expected else None)

    def leave_damaged_head(self, to: Session | None, *, why: str) -> None:
        """Put another session, or the bare base, in use where HEAD names a damaged one.

        Raises:
            LockedError: Another process is writing, or has moved HEAD to a sound session.
            DamagedStoreError: The chain of ``to`` is broken, or it is not in this store.
            DiskError: As for ``move_head``.
        """
        with self.locked(why):
            try:
                current = self.head()
            except DamagedStoreError:
                self._move(to, old=self._look()[0], why=why)
                return
            raise LockedError(
                f"HEAD is on {_shown(current)} by now, which is sound, so it was not moved to "
                f"{_shown(to)}; look at `mlx-tune log` and decide again"
            )

    def base(self) -> dict[str, Any] | None:
        """Return the ``name`` and ``fingerprint`` of the store's base model, None before a session.

        It is HEAD's; where HEAD is the base, or damaged, that of the newest sound session.
        """
        word, found = self._look()
        first = [found.sound[word]] if word in found.sound else []
        for session in [*first, *reversed(list(found.sound.values()))]:
            if isinstance(session.record.get("base"), dict):
                return dict(session.record["base"])
        return None

    def _look(self) -> tuple[str, StoreSnapshot]:
        """Return the id, or ``base``, that HEAD holds, rebuilt where it is lost, and the shelf."""
        while True:
            # In this order: a session is on the shelf before HEAD names it.
            word = snapshot.read_head(self.root)
            found = self.shelf()
            if word is not None and found.holds(word):
                return word, found
            if snapshot.read_head(self.root) == word:  # else it moved meanwhile, and is not lost
                return self._rebuilt_head(found), found

    def _is_new(self, found: StoreSnapshot) -> bool:
        return not snapshot.head_exists(self.root) and not found.sound and not found.damaged

    def _move(self, to: Session | None, *, old: str, why: str) -> None:
        self.chain(to)
        if to is not None:
            self.check_kept(to)
        self._prepare(to)
        snapshot.write_head(self.root, _session_id(to))
        snapshot.log_move(self.root, old=old, new=_session_id(to), why=why)
        snapshot.link_session(self.root, "latest", to.folder_name if to else None)

    def _rebuilt_head(self, found: StoreSnapshot) -> str:
        """Return where HEAD most likely stood, and note it unless the store is new."""
        if self._is_new(found):
            return BASE
        word, source = snapshot.rebuilt_head(self.root, found)
        shown = found.sound[word].folder_name if word in found.sound else word[:12]
        self._note(
            f"{self.root / snapshot.HEAD} is missing or names no session here; going on from "
            f"{shown}, by {source}; if that is wrong, `mlx-tune rollback --to` another"
        )
        return word

    def _prepare(self, needed: Session | None) -> None:
        """Make the store's own files on the first write; refuse a session from another store."""
        if needed is not None:
            self.check_here(needed)
        found = self.shelf()
        with disk_errors("write", self.root):
            make_folder(self.root)
        store_format.write(self.root)
        # Before the first session, so that a missing HEAD beside sessions is always a loss.
        if self._is_new(found):
            snapshot.start_head(self.root)

    def _write(self, name: str, sealed: Mapping[str, bytes]) -> Session:
        target = self.root / SESSIONS / name
        try:
            write_folder(target, sealed, scratch=self.root / SCRATCH)
            return read_session(target)
        except FileExistsError:
            return _committed_before(target, sha256(sealed[MANIFEST]))

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def open_store(root: Path) -> SessionStore:
    """Return the store in a folder that is one.

    Raises:
        UsageError: There is none; nothing was created.
        IncompatibleError: A newer version of mlx-tune wrote it.
        DamagedStoreError: format.json is not what was written.
    """
    store = SessionStore.open(root)
    # Any of them will do: one may be what was lost.
    if not any(
        os.path.lexists(root / name) for name in (store_format.FILE, snapshot.HEAD, SESSIONS)
    ):
        raise UsageError(
            f"{root}: no store is there; name another with --store, or train a first session with "
            "`mlx-tune train data/cs.json`"
        )
    return store


def _session_id(session: Session | None) -> str:
    return session.id if session else BASE


def _shown(session: Session | None) -> str:
    return session.folder_name if session else BASE


def _committed_before(target: Path, identity: str) -> Session:
    """Return the session already there once every byte of it is known to be the same."""
    session = read_session(target)
    session.verify()
    if session.id != identity:
        raise UsageError(f"{target} is another session; choose another name")
    # The attempt that wrote it may have failed at its very last flush.
    with disk_errors("write", target):
        sync_folder(target.parent)
    return session


def _moved_meanwhile(
    to: Session | None, expected: Session | None, current: Session | None
) -> LockedError:
    safe = f"; {to.folder_name} is committed and safe" if to else ""
    return LockedError(
        f"HEAD moved meanwhile from {_shown(expected)} to {_shown(current)}, so it was not moved "
        f"to {_shown(to)}{safe}; look at `mlx-tune log` and decide again"
    )
