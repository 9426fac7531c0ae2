"""Removal, second half: what is marked moves to the trash, and old trash goes.

Nothing moves while anything in the store is damaged, and nothing is deleted that has not lain in
the trash for thirty days, but for checkpoints of runs that became sessions and unfinished writes.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage import head, labels
from mlx_tune.lineage.atomic import disk_errors, make_folder
from mlx_tune.lineage.flush import sync_folder
from mlx_tune.lineage.runs import CHECKPOINTS, DONE, runs
from mlx_tune.lineage.store import Store
from mlx_tune.lineage.verify import verify

TRASH = "trash"
KEPT_DAYS = 30
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)-.+")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection did, or would do; paths are within the store.

    Attributes:
        moved: Sessions that went to the trash, by folder name.
        deleted: Trash older than thirty days, checkpoints of runs that became sessions, unfinished
            writes.
        freed_bytes: Of what was deleted.
    """

    moved: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int


def collect(store: Store, *, today: date, dry_run: bool = False) -> Collected:
    """Move marked sessions to the trash, and delete what may go.

    Args:
        store: The store.
        today: What the trash is dated by, and measured against.
        dry_run: Only say what would be done.

    Raises:
        DamagedStoreError: Something in the store is damaged; nothing was moved.
        LockedError: A training is going on, or another process is writing.
        DiskError: The disk is read-only or failing; what was not moved is where it was.
    """
    with store.training("gc"), store.locked("gc"):
        _need_whole(store)
        marked = _marked(store)
        old = _deletable(store, today)
        freed_bytes = sum(map(_size_bytes, old))
        if not dry_run:
            for path in marked:
                _to_trash(store, path, today)
            for path in old:
                _delete(path)
            _drop_stale_marks(store)
    return Collected(
        moved=tuple(path.name for path in marked),
        deleted=tuple(str(path.relative_to(store.root)) for path in old),
        freed_bytes=freed_bytes,
    )


def _need_whole(store: Store) -> None:
    """Refuse while anything is damaged: what looks unneeded may be the only good copy."""
    found = verify(store)
    problems = [*found.problems]
    if head.exists(store.root) and head.read(store.root) is None:
        problems.append(f"{store.root / head.HEAD} is garbage; `mlx-tune rollback --to` a session")
    if problems:
        raise DamagedStoreError(
            f"gc moved nothing, for something is damaged: {'; '.join(problems)}"
        )


def _marked(store: Store) -> list[Path]:
    """Return the folders to move, children before their parents.

    A mark does not suffice: without locks, somebody may have trained on the session meanwhile.
    """
    marks = set(labels.read(store.root / labels.REMOVED).values())
    tagged = set(labels.read(store.root / labels.TAGS).values())
    sessions = store.sessions()
    in_use = store.head()
    roots = [s for s in sessions if s.id not in marks or s.id in tagged or s == in_use]
    needed = {member.id for root in roots for member in store.chain(root)}
    # By number, and a child's is greater than its parent's.
    return [session.path for session in reversed(sessions) if session.id not in needed]


def _deletable(store: Store, today: date) -> list[Path]:
    scratch, trash = store.root / ".tmp", store.root / TRASH
    litter = sorted(scratch.iterdir()) if scratch.is_dir() else []
    dated = sorted(trash.iterdir()) if trash.is_dir() else []
    ended = [r.path / CHECKPOINTS for r in runs(store.root) if r.record.get("phase") == DONE]
    return [
        *(path for path in dated if _is_old(path, today)),
        *(path for path in ended if path.is_dir()),
        *litter,
    ]


def _is_old(path: Path, today: date) -> bool:
    match = _DATED.fullmatch(path.name)
    try:
        return match is not None and date.fromisoformat(match[1]) <= today - timedelta(KEPT_DAYS)
    except ValueError:  # the 31st of February: not a name of ours, so not ours to delete
        return False


def _to_trash(store: Store, path: Path, today: date) -> None:
    with disk_errors("move", path, "it is in its place or whole in the trash"):
        make_folder(store.root / TRASH)
        path.rename(_free(store.root / TRASH / f"{today.isoformat()}-{path.name}"))
        # The new name first: between the two flushes the session has both names, never none.
        sync_folder(store.root / TRASH)
        sync_folder(path.parent)
    labels.drop(store.root / labels.REMOVED, path.name)


def _free(path: Path) -> Path:
    """Return a name nothing has: one session may be trained, removed and trained again."""
    count = 1
    while path.exists():
        count += 1
        path = path.with_name(f"{path.name.removesuffix(f'~{count - 1}')}~{count}")
    return path


def _delete(path: Path) -> None:
    with disk_errors("delete", path, "nothing else was touched"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _drop_stale_marks(store: Store) -> None:
    """Take away marks whose session has left: a collection that was killed leaves them."""
    here = {session.id for session in store.sessions()}
    for name, identity in labels.read(store.root / labels.REMOVED).items():
        if identity not in here:
            labels.drop(store.root / labels.REMOVED, name)


def _size_bytes(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
