"""Runs: attempts that may become sessions, with the checkpoints to resume from.

A checkpoint is a sealed folder named by its step; a run keeps the two newest whole ones
and the best.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, IncompatibleError, UsageError
from mlx_tune.files.durable import (
    SCRATCH,
    UNTOUCHED,
    append_line,
    discard_folder,
    disk_errors,
    replace_file,
    sync_file,
    sync_folder,
    write_folder,
)
from mlx_tune.files.records import from_json, refuse_taken, to_json, to_line
from mlx_tune.files.sealed import (
    MANIFEST,
    Sealed,
    entries,
    open_sealed,
    read_regular,
    seal,
    sha256,
)
from mlx_tune.store.session import check_name

KEPT_CHECKPOINTS = 2  # the second stands by in case the newest is damaged
_NAME = re.compile("step-([0-9]{6,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Sealed):
    """All that an exact resume needs, as files.

    Attributes:
        step: Optimizer updates done, counted from 1.
    """

    step: int


def save_checkpoint(
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


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose every byte is right, and why newer ones were skipped."""
    skipped: list[str] = []
    for path in _paths(folder):
        try:
            return _open_whole(path), skipped
        except DamagedStoreError as error:
            skipped.append(f"checkpoint skipped: {error}")
    return None, skipped


