"""Checks a whole store: every byte of every session, HEAD, labels, runs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from mlx_tune.errors import DamagedStoreError, MlxTuneError
from mlx_tune.files.durable import disk_errors
from mlx_tune.files.sealed import MANIFEST
from mlx_tune.store import labels
from mlx_tune.store.runs import list_runs
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import HEAD_LOG, StoreSnapshot, torn_log_lines


@dataclass(kw_only=True)
class Findings:
    """What a check of a store found.

    Attributes:
        sessions: How many are whole, with their chains.
        files: How many of their files were read and hashed, manifests included.
        size_bytes: Of those files.
        problems: What is damaged, one line each.
        notes: What a person should know and need not mend.
        error: The first problem, as it was raised; None without one.
    """

    sessions: int = 0
    files: int = 0
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: MlxTuneError | None = None

    def add(self, error: MlxTuneError) -> None:
        """Keep a problem; one that was found before is listed once."""
        if str(error) not in self.problems:
            self.problems.append(str(error))
        self.error = self.error or error


def verify(store: StoreSnapshot) -> Findings:
    """Read and check every byte of what a snapshot lists; nothing is changed.

    Raises:
        DiskError: A file cannot be read.
    """
    found = Findings()
    for error in store.damaged.values():
        found.add(error)
    sessions = store.sessions.values()
    intact = {session.id for session in sessions if _is_intact(session, found)}
    for session in sessions:
        _count(session, store, intact, found)
    _check_head(store, intact, found)
    _check_labels(store, found)
    _check_runs(store, found)
    return found


def _is_intact(session: Session, found: Findings) -> bool:
    """Check every byte of a session; one that was collected meanwhile is not damaged."""
    try:
        session.verify()
    except DamagedStoreError as error:
        if session.path.exists():
            found.add(error)
        return False
    return True


def _count(session: Session, store: StoreSnapshot, intact: Set[str], found: Findings) -> None:
    """Count a session if all that it was trained on is whole."""
    try:
        chain = store.ancestors(session)
    except DamagedStoreError as error:
        found.add(error)
        return
    if all(member.id in intact for member in chain):
        found.sessions += 1
        names = [*session.hashes, MANIFEST]
        found.files += len(names)
        with disk_errors("read", session.path, safe="reading changes nothing"):
            found.size_bytes += sum((session.path / name).stat().st_size for name in names)


def _check_head(store: StoreSnapshot, intact: Set[str], found: Findings) -> None:
    try:
        chain = store.chain(store.head())
    except DamagedStoreError as error:
        # It says more of what was found before: where to go back to.
        found.problems = [problem for problem in found.problems if problem not in str(error)]
        found.add(error)
    else:
        # One that was collected since it was listed is not damaged: HEAD has left it.
        if any(member.id not in intact and member.path.exists() for member in chain):
            found.problems.append(f"HEAD stands on that; {store.recovery_advice()}")
    found.notes += store.head_notes
    if torn := torn_log_lines(store.root):
        shown = ", ".join(map(str, torn))
        found.notes.append(f"{store.root / HEAD_LOG}: torn lines skipped: {shown}")


def _check_labels(store: StoreSnapshot, found: Findings) -> None:
    for folder in (labels.TAGS, labels.REMOVED):
        for name, identity in labels.read_labels(store.root / folder, found.notes).items():
            if identity not in store.sessions:
                place = store.root / folder / name
                found.notes.append(f"{place}: names {identity[:12]}…, which is not in the store")


def _check_runs(store: StoreSnapshot, found: Findings) -> None:
    """Check the records of runs, and the checkpoints that a resume would begin from.

    A damaged checkpoint is only noted: the one before stands by. A damaged record is a problem,
    for nobody can tell which session that run started from.
    """
    damaged: list[str] = []
    for run in list_runs(store.root, notes=damaged):
        if run.is_unfinished:
            run.newest_checkpoint()
            found.notes += run.notes
    for line in damaged:
        found.add(DamagedStoreError(line))
