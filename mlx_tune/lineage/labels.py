"""Labels: small files that each name one session, a person's tags and the marks of removal.

A session is never written again, so what is said of it later stands beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage.atomic import disk_errors, make_folder, replace_file
from mlx_tune.lineage.flush import sync_folder
from mlx_tune.lineage.sealed import entries, read_regular

TAGS = "tags"
REMOVED = "removed"
_ID = re.compile("([0-9a-f]{64})\n?")
_MOST_BYTES = 65


def read(folder: Path, notes: list[str] | None = None) -> dict[str, str]:
    """Return the id that each label of a folder holds, by the label's name.

    Args:
        folder: ``tags`` or ``removed`` of a store; it may be missing.
        notes: Takes a line for every label that is no such file.

    Raises:
        DiskError: The folder or a label cannot be read; that is no reason to go on without.
    """
    found: dict[str, str] = {}
    for path in entries(folder):
        try:
            data = read_regular(path, most_bytes=_MOST_BYTES)
            match = _ID.fullmatch(data.decode("utf-8", errors="replace"))
        except DamagedStoreError:
            match = None
        if match:
            found[path.name] = match[1]
            continue
        line = f"{path}: holds no session's id and is passed over; delete it"
        if notes is not None and line not in notes:
            notes.append(line)
    return found


def removed(root: Path, notes: list[str] | None = None) -> set[str]:
    """Return the ids of a store's sessions that are marked for removal.

    Raises:
        DiskError: As for :func:`read`.
    """
    return set(read(root / REMOVED, notes).values())


def put(folder: Path, name: str, identity: str) -> None:
    """Let a label name a session, durably.

    Raises:
        DiskError: The disk is full, read-only or failing; the label is as it was.
    """
    with disk_errors("write", folder / name):
        make_folder(folder)
    replace_file(folder / name, f"{identity}\n".encode())


def drop(folder: Path, name: str) -> None:
    """Take a label away, durably; one that is not there stays so.

    Raises:
        DiskError: The disk is read-only or failing.
    """
    with disk_errors("delete", folder / name, safe="the label may still be there"):
        (folder / name).unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)
