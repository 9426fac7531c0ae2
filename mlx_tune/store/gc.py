"""Removal, second half: what is marked moves to the trash, and old trash goes.

Nothing moves while anything in the store is damaged, and nothing is deleted that has not lain in
the trash for thirty days, but for checkpoints of runs that became sessions and unfinished writes.
"""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.durable import SCRATCH, discard_folder, disk_errors, make_folder, sync_folder
from mlx_tune.files.sealed import entries
from mlx_tune.settings import typed
from mlx_tune.store import labels
from mlx_tune.store.runs import CHECKPOINTS, DONE, list_runs
from mlx_tune.store.snapshot import BASE, HEAD, StoreSnapshot
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

TRASH = "trash"
KEPT_DAYS = 30
# What a collection calls what it moves; anything else in the trash is not its to delete.
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)-\d{4,}-[a-z0-9-]+-[0-9a-f]{8}(~\d+)?", re.ASCII)
_DRAFT = re.compile("[0-9a-f]{16}")
_STRAY = re.compile(r"\..+\.[0-9a-f]{16}")


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


def collect_garbage(store: SessionStore, *, today: date, dry_run: bool = False) -> Collected:
    """Move marked sessions to the trash, and delete what may go.

    Args:
        store: The store.
        today: What the trash is dated by, and measured against.
        dry_run: Only say what would be done.

    Raises:
        DamagedStoreError: Something in the store is damaged, or HEAD is lost; nothing was moved.
        LockedError: A training is going on, or another process is writing.
        DiskError: The disk is read-only or failing; what was not moved is where it was.
    """
    with store.training("gc"), store.locked("gc"):
        # While anything is damaged, what looks unneeded may be the only good copy.
        now = store.snapshot()
        problems = [*verify(now).problems]
        if now.is_head_lost:
            problems.append(
                f"{store.root / HEAD} is missing or holds no session's id; "
                f"put the one in use back with `{typed('rollback --to SESSION', store.root)}`"
            )
        if problems:
            raise DamagedStoreError(
                f"gc moved nothing, for something is damaged: {'; '.join(problems)}"
            )
        # Read again: a check takes long, and without locks HEAD may have moved meanwhile.
        marked, scratch = _marked(store.snapshot()), store.root / SCRATCH
        with disk_errors("read", store.root, safe="reading changes nothing"):
            old = _deletable(store.root, today)
            freed_bytes = sum(map(_size_bytes, old))
        if not dry_run:
            for path in marked:
                _to_trash(store.root, path, today)
            for path in old:
                # It leaves its place first: without locks, a draft may become a session meanwhile.
                discard_folder(path, scratch=scratch, safe="nothing else was touched")
            left = store.snapshot().sessions
            for name, identity in labels.read_labels(store.root / labels.REMOVED).items():
                if identity not in left:  # a collection that was killed leaves such marks
                    labels.drop_label(store.root / labels.REMOVED, name)
    return Collected(
        moved=tuple(path.name for path in marked),
        deleted=tuple(str(path.relative_to(store.root)) for path in old),
        freed_bytes=freed_bytes,
    )


def _marked(store: StoreSnapshot) -> list[Path]:
    """Return the folders to move, children before their parents.

    A mark does not suffice: without locks, somebody may have trained on the session meanwhile.
    """
    in_use = store.head()
    unfinished = [run.record.get("parent") for run in list_runs(store.root) if run.is_unfinished]
    named = {in_use.id if in_use else BASE, *map(str, unfinished), *store.tags.values()}
    needed: set[str] = set()
    for session in store.sessions.values():
        if not store.is_removed(session) or session.id in named:
            needed.update(member.id for member in store.ancestors(session))
    # By number, and a child's is greater than its parent's.
    return [s.path for s in reversed(list(store.sessions.values())) if s.id not in needed]


def _deletable(root: Path, today: date) -> list[Path]:
    scratch = root / SCRATCH
    drafts = [] if scratch.is_symlink() else entries(scratch)  # a link may lead to a person's files
    runs = list_runs(root)
    ended = [run.path / CHECKPOINTS for run in runs if run.record.get("phase") == DONE]
    # What killed writers left beside the files they meant to replace.
    folders = [root, root / labels.TAGS, root / labels.REMOVED, *(run.path for run in runs)]
    beside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return [
        *(path for path in entries(root / TRASH) if _is_old(path, today)),
        *(path for path in ended if path.is_dir()),
        *(path for path in drafts if _DRAFT.fullmatch(path.name)),
        *sorted(path for path in beside if _STRAY.fullmatch(path.name)),
    ]


def _is_old(path: Path, today: date) -> bool:
    match = _DATED.fullmatch(path.name)
    try:
        return match is not None and date.fromisoformat(match[1]) <= today - timedelta(KEPT_DAYS)
    except ValueError:  # the 31st of February: not a name of ours, so not ours to delete
        return False


def _to_trash(root: Path, path: Path, today: date) -> None:
    with disk_errors("move", path, "it is in its place or whole in the trash"):
        make_folder(root / TRASH)
        # One session may be trained, removed and trained again, so the name may be taken.
        name, count = f"{today.isoformat()}-{path.name}", 1
        target = root / TRASH / name
        while target.exists():
            count += 1
            target = root / TRASH / f"{name}~{count}"
        path.rename(target)
        # The new name first: between the two flushes the session has both names, never none.
        sync_folder(root / TRASH)
        sync_folder(path.parent)
    labels.drop_label(root / labels.REMOVED, path.name)


def _size_bytes(path: Path) -> int:
    """Return how many bytes of files lie there, none where it has gone meanwhile."""
    size_bytes = 0
    for inner in [path, *([] if path.is_symlink() else path.rglob("*"))]:
        with suppress(FileNotFoundError):
            status = inner.lstat()
            size_bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size_bytes
