"""Labels: small files that each name one session, a person's tags and the marks of removal.

A session is never written again, so what is said of it later stands beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage.atomic import disk_errors, make_folder, replace_file
from mlx_tune.lineage.flush import sync_folder
from mlx_tune.lineage.sealed import read_regular

TAGS = "tags"
REMOVED = "removed"
_ID = re.compile("([0-9a-f]{64})\n?")


def read(folder: Path, notes: list[str] | None = None) -> dict[str, str]:
    """Return the id that each label of a folder holds, by the label's name.

    Args:
        folder: ``tags`` or ``removed`` of a store; it may be missing.
        notes: Takes a line for every label that is no such file.
    """
    found: dict[str, str] = {}
    if not folder.is_dir():
        return found
    with disk_errors("read", folder, safe="nothing was changed"):
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        try:
            match = _ID.fullmatch(read_regular(path).decode("utf-8", errors="replace"))
        except DamagedStoreError:
            match = None
        if match:
            found[path.name] = match[1]
            continue
        line = f"{path}: holds no session's id and is passed over; delete it"
        if notes is not None and line not in notes:
            notes.append(line)
    return found


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
    with disk_errors("delete", folder / name):
        (folder / name).unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)
