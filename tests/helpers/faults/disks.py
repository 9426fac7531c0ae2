"""Small disk images, mounted for one case and cut from power in the middle of it."""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# linux/fs.h and fs/xfs: stop a file system at once, as a power cut does.
FS_IOC_SHUTDOWN = 0x8004587D
# What becomes of changes that were made and not flushed. Lost: all of them. Journalled: the names
# and sizes that the journal holds survive, the bytes of files do not.
FATES = {"lost": 2, "journalled": 1}
CLONE_NEWNS = 0x00020000


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """A kind of disk.

    Attributes:
        size_mb: Of the image, which is sparse.
        package: Debian's package of its mkfs.
        options: For mount.
    """

    size_mb: int
    package: str
    options: str


FILE_SYSTEMS = {
    # Without auto_da_alloc, ext4's habit of flushing what is renamed over another file, which other
    # file systems do not have; and without its own flush every five seconds.
    "ext4": FileSystem(size_mb=64, package="e2fsprogs", options="loop,noauto_da_alloc,commit=300"),
    "xfs": FileSystem(size_mb=320, package="xfsprogs", options="loop"),  # 300 is its least
}


def why_not(kind: str, folder: Path) -> str | None:
    """Return why no image of a kind can be mounted here, or None."""
    if not shutil.which(f"mkfs.{kind}"):
        return f"no mkfs.{kind}; on Debian: apt-get install {FILE_SYSTEMS[kind].package}"
    place, image = folder / "tried", folder / "tried.img"
    place.mkdir(exist_ok=True)
    try:
        make(kind, image)
        with mounted(kind, image, place):
            pass
        return None
    except subprocess.CalledProcessError as error:
        return f"no {kind} image can be mounted here: {error.stderr.decode().strip()}"
    finally:
        image.unlink(missing_ok=True)


def why_no_mounts() -> str | None:
    """Return why no process here can have mounts of its own, or None."""
    if os.geteuid() != 0:
        return "mounting a disk image needs root"
    try:
        _run("unshare", "--mount", "true")
        return None
    except FileNotFoundError:
        return "no unshare; on Debian: apt-get install util-linux"
    except subprocess.CalledProcessError as error:
        return f"no mounts of one's own here: {error.stderr.decode().strip()}"


def leave_the_mounts_of_others_alone() -> None:
    """Give this process mounts of its own: the kernel undoes them when it ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _run("mount", "--make-rprivate", "/")


def make(kind: str, image: Path) -> None:
    """Make an empty disk."""
    with image.open("wb") as file:
        file.truncate(FILE_SYSTEMS[kind].size_mb << 20)
    _run(f"mkfs.{kind}", "-q", str(image))


def copy(image: Path, to: Path) -> Path:
    """Copy a disk, its holes as holes."""
    _run("cp", "--sparse=always", str(image), str(to))
    return to


@contextmanager
def mounted(kind: str, image: Path, place: Path) -> Iterator[None]:
    """Mount a disk for the length of a block."""
    _run("mount", "-o", FILE_SYSTEMS[kind].options, str(image), str(place))
    try:
        yield
    except BaseException:
        _run("umount", "--lazy", str(place))
        raise
    _run("umount", str(place))


def cut_power(place: Path, fate: str) -> None:
    """Stop the file system mounted at a place, as it is."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", FATES[fate]))
    finally:
        os.close(descriptor)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
