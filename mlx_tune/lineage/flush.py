"""Waiting until a disk holds what was written: the one place that knows what a flush is."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What file systems say that cannot flush this way (network disks, FUSE), as against a failure.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def hand_over(descriptor: int) -> None:
    """Give an open file's bytes to the drive, for a ``flush`` that soon follows.

    On macOS the drive may still keep them in its cache; one flush then covers many files. A failed
    flush is never tried again on the same descriptor: the kernel has dropped the pages by then, and
    a second try would succeed without them.
    """
    os.fsync(descriptor)


def flush(descriptor: int) -> None:
    """Wait until the disk holds an open file, and all that was handed over before."""
    # On macOS fsync only hands the bytes to the drive, which may keep them in its cache and
    # reorder them; F_FULLFSYNC makes the drive keep them.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
            return
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    os.fsync(descriptor)


def flush_folder(descriptor: int) -> None:
    """Wait until the disk holds an open folder's list of names, where folders can be flushed."""
    try:
        flush(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_folder(path: Path) -> None:
    """Wait until the disk holds a folder's list of names."""
    with _opened(path, _FOLDER) as descriptor:
        flush_folder(descriptor)


def sync_file(path: Path) -> None:
    """Wait until the disk holds a file's bytes."""
    with _opened(path, _FILE) as descriptor:
        flush(descriptor)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
