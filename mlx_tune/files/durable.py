"""Durable writes: a folder or a file is wholly on the disk or not there at all.

Here alone is decided what flushing means on each system.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_tune.errors import DiskError, MlxTuneError, UsageError

UNTOUCHED = "HEAD, sessions and the last checkpoint are as they were"
SCRATCH = ".tmp"
"""Where unfinished folders lie, in a store or beside what they are to be."""
FILE_PATTERN = "[A-Za-z0-9_][A-Za-z0-9._-]*"
CHUNK_BYTES = 1 << 26  # macOS refuses one write of 2 GiB or more

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or use another disk",
    errno.EROFS: "make the disk writable or name another store",
    errno.EACCES: "give yourself the permission or name another store",
    errno.EPERM: "give yourself the permission or name another store",
}
# What file systems without hard links say, and those where a file can have no more of them.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# What file systems say that cannot flush this way (network disks, FUSE), as against a failure.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}


def write_folder(
    target: Path,
    files: Mapping[str, bytes],
    *,
    scratch: Path | None = None,
    replace: bool = False,
    safe: str = UNTOUCHED,
) -> None:
    """Write a flat folder so that it appears under its name whole and durable, or not at all.

    Args:
        target: The folder to make; its missing parents are made too.
        files: Each file's name and bytes.
        scratch: Where the unfinished folder lies, on the same file system; default ``.tmp`` beside
            the target.
        replace: Whether what is at ``target`` makes way, once the new folder is written whole.
        safe: What a failure leaves as it was, for the error's text.

    Raises:
        FileExistsError: Something is at ``target`` already, and is not to be replaced.
        DiskError: The disk is full, read-only or failing; ``target`` is as it was, or already holds
            the new folder whole where only the last flush failed.
        UsageError: A file's name is not a plain one.
    """
    check_file_names(files)
    scratch = scratch or target.parent / SCRATCH
    with disk_errors("write", target, safe):
        make_folder(target.parent)
        make_folder(scratch)
        if not replace and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "already there", str(target))
        draft = scratch / secrets.token_hex(8)
        try:
            _fill(draft, files)
            if replace:
                discard_folder(target, scratch=scratch, safe=safe)
            _put_in_place(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def replace_file(path: Path, data: bytes, *, safe: str = UNTOUCHED) -> None:
    """Give a file new contents: after a power cut it holds the old bytes or the new, never a mix.

    Raises:
        DiskError: The disk is full, read-only or failing; the old file is still there.
    """
    with _drafted(path, data, safe) as draft:
        draft.replace(path)


def create_file(path: Path, data: bytes) -> None:
    """Make a file that appears whole, and leave one that is there by now as it is.

    Raises:
        DiskError: The disk is full, read-only or failing; nothing was made.
    """
    with _drafted(path, data, UNTOUCHED) as draft, suppress(FileExistsError):
        _link(draft, path)


def append_line(path: Path, line: str, *, durable: bool = True, safe: str = UNTOUCHED) -> None:
    """Append one line; a line that a power cut left torn is closed first, so it swallows no other.

    Args:
        path: The file; made when missing.
        line: Text without a line break.
        durable: Whether to wait until the disk holds it. Without, it survives the process, not a
            power cut.
        safe: What a failure leaves as it was, for the error's text.

    Raises:
        DiskError: The disk is full, read-only or failing.
        UsageError: The line holds a line break.
    """
    if "\n" in line or "\r" in line:
        raise UsageError(f"{path}: a line break inside the line {line!r}; write one line at a time")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_errors("append to", path, safe):
        with _opened(path, flags) as descriptor:
            size_bytes = os.fstat(descriptor).st_size
            torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
            start = b"\n" if torn else b""
            _write_all(descriptor, start + line.encode() + b"\n")
            if durable:
                flush(descriptor)
        if durable and size_bytes == 0:
            sync_folder(path.parent)


def discard_folder(path: Path, *, scratch: Path, safe: str = UNTOUCHED) -> None:
    """Delete a folder; interrupted, it leaves trash in ``scratch``, not half a folder in place.

    A file or a link in its place is deleted too, and where nothing is, nothing is done.

    Raises:
        DiskError: The disk is read-only or failing.
    """
    with disk_errors("delete", path, safe):
        make_folder(scratch)
        trash = scratch / secrets.token_hex(8)
        try:
            path.rename(trash)
        except FileNotFoundError:
            return
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash)
        else:
            trash.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each durably.

    Raises:
        UsageError: A file stands where the folder should be.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path} is not a folder; move it away or name another store") from error
    sync_folder(path.parent)


def flush(descriptor: int) -> None:
    """Wait until the disk holds an open file, and all files that were given to ``fsync`` before.

    A failed flush is never tried again on the same descriptor: the kernel has dropped the pages by
    then, and a second try would succeed without them.
    """
    # On macOS fsync only passes the bytes on to the drive, which may keep them in its cache and
    # reorder them; F_FULLFSYNC makes the drive write them, those of earlier fsyncs too.
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


def check_file_names(names: Iterable[str]) -> None:
    """Refuse file names that are paths, need escaping in a manifest, or differ only in case.

    Raises:
        UsageError: Which name, and the allowed pattern.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(FILE_PATTERN, name):
            raise UsageError(f"file name {name!r} is not allowed; a name is {FILE_PATTERN}")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UsageError(f"file names {other!r} and {name!r} differ only in case; rename one")


