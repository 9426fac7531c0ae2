"""format.json: which version of the store's layout this is, and what a reader must know."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, IncompatibleError, UsageError
from mlx_tune.files.durable import create_file, disk_errors, replace_file
from mlx_tune.files.records import from_json, to_json
from mlx_tune.files.sealed import read_regular
from mlx_tune.text import one_line

FILE = "format.json"
VERSION = 1
REMOVAL = "removal"
"""Sessions may be marked as removed: nothing is to be trained on them."""
FEATURES = frozenset({REMOVAL})
"""What a store may require of its reader that this version can do."""


def check(root: Path) -> None:
    """Accept a store this version can read, or a folder that is no store yet.

    Raises:
        IncompatibleError: A newer version wrote it, or it requires a feature unknown here.
        DamagedStoreError: format.json is not what was written.
        UsageError: The path is a file.
        DiskError: It may not be looked into.
    """
    with disk_errors("read", root, safe="reading changes nothing"):
        is_file = root.exists() and not root.is_dir()
    if is_file:
        raise UsageError(f"{root} is not a folder, so no store can be there; name another")
    place = root / FILE
    if not os.path.lexists(place):
        return
    record = from_json(read_regular(place), place)
    version, requires = record.get("version"), record.get("requires")
    if type(version) is not int or version < 1 or not isinstance(requires, list):
        raise DamagedStoreError(
            f'{place}: expected {{"version": {VERSION}, "requires": []}}; run `mlx-tune doctor`'
        )
    if version > VERSION:
        raise IncompatibleError(
            f"{place}: the store has version {version}, this mlx-tune reads up to {VERSION}; "
            "upgrade mlx-tune"
        )
    # A feature may be any JSON, so it is not looked up in a set.
    unknown = [one_line(str(feature)) for feature in requires if feature not in list(FEATURES)]
    if unknown:
        raise IncompatibleError(
            f"{place}: the store requires {', '.join(unknown)}, unknown here; upgrade mlx-tune"
        )


def write(root: Path) -> None:
    """Write format.json where there is none.

    Raises:
        DiskError: The disk is full, read-only or failing.
    """
    place = root / FILE
    if not os.path.lexists(place):
        create_file(place, to_json({"version": VERSION, "requires": []}, place))


def require(root: Path, feature: str) -> None:
    """Demand a feature of every later reader; all else that format.json holds is kept.

    Raises:
        DiskError: The disk is full, read-only or failing; format.json is as it was.
    """
    write(root)
    place = root / FILE
    record = from_json(read_regular(place), place)
    if feature not in record["requires"]:
        replace_file(place, to_json({**record, "requires": [*record["requires"], feature]}, place))
