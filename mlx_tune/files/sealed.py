"""A sealed folder: flat files and the MANIFEST.sha256 that names each of them with its hash."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.durable import FILE_PATTERN, check_file_names, disk_errors

MANIFEST = "MANIFEST.sha256"
_LINE = re.compile(f"([0-9a-f]{{64}})  ({FILE_PATTERN})")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
IRREGULAR = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What opening a link, a socket or a device without a driver says."""


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A folder whose manifest was read; its files are checked as they are read.

    Attributes:
        path: The folder.
        id: sha256 of the manifest's bytes, 64 hexadecimal digits.
        hashes: Each file's name and the sha256 that the manifest gives it.
    """

    path: Path
    id: str
    hashes: Mapping[str, str] = field(compare=False, repr=False)  # the id stands for them

    def read(self, name: str) -> bytes:
        """Return a file's bytes, read once: those returned are those whose hash was checked.

        Raises:
            DamagedStoreError: The file is missing, no regular file, or not what was committed.
        """
        place = self.path / name
        expected = self.hashes.get(name)
        if expected is None:
            held = ", ".join(sorted(self.hashes))
            raise DamagedStoreError(f"{place}: no such file in {MANIFEST}, which names {held}")
        data = read_regular(place)
        if (found := sha256(data)) != expected:
            raise DamagedStoreError(
                f"{place}: changed after it was written: sha256 is {found[:12]}…, {MANIFEST} says "
                f"{expected[:12]}…; run `mlx-tune doctor`"
            )
        return data

    def verify(self) -> None:
        """Check every byte of the folder.

        Raises:
            DamagedStoreError: All files that are not what was committed, in one line.
        """
        now = open_sealed(self.path)
        if now.id != self.id:
            raise DamagedStoreError(
                f"{self.path / MANIFEST}: changed since it was opened; run `mlx-tune doctor`"
            )
        problems = []
        for name in self.hashes:
            try:
                self.read(name)
            except DamagedStoreError as error:
                problems.append(str(error))
        if problems:
            raise DamagedStoreError("; ".join(problems))

    def is_whole(self) -> bool:
        """Say whether every byte of the folder is right."""
        try:
            self.verify()
        except DamagedStoreError:
            return False
        return True


def open_sealed(path: Path) -> Sealed:
    """Read a sealed folder's manifest and check that the folder holds exactly those files.

    Raises:
        DamagedStoreError: The manifest does not parse; a file is missing, unnamed, or a link, FIFO,
            device or folder.
    """
    with disk_errors("read", path, safe="reading changes nothing"):
        if path.is_symlink() or not path.is_dir():
            raise DamagedStoreError(f"{path}: not a folder; run `mlx-tune doctor`")
    text = read_regular(path / MANIFEST)
    hashes = _parse(text, path / MANIFEST)
    if problems := _listing_problems(path, hashes):
        raise DamagedStoreError(f"{path}: {', '.join(problems)}; run `mlx-tune doctor`")
    return Sealed(path=path, id=sha256(text), hashes=hashes)


def seal(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files together with their manifest, ready to be written as a folder."""
    return {**files, MANIFEST: manifest(files)}


def manifest(files: Mapping[str, bytes]) -> bytes:
    """Return the manifest of named bytes, which ``shasum -a 256 -c`` reads; it omits itself.

    Raises:
        UsageError: A file's name is not a plain one.
    """
    check_file_names(files)
    names = sorted(name for name in files if name != MANIFEST)
    return "".join(f"{sha256(files[name])}  {name}\n" for name in names).encode()


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder but for hidden files, by name; nothing where no folder is.

    Raises:
        DiskError: It cannot be read.
    """
    with disk_errors("read", folder, safe="reading changes nothing"):
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_regular(path: Path, *, most_bytes: int | None = None) -> bytes:
    """Return the bytes of a regular file, never following a link or waiting on a FIFO.

    Args:
        path: The file.
        most_bytes: What is larger is not read at all: a bad file may be larger than the memory.

    Raises:
        DamagedStoreError: There is no such file, or it is no regular one, or too large.
        DiskError: It cannot be read.
    """
    with disk_errors("read", path, safe="reading changes nothing"):
        try:
            descriptor = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedStoreError(f"{path}: missing; run `mlx-tune doctor`") from None
        except OSError as error:
            if error.errno in IRREGULAR:
                raise _not_regular(path) from None
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(path)
            if most_bytes is not None and status.st_size > most_bytes:
                raise DamagedStoreError(
                    f"{path}: holds {status.st_size} bytes, at most {most_bytes} belong there; "
                    "run `mlx-tune doctor`"
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _parse(text: bytes, place: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    previous = ""
    lines = text.decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        match = _LINE.fullmatch(line)
        if not match or match[2] == MANIFEST or match[2] <= previous:
            raise _unparsed(place, number)
        previous = match[2]
        hashes[previous] = match[1]
    if lines[-1]:
        raise _unparsed(place, len(lines))
    return hashes


def _listing_problems(path: Path, names: Iterable[str]) -> list[str]:
    found: dict[str, bool] = {}  # whether each is a regular file
    with disk_errors("read", path, safe="reading changes nothing"), os.scandir(path) as entries:
        found.update((entry.name, entry.is_file(follow_symlinks=False)) for entry in entries)
    expected = {*names, MANIFEST}
    problems = [f"{name} is missing" for name in sorted(expected - found.keys())]
    for name in sorted(found):
        if not found[name]:
            problems.append(f"{name!r} is not a regular file")
        elif name not in expected and not (name.startswith(".") or name.endswith("~")):
            # Those the Finder and editors leave wherever a person looks; nothing reads them.
            problems.append(f"{name!r} is not in {MANIFEST}")
    return problems


def _not_regular(path: Path) -> DamagedStoreError:
    return DamagedStoreError(
        f"{path}: a link, FIFO, device or folder where a regular file belongs; "
        "run `mlx-tune doctor`"
    )


def _unparsed(place: Path, number: int) -> DamagedStoreError:
    return DamagedStoreError(
        f'{place}:{number}: not a line "<sha256>  <file name>" in order of names; '
        "run `mlx-tune doctor`"
    )
