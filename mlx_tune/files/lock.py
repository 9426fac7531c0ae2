"""Locks between processes: files that are never deleted, with their holder's name inside.

They keep two writers from forking a chain by accident. Nothing rests on them: without a lock, as on
a network disk that has none, two writers fork and lose nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, LockedError
from mlx_tune.files.durable import disk_errors
from mlx_tune.files.sealed import IRREGULAR, read_regular
from mlx_tune.text import one_line

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What file systems without locks say.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_PAUSE_SECONDS = 0.02


@contextmanager
def hold(path: Path, *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock for the length of a block; it ends with the process too, however that ends.

    Args:
        path: The lock's file, in a folder that exists.
        what: What it is held for, for whoever finds it taken.
        wait_seconds: How long to wait for another holder.

    Raises:
        LockedError: Another process holds it: which, since when, and for what.
        DamagedStoreError: What lies there is no file.
        DiskError: The file cannot be opened or locked.
    """
    with disk_errors("lock", path):
        descriptor = _open(path)
    try:
        with disk_errors("lock", path):
            _take(descriptor, path, time.monotonic() + wait_seconds)
        try:
            _sign(descriptor, what)
            yield
        finally:  # by the holder alone: one who was refused would wipe out the holder's name
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        with suppress(OSError):  # closing gives the lock back, whatever it says
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Tell whether a living process of this machine has signed a lock, without touching the lock.

    For whoever only shows it: trying to take it could turn another away.
    """
    try:
        holder = json.loads(read_regular(path))
        if holder["host"] != socket.gethostname():
            return False
        os.kill(int(holder["pid"]), 0)
    except PermissionError:
        return True  # another person's process, but alive
    except (DamagedStoreError, OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, _OPEN, 0o666)
    except OSError as error:
        if error.errno in IRREGULAR | {errno.EISDIR}:
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return descriptor


def _no_file(path: Path) -> DamagedStoreError:
    return DamagedStoreError(
        f"{path}: a link, FIFO, device or folder where the lock's file belongs; delete it"
    )


def _take(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _held(descriptor, path) from None
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return
            raise
        time.sleep(_PAUSE_SECONDS)


def _sign(descriptor: int, what: str) -> None:
    """Say in the file who holds it; a disk without room for that is no reason to stop."""
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "what": what,
    }
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _held(descriptor: int, path: Path) -> LockedError:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        by = one_line(
            f"held for {holder['what']} by process {holder['pid']} on {holder['host']} since "
            f"{holder['started']}"
        )
    # It signs just after it takes the lock; and a file may hold anything, nested as deep.
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        by = "held by another process"
    return LockedError(f"{path}: {by}; nothing was changed, try again when it has ended")
