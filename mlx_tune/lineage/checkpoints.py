"""Checkpoints: sealed folders named by step; a run keeps the two newest whole, and the best."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.lineage.atomic import discard_folder, disk_errors, write_folder
from mlx_tune.lineage.flush import sync_folder
from mlx_tune.lineage.sealed import MANIFEST, Sealed, entries, open_sealed, seal, sha256

KEPT = 2  # the second stands by in case the newest is damaged
_NAME = re.compile("step-([0-9]{6,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Sealed):
    """All that an exact resume needs, as files.

    Attributes:
        step: Optimizer updates done, counted from 1.
    """

    step: int


def save(
    folder: Path,
    step: int,
    files: Mapping[str, bytes],
    *,
    scratch: Path,
    best: int | None = None,
) -> Checkpoint:
    """Write a checkpoint, then delete all but the two newest whole ones and the best.

    The very same one, which a signal right after an epoch's end asks for, is left as it is.

    Args:
        folder: Of a run's checkpoints.
        step: Optimizer updates done.
        files: What an exact resume needs.
        scratch: Where unfinished folders lie.
        best: The step of one to keep besides.

    Raises:
        UsageError: The step is below 1, or a file's name is not a plain one.
        DiskError: The disk is full, read-only or failing; the last checkpoint is kept.
    """
    if step < 1:
        raise UsageError(f"checkpoint of step {step}: steps count from 1")
    path = folder / f"step-{step:06d}"
    sealed = seal(files)
    if _is_whole(path, sha256(sealed[MANIFEST])):
        with disk_errors("write", path):
            sync_folder(folder)  # the last flush of the attempt that wrote it may have failed
    else:  # one that is there was skipped as damaged by a resume, which went on from an older one
        write_folder(path, sealed, scratch=scratch, replace=True)
    _discard_old(folder, path, scratch, best)
    return _open(path)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose every byte is right, and why newer ones were skipped."""
    skipped: list[str] = []
    for path in _paths(folder):
        try:
            return _open_whole(path), skipped
        except DamagedStoreError as error:
            skipped.append(f"checkpoint skipped: {error}")
    return None, skipped


def at(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a step, every byte checked.

    Raises:
        DamagedStoreError: It is missing or damaged.
    """
    return _open_whole(folder / f"step-{step:06d}")


def _discard_old(folder: Path, saved: Path, scratch: Path, best: int | None) -> None:
    whole = 1  # the one just saved was read back
    kept = {saved.name, f"step-{best or 0:06d}"}
    for path in _paths(folder):
        if whole < KEPT:
            whole += path != saved and _is_whole(path)
        elif path.name not in kept:
            discard_folder(path, scratch=scratch, safe="the new checkpoint is saved")


def _paths(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, newest first."""
    steps = [(int(match[1]), path) for path in entries(folder) if (match := _match(path))]
    return [path for _, path in sorted(steps, reverse=True)]


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name)


def _open(path: Path) -> Checkpoint:
    sealed = open_sealed(path)
    step = int(path.name.removeprefix("step-"))
    return Checkpoint(path=path, id=sealed.id, hashes=sealed.hashes, step=step)


def _open_whole(path: Path) -> Checkpoint:
    checkpoint = _open(path)
    checkpoint.verify()
    return checkpoint


def _is_whole(path: Path, identity: str | None = None) -> bool:
    """Say whether every byte is right, and whether it is the one of an id, if one is given."""
    try:
        return _open_whole(path).id == identity or identity is None
    except DamagedStoreError:
        return False
