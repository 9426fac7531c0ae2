"""Collects the trash of a store, and says how each session comes back from it."""

import shlex
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from mlx_tune.lineage import collect as lineage
from mlx_tune.lineage.collect import TRASH, Collected
from mlx_tune.lineage.shelf import SESSIONS
from mlx_tune.workflows.existing import open_existing


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a collection did, or would do.

    Attributes:
        done: What moved and what was deleted.
        way_back: For each session that moved, the command that undoes it; none of a dry run.
        notes: What a person should be told, such as that HEAD had to be rebuilt.
    """

    done: Collected
    way_back: tuple[str, ...]
    notes: tuple[str, ...]


def collect(store_root: Path, *, dry_run: bool) -> Collection:
    """Move marked sessions to the trash, and delete what may go.

    Raises:
        UsageError: There is no store; nothing was created.
        DamagedStoreError: Something in the store is damaged; nothing was moved.
        LockedError: A training is going on, or another process is writing.
        DiskError: The disk is read-only or failing.
    """
    today = datetime.now(UTC).date()
    store = open_existing(store_root)
    done = lineage.collect(store, today=today, dry_run=dry_run)
    moved = () if dry_run else done.moved
    return Collection(
        done=done,
        way_back=tuple(_way_back(store_root, name, today) for name in moved),
        notes=tuple(store.notes),
    )


def _way_back(root: Path, name: str, today: date) -> str:
    stem = f"{today.isoformat()}-{name}"
    # The same session may have been removed, trained again and removed again on one day.
    newest = max((root / TRASH).glob(f"{stem}*"), key=lambda path: (len(path.name), path.name))
    return shlex.join(["mv", str(newest), str(root / SESSIONS / name)])