def checkpoint_at(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a step, every byte checked.

    Raises:
        DamagedStoreError: It is missing or damaged.
    """
    return _open_whole(folder / f"step-{step:06d}")


def _discard_old(folder: Path, saved: Path, scratch: Path, best: int | None) -> None:
    whole = 1  # the one just saved was read back
    kept = {saved.name, f"step-{best or 0:06d}"}
    for path in _paths(folder):
        if whole < KEPT_CHECKPOINTS:
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


RUNS = "runs"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SCHEMA = 1

TRAIN, SCORE, GATE, COMMIT = "train", "score", "gate", "commit"
"""Phases of a run that can be gone on with."""
DONE, FAILED = "done", "failed"
"""Phases in which there is nothing left to do."""

_OWN = ("schema", "name", "created")


class Run:
    """An attempt at a session: a folder with run.json, metrics.jsonl and checkpoints/.

    Attributes:
        path: The folder, ``runs/<time>-<name>`` in the store.
        record: run.json, parsed; ``set`` changes it.
        notes: Warnings, one line each, such as a damaged checkpoint that was skipped.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
        self.record = dict(record)
        self.notes: list[str] = []

    @classmethod
    def create(
        cls, store_root: Path, *, name: str, record: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> Run:
        """Start a run; its folder appears whole.

        Args:
            store_root: The store's folder; made when missing.
            name: What the session will be called.
            record: What run.json holds besides schema, name and time: settings, parent, phase.
            files: Further files, such as ``rows.jsonl``.

        Raises:
            UsageError: A name that is not allowed, or a key or file that is the run's to write.
            DiskError: The disk is full, read-only or failing.
        """
        check_name(name)
        refuse_taken("the record of a run", record, _OWN)
        refuse_taken("the files of a run", files, (RUN_FILE, METRICS_FILE))
        now = datetime.now(UTC)
        whole = {**record, "schema": SCHEMA, "name": name, "created": now.isoformat()}
        contents = {**files, RUN_FILE: to_json(whole, Path(RUN_FILE))}
        stem = f"{now:%Y-%m-%dT%H-%M-%S}-{name}"
        for count in itertools.count(1):
            path = store_root / RUNS / (stem if count == 1 else f"{stem}-{count}")
            try:
                write_folder(path, contents, scratch=store_root / SCRATCH)
                break
            except FileExistsError:
                continue
        return cls(path, whole)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Return the run in a folder.

        Raises:
            UsageError: There is no such folder.
            DamagedStoreError: run.json is missing or not what was written.
            IncompatibleError: A newer version of mlx-tune wrote it.
        """
        with disk_errors("read", path, safe="reading changes nothing"):
            if not path.is_dir():
                raise UsageError(f"{path}: no such run; `mlx-tune resume` goes on with the newest")
        place = path / RUN_FILE
        record = from_json(read_regular(place), place)
        _check_record(record, place)
        return cls(path, record)

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something to resume."""
        return self.record.get("phase") not in (DONE, FAILED)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file given to ``create``.

        Raises:
            DamagedStoreError: There is no such regular file.
        """
        return read_regular(self.path / name)

    def set(self, *, safe: str = UNTOUCHED, **values: Any) -> None:
        """Change keys of run.json, durably.

        Args:
            safe: What a failure leaves as it was, for the error's text.
            values: By key.

        Raises:
            UsageError: A key that is the run's to write, or a value that JSON cannot hold.
            DiskError: The disk is full, read-only or failing; run.json is as it was.
        """
        refuse_taken("the record of a run", values, _OWN)
        record = {**self.record, **values}
        replace_file(self.path / RUN_FILE, to_json(record, self.path / RUN_FILE), safe=safe)
        self.record = record

    def discard(self, *names: str) -> None:
        """Delete files given to ``create``, durably; those that are gone already are passed over.

        Raises:
            DiskError: The disk is read-only or failing.
        """
        with disk_errors("delete from", self.path):
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl.

        It outlives the process at once, and a power cut from the next checkpoint on: a flush to
        the disk at every step would slow training.

        Raises:
            UsageError: A NaN, an infinity, or a value that JSON cannot hold.
            DiskError: The disk is full, read-only or failing.
        """
        place = self.path / METRICS_FILE
        append_line(place, to_line(values, place), durable=False)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; one left torn by a power cut is skipped and noted."""
        place = self.path / METRICS_FILE
        if not place.exists():
            return []
        rows = []
        for number, line in enumerate(read_regular(place).splitlines(), start=1):
            try:
                rows.append(from_json(line, f"{place}:{number}"))
            except DamagedStoreError:
                self._note(f"{place}:{number}: torn line skipped")
        return rows

    def save_checkpoint(
        self, step: int, files: Mapping[str, bytes], *, best: int | None = None
    ) -> Checkpoint:
        """Write a checkpoint, and the metrics up to it, then delete older ones.

        Args:
            step: Optimizer updates done.
            files: What an exact resume needs.
            best: The step of a checkpoint that is kept besides the two newest whole ones.

        Raises:
            UsageError: The step is below 1, or a file's name is not a plain one.
            DiskError: The disk is full, read-only or failing; the last checkpoint is kept.
        """
        metrics = self.path / METRICS_FILE
        with disk_errors("write", metrics):
            if metrics.exists():
                sync_file(metrics)
                sync_folder(self.path)
        scratch = self.path.parent.parent / SCRATCH
        return save_checkpoint(self.path / CHECKPOINTS, step, files, scratch=scratch, best=best)

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, every byte checked.

        Raises:
            DamagedStoreError: It is missing or damaged.
        """
        return checkpoint_at(self.path / CHECKPOINTS, step)

    def newest_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint whose every byte is right, or None.

        ``notes`` says which newer ones were skipped, and why.
        """
        checkpoint, skipped = newest_checkpoint(self.path / CHECKPOINTS)
        for line in skipped:
            self._note(line)
        return checkpoint

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def list_runs(store_root: Path, *, notes: list[str] | None = None) -> list[Run]:
    """Return the runs of a store, oldest first.

    Args:
        store_root: The store's folder, which may be missing.
        notes: Takes a line for every run that is damaged and left out.

    Raises:
        IncompatibleError: A newer version of mlx-tune wrote one of them.
        DiskError: They cannot be read.
    """
    found: list[Run] = []
    for path in entries(store_root / RUNS):
        with disk_errors("read", path, safe="reading changes nothing"):
            if not path.is_dir():
                continue
        try:
            found.append(Run.open(path))
        except DamagedStoreError as error:
            if notes is not None:
                notes.append(f"run skipped: {error}")
    return sorted(found, key=lambda run: (run.record["created"], run.path.name))


def _check_record(record: Mapping[str, Any], place: Path) -> None:
    schema = record.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise IncompatibleError(
            f"{place}: schema {schema} is newer than {SCHEMA}, which this version reads; "
            "upgrade mlx-tune"
        )
    if schema != SCHEMA or not all(isinstance(record.get(key), str) for key in ("name", "created")):
        raise DamagedStoreError(
            f'{place}: "schema", "name" or "created" missing or malformed; run `mlx-tune doctor`'
        )
