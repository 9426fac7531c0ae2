"""Checks beforehand that a run will fit on the disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import DiskError
from mlx_tune.lineage.checkpoints import KEPT

_SLACK_BYTES = 32 << 20  # metrics, records, what the file system adds
_FACTORS_AND_MOMENTS = 3


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """What a run writes at most, and what there is.

    Attributes:
        needed_bytes: Of the checkpoints kept at once, the one being written, and the session.
        free_bytes: Where the store is.
    """

    needed_bytes: int
    free_bytes: int


def plan(store_root: Path, *, adapter_bytes: int, rows_bytes: int) -> DiskPlan:
    """Return what a run needs on the disk, and what is free there.

    Args:
        store_root: The store's folder, which may be missing.
        adapter_bytes: Of the adapter's factors.
        rows_bytes: Of the rows that the run and its session keep.
    """
    # The two newest whole ones, the best, and the one being written.
    checkpoints = (KEPT + 2) * _FACTORS_AND_MOMENTS * adapter_bytes
    return DiskPlan(
        needed_bytes=checkpoints + adapter_bytes + 2 * rows_bytes + _SLACK_BYTES,
        free_bytes=free_bytes(store_root),
    )


def check(disk: DiskPlan, store_root: Path) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        DiskError: What it needs, what there is, and what to do.
    """
    if disk.needed_bytes > disk.free_bytes:
        raise DiskError(
            f"{store_root}: a run needs up to {disk.needed_bytes / 1e9:.2f} GB on the disk and "
            f"{disk.free_bytes / 1e9:.2f} GB are free; free some (`mlx-tune gc` deletes what old "
            "runs left), lower --rank, or name another store with --store"
        )


def free_bytes(store_root: Path) -> int:
    """Return the free space where a store is, or will be."""
    return shutil.disk_usage(existing(store_root)).free


def existing(path: Path) -> Path:
    """Return a path's nearest folder that exists."""
    whole = path.resolve()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())
