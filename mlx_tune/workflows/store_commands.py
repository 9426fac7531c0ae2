"""The commands on a store that load no model: promote, roll back, collect, verify."""

import shlex
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, MlxTuneError, UsageError
from mlx_tune.models import bases
from mlx_tune.models.bases import Say
from mlx_tune.settings import typed
from mlx_tune.store import gc as store_gc
from mlx_tune.store import verify as store_verify
from mlx_tune.store.gc import TRASH, Collected
from mlx_tune.store.session import PROMOTE, Session
from mlx_tune.store.snapshot import SESSIONS, StoreSnapshot, read_store
from mlx_tune.store.store import SessionStore, open_store
from mlx_tune.store.verify import Findings


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A session that was put in use.

    Attributes:
        session: Where HEAD is.
        before: Where it was; None on the bare base.
        verdict: The gate's, when it was committed.
        reasons: Why, one line each.
        left: The sessions of the old chain that are not in the new one, root first.
        notes: Warnings, such as that HEAD had to be rebuilt.
    """

    session: Session
    before: Session | None
    verdict: str
    reasons: tuple[str, ...]
    left: tuple[Session, ...]
    notes: tuple[str, ...]

    @property
    def is_overruled(self) -> bool:
        """Tell whether the gate's verdict was another."""
        return self.verdict != PROMOTE


def promote(store_root: Path, ref: str) -> Promotion:
    """Move HEAD to a session, once every byte of its chain that is new to HEAD is checked.

    No session changes: its record keeps the gate's verdict, HEAD.log says that it was overruled.

    Args:
        store_root: The store's folder.
        ref: The session.

    Raises:
        UsageError: There is no such session, it is marked as removed, or HEAD is there
            already.
        DamagedStoreError: HEAD is damaged, or a session of the chain is.
        LockedError: Another process is writing, or has moved HEAD meanwhile.
        DiskError: The disk is full, read-only or failing; the message says where HEAD is.
    """
    writer = open_store(store_root)
    store = writer.snapshot()
    session = store.find(ref)
    if session is None:
        raise UsageError(
            "the base model is no session to promote; "
            f"`{typed('rollback --to base', store_root)}` puts it in use"
        )
    before = store.head()
    if session == before:
        raise UsageError(f"{session.folder_name} is HEAD already; there is nothing to promote")
    old_chain, chain = store.chain(before), store.chain(session)
    for member in chain:
        if member not in old_chain:
            member.verify()
    gate = session.record.get("gate") or {}
    verdict = session.record.get("verdict") or PROMOTE  # without one it is older than verdicts are
    over = "" if verdict == PROMOTE else f", though the gate said {verdict}"
    writer.move_head(session, expected=before, why=f"promote {session.name}{over}")
    return Promotion(
        session=session,
        before=before,
        verdict=verdict,
        reasons=tuple(gate.get("reasons", ())),
        left=tuple(one for one in old_chain if one not in chain),
        notes=store.notes,
    )


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """HEAD before and after; None is the bare base.

    Attributes:
        before: Where it was, None also where that session is damaged.
        after: Where it is.
        was_damaged: True where HEAD named a damaged session.
        notes: Warnings, such as that HEAD had to be rebuilt.
    """

    before: Session | None
    after: Session | None
    was_damaged: bool = False
    notes: tuple[str, ...] = ()


def rollback(store_root: Path, to: str | None) -> Rollback:
    """Move HEAD to its parent, or to a named session.

    Args:
        store_root: The store's folder.
        to: A session, ``base``, or None for one step.

    Raises:
        UsageError: There is no such session, or HEAD is the base already.
        DamagedStoreError: There is no store.
    """
    writer, store = SessionStore.open(store_root), read_store(store_root)
    try:
        before = store.head()
    except DamagedStoreError:
        if to is None:  # the message names the session to go back to
            raise
        after = store.find(to)
        writer.leave_damaged_head(after, why="rollback from a damaged session")
        return Rollback(before=None, after=after, was_damaged=True, notes=store.notes)
    if to is not None:
        after = store.find(to)
    elif before is None:
        raise UsageError(
            f"{store_root}: HEAD is the base model already, there is no step further back; "
            f"`{typed('log', store_root)}` shows the sessions, "
            f"`{typed('rollback --to N', store_root)}` takes one up again"
        )
    else:
        chain = store.chain(before)
        after = chain[-2] if len(chain) > 1 else None
    if after != before:
        writer.move_head(after, expected=before, why="rollback")
    return Rollback(before=before, after=after, notes=store.notes)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a collection did, or would do.

    Attributes:
        done: What moved and what was deleted.
        way_back: For each session that moved, the command that undoes it; none of a dry run.
        notes: Warnings, such as that HEAD had to be rebuilt.
    """

    done: Collected
    way_back: tuple[str, ...]
    notes: tuple[str, ...]


def collect(store_root: Path, *, dry_run: bool) -> Collection:
    """Move marked sessions to the trash, and delete what may go.

    Raises:
        DamagedStoreError: There is no store, or something in it is damaged; nothing was moved.
        LockedError: A training is going on, or another process is writing.
        DiskError: The disk is read-only or failing.
    """
    today = datetime.now(UTC).date()
    store = open_store(store_root)
    done = store_gc.collect_garbage(store, today=today, dry_run=dry_run)
    moved = () if dry_run else done.moved
    return Collection(
        done=done,
        way_back=tuple(_undo_command(store_root, name, today) for name in moved),
        notes=store.snapshot().label_notes,
    )


def _undo_command(root: Path, name: str, today: date) -> str:
    stem = f"{today.isoformat()}-{name}"
    # The same session may have been removed, trained again and removed again on one day.
    newest = max((root / TRASH).glob(f"{stem}*"), key=lambda path: (len(path.name), path.name))
    return shlex.join(["mv", str(newest), str(root / SESSIONS / name)])


def verify(store_root: Path, *, deep: bool, say: Say) -> Findings:
    """Read and check everything in a store; nothing in it is changed.

    Args:
        store_root: The store's folder.
        deep: Whether to hash the base model too, which may be gigabytes.
        say: Called, in a line, with what takes long.

    Raises:
        DamagedStoreError: There is no store.
        IncompatibleError: A newer version wrote it.
        DiskError: A file cannot be read.
    """
    store = open_store(store_root).snapshot()
    found = store_verify.verify(store)
    if deep:
        try:
            _check_base(store, found, say)
        except MlxTuneError as error:  # the store was read by now: its findings are not thrown away
            found.problems.append(str(error))
            found.error = found.error or error
    return found


def _check_base(store: StoreSnapshot, found: Findings, say: Say) -> None:
    """Hash the base anew; one that is not on this machine is noted, not fetched."""
    kept = store.base()
    if kept is None:
        return
    if not _is_base_here(kept["name"]):
        local = Path(kept["name"]).is_absolute()
        fix = "put its folder back" if local else f"`mlx-tune base pull {kept['name']}`"
        found.notes.append(f"the base {kept['name']} is not here and was not checked; {fix}")
        return
    from mlx_tune.workflows.workspace import locate_base  # it loads MLX, and nothing above does

    info = locate_base(store, kept["name"], say)
    say(f"hashing the base model {info.name}…")
    bases.verify(info)


def _is_base_here(name: str) -> bool:
    try:
        return bases.is_here(name)
    except UsageError:  # a folder that has gone
        return False
