"""Evaluations: what sessions were found to know after they were committed, a file each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.durable import disk_errors, make_folder, replace_file
from mlx_tune.files.records import from_json, refuse_taken, to_json
from mlx_tune.files.sealed import entries, read_regular

EVALS = "evals"
SCHEMA = 1

_OWN = ("schema", "created")


def write(store_root: Path, record: Mapping[str, Any], *, who: str) -> Path:
    """Write an evaluation under a name of its own; it is never written again.

    Args:
        store_root: The store's folder.
        record: What the file holds besides schema and time.
        who: Whose answers they are, part of the name: ``0003-dining-7f3a9c12`` or ``base``.

    Returns:
        The file, ``evals/<time>-<who>.json``.

    Raises:
        UsageError: A key that is not the caller's to write, or a value that JSON cannot hold.
        DiskError: The disk is full, read-only or failing; nothing was written.
    """
    refuse_taken("the record of an evaluation", record, _OWN)
    now = datetime.now(UTC)
    folder, stem = store_root / EVALS, f"{now:%Y-%m-%dT%H-%M-%S}-{who}"
    names = (stem if count == 1 else f"{stem}-{count}" for count in itertools.count(1))
    with disk_errors("write", folder):
        make_folder(folder)
        path = next(path for name in names if not (path := folder / f"{name}.json").exists())
    whole = {**record, "schema": SCHEMA, "created": now.isoformat()}
    replace_file(path, to_json(whole, path))
    return path


def read_all(store_root: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the evaluations of a store by file name, in order of time.

    Args:
        store_root: The store's folder.
        notes: Takes a line for every file that is damaged or newer than this version, and is
            passed over: what it says can be measured again.

    Raises:
        DiskError: The folder or a file cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in entries(store_root / EVALS):
        try:
            record = from_json(read_regular(path), path)
        except DamagedStoreError:
            notes.append(f"{path}: no evaluation can be read there; passed over, delete it")
            continue
        if record.get("schema") == SCHEMA:
            found[path.name] = record
        else:
            notes.append(f"{path}: another version of mlx-tune wrote it; passed over")
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("created"))))