def check_new(target: Path) -> None:
    """Refuse a place where something is, before anything long is begun for it.

    Raises:
        UsageError: There is a file, a folder or a link.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists, and nothing is overwritten; name another")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill that is renamed to its place at the end: whole, or not there.

    For large files that others write, which can be made again: they are not flushed one by one.

    Args:
        target: What it will be called; must not exist.

    Raises:
        DiskError: The disk is full, read-only or failing; nothing is left behind.
    """
    with new_file(target) as scratch:
        scratch.mkdir()
        yield scratch


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a path to write a file at, likewise.

    Args:
        target: What it will be called; must not exist.

    Raises:
        DiskError: The disk is full, read-only or failing; nothing is left behind.
    """
    scratch = target.parent / f".{target.name[:80]}-{secrets.token_hex(4)}"
    with disk_errors("write", target, safe="nothing was written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # which leaves a file as it is
            with suppress(OSError):
                scratch.unlink()


@contextmanager
def disk_errors(verb: str, path: Path, safe: str = UNTOUCHED) -> Iterator[None]:
    """Turn what the operating system says about a disk into one line that says what is safe.

    Raises:
        DiskError: For any OSError but ``FileExistsError``, which callers answer, and our own.
    """
    try:
        yield
    except (FileExistsError, MlxTuneError):
        raise
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0, "check the disk")
        raise DiskError(
            f"cannot {verb} {path}: {reason}; {safe}; {advice}, then run the command again"
        ) from error


@contextmanager
def _opened(path: Path, flags: int, *, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _fill(draft: Path, files: Mapping[str, bytes]) -> None:
    draft.mkdir()
    # Through the folder's descriptor, nobody can swap the folder for a link in between.
    with _opened(draft, _FOLDER | os.O_NOFOLLOW) as folder:
        for name, data in files.items():
            _write_file(Path(name), data, folder)
        flush_folder(folder)
        for name, data in files.items():
            _compare(Path(name), data, folder)


def _put_in_place(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise FileExistsError(errno.EEXIST, "already there", str(target)) from error
        raise
    _sync_name(target)


@contextmanager
def _drafted(path: Path, data: bytes, safe: str) -> Iterator[Path]:
    """Write a file beside its place, which the block gives its name, and flush that name."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with disk_errors("write", path, safe):
        try:
            _write_file(draft, data)
            yield draft
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        _sync_name(path)


def _link(draft: Path, path: Path) -> None:
    """Give a draft its name, which unlike a rename fails where another has it."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(path):
            draft.rename(path)


def _sync_name(path: Path) -> None:
    """Flush a new name; a failure here is no longer one that changed nothing."""
    safe = f"{path.name} is new and whole, a power cut may undo it"
    with disk_errors("flush", path.parent, safe):
        sync_folder(path.parent)


def _write_file(path: Path, data: bytes, folder: int | None = None) -> None:
    """Make a file; in a folder, whose flush covers all its files, fsync is enough."""
    with _opened(path, _NEW_FILE, folder=folder) as descriptor:
        _write_all(descriptor, data)
        (flush if folder is None else os.fsync)(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest[:CHUNK_BYTES]) :]


def _compare(path: Path, data: bytes, folder: int) -> None:
    descriptor = os.open(path, _FILE, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        rest = memoryview(data)
        while chunk := file.read(CHUNK_BYTES):
            if chunk != rest[: len(chunk)]:
                break
            rest = rest[len(chunk) :]
        if chunk or rest:
            raise OSError(errno.EIO, f"{path} reads back different from what was written")
