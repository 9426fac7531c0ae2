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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mlx_tune.errors import LockedError
from mlx_tune.lineage.atomic import disk_errors

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
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
        DiskError: The file cannot be opened.
    """
    with disk_errors("lock", path):
        descriptor = os.open(path, _OPEN, 0o666)
    try:
        _take(descriptor, path, time.monotonic() + wait_seconds)
        _sign(descriptor, what)
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        with suppress(OSError):  # closing gives the lock back, whatever it says
            os.close(descriptor)


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
        by = (
            f"held for {holder['what']} by process {holder['pid']} on {holder['host']} since "
            f"{holder['started']}"
        )
    except (OSError, ValueError, TypeError, KeyError):  # it signs just after it takes the lock
        by = "held by another process"
    return LockedError(f"{path}: {by}; nothing was changed, try again when it has ended")
