"""The writer of a store: it commits sessions and moves HEAD, each under the store's lock.

What it decides, it decides on a snapshot that it reads under that lock.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, LockedError, UsageError
from mlx_tune.files import lock
from mlx_tune.files.durable import (
    SCRATCH,
    append_line,
    create_file,
    disk_errors,
    make_folder,
    replace_file,
    sync_folder,
    write_folder,
)
from mlx_tune.files.records import refuse_taken, to_json
from mlx_tune.files.sealed import MANIFEST, seal, sha256
from mlx_tune.settings import typed
from mlx_tune.store import format as store_format
from mlx_tune.store.adapter_check import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from mlx_tune.store.session import (
    SCHEMA,
    SESSION_FILE,
    Session,
    check_name,
    folder_name,
    read_session,
)
from mlx_tune.store.snapshot import (
    BASE,
    HEAD,
    HEAD_LOG,
    SESSIONS,
    StoreSnapshot,
    need_store,
    read_snapshot,
)
from mlx_tune.text import one_line

LOCK = "lock"
TRAINING_LOCK = "training.lock"
PATIENCE_SECONDS = 20.0  # for another's write, which takes as long as a flush or two


class SessionStore:
    """A folder of sessions, ``root``. Nothing is created before the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
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

    def snapshot(self) -> StoreSnapshot:
        """Read the store as it is now; the errors are those of :func:`read_snapshot`."""
        return read_snapshot(self.root)

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
        parent_id = parent.id if parent else None
        own = {"schema": SCHEMA, "number": number, "name": name, "parent": parent_id}
        refuse_taken("the record of a session", record, own)
        refuse_taken("the files of a session", files, {SESSION_FILE, MANIFEST})
        if WEIGHTS_FILE in files:
            check_adapter(files[WEIGHTS_FILE], files.get(CONFIG_FILE, b""), f"session {name}")
        sealed = seal({**files, SESSION_FILE: to_json({**record, **own}, Path(SESSION_FILE))})
        with self.locked(f"commit {name}"):
            self._prepare(self.snapshot(), parent)
            identity = sha256(sealed[MANIFEST])
            target = self.root / SESSIONS / folder_name(number, name, identity)
            try:
                write_folder(target, sealed, scratch=self.root / SCRATCH)
                return read_session(target)
            except FileExistsError:
                return _committed_before(target, identity)

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
            now = self.snapshot()
            current = now.head()
            if _id(current) not in {_id(expected), _id(to)}:
                safe = f"; {to.folder_name} is committed and safe" if to else ""
                raise LockedError(
                    f"HEAD moved meanwhile from {_shown(expected)} to {_shown(current)}, so it was "
                    f"not moved to {_shown(to)}{safe}; look at `{typed('log', self.root)}` and "
                    "decide again"
                )
            if _id(current) == _id(to) != _id(expected) and not now.is_head_lost:
                return  # an attempt before this one made the move, or another process
            self._move(now, to, old=_id(expected), why=why)
            _link_session(self.root, "previous", expected)

    def leave_damaged_head(self, to: Session | None, *, why: str) -> None:
        """Put another session, or the bare base, in use where HEAD names a damaged one.

        Raises:
            LockedError: Another process is writing, or has moved HEAD to a sound session.
            DamagedStoreError: The chain of ``to`` is broken, or it is not in this store.
            DiskError: As for ``move_head``.
        """
        with self.locked(why):
            now = self.snapshot()
            try:
                current = now.head()
            except DamagedStoreError:
                self._move(now, to, old=now.head_id, why=why)
                return
            raise LockedError(
                f"HEAD is on {_shown(current)} by now, which is sound, so it was not moved to "
                f"{_shown(to)}; look at `{typed('log', self.root)}` and decide again"
            )

    def _move(self, now: StoreSnapshot, to: Session | None, *, old: str, why: str) -> None:
        now.chain(to)
        if to is not None:
            now.check_kept(to)
        self._prepare(now, to)
        write_head(self.root, _id(to))
        log_move(self.root, old=old, new=_id(to), why=why)
        _link_session(self.root, "latest", to)

    def _prepare(self, now: StoreSnapshot, needed: Session | None) -> None:
        """Make the store's own files on the first write; refuse a session from another store."""
        if needed is not None:
            now.check_here(needed)
        with disk_errors("write", self.root):
            make_folder(self.root)
        store_format.write(self.root)
        # Before the first session, so that a missing HEAD beside sessions is always a loss.
        if now.is_new:
            start_head(self.root)


def open_store(root: Path) -> SessionStore:
    """Return the store in a folder that is one.

    Raises:
        IncompatibleError: A newer version of mlx-tune wrote it.
        DamagedStoreError: There is none, and nothing was created; or format.json is not what was
            written.
    """
    store = SessionStore.open(root)
    need_store(root)
    return store


def start_head(root: Path) -> None:
    """Let HEAD hold ``base`` in a new store; one that is there by now stays as it is.

    Raises:
        DiskError: The disk is full, read-only or failing.
    """
    create_file(root / HEAD, f"{BASE}\n".encode())


def write_head(root: Path, session_id: str) -> None:
    """Let HEAD hold a session's id or ``base``.

    Raises:
        DiskError: The disk is full, read-only or failing; HEAD is as it was.
    """
    replace_file(root / HEAD, f"{session_id}\n".encode())


def log_move(root: Path, *, old: str, new: str, why: str) -> None:
    """Append a move that was made to HEAD.log.

    Raises:
        DiskError: The line could not be written; HEAD stands where it was moved to.
    """
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    safe = f"HEAD did move to {new[:12]}, only this line is missing"
    append_line(root / HEAD_LOG, f"{time} {old} {new} {one_line(why)}", safe=safe)


def _link_session(root: Path, name: str, session: Session | None) -> None:
    """Let a symlink show a session's folder, or remove it; where links fail there is none."""
    path = root / name
    draft = root / f".{name}.{secrets.token_hex(8)}"
    with suppress(OSError):
        if session is None:
            if path.is_symlink():
                path.unlink()
            return
        draft.symlink_to(Path(SESSIONS) / session.folder_name, target_is_directory=True)
        draft.replace(path)
    with suppress(OSError):
        draft.unlink(missing_ok=True)


def _id(session: Session | None) -> str:
    return session.id if session else BASE


def _shown(session: Session | None) -> str:
    return session.folder_name if session else BASE


def _committed_before(target: Path, identity: str) -> Session:
    """Return the session already there, once every byte of it was compared."""
    session = read_session(target)
    session.verify()
    if session.id != identity:
        raise UsageError(f"{target} is another session; choose another name")
    # The attempt that wrote it may have failed at its very last flush.
    with disk_errors("write", target):
        sync_folder(target.parent)
    return session
