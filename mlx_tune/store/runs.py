"""Runs, which may become sessions, and evaluations, what sessions were found to know.

A run keeps checkpoints to resume from: sealed folders named by their step, the two newest whole
ones and the best. An evaluation is one file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from mlx_tune.errors import DamagedStoreError, IncompatibleError, UsageError
from mlx_tune.files.durable import (
    SCRATCH,
    UNTOUCHED,
    append_line,
    discard_folder,
    disk_errors,
    make_folder,
    replace_file,
    sync_file,
    sync_folder,
    write_folder,
)
from mlx_tune.files.records import from_json, refuse_taken, to_json, to_line
from mlx_tune.files.sealed import MANIFEST, Sealed, entries, open_sealed, read_regular, seal, sha256
from mlx_tune.settings import typed
from mlx_tune.store.session import check_name, refuse_newer

KEPT_CHECKPOINTS = 2  # the second stands by in case the newest is damaged
_NAME = re.compile("step-([0-9]{6,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Sealed):
    """All that an exact resume needs, as files.

    Attributes:
        step: Optimizer updates done, counted from 1.
    """

    step: int


RUNS = "runs"
EVALS = "evals"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SCHEMA = 1  # of run.json, and of an evaluation

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
                newest = typed("resume", path.parents[1])
                raise UsageError(f"{path}: no such run; `{newest}` goes on with the newest")
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

        The very same one, which a signal right after an epoch's end asks for, is left as it is.

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
        if step < 1:
            raise UsageError(f"checkpoint of step {step}: steps count from 1")
        scratch, path = self.path.parent.parent / SCRATCH, self._checkpoint_path(step)
        sealed = seal(files)
        if _is_whole(path, sha256(sealed[MANIFEST])):
            with disk_errors("write", path):
                sync_folder(path.parent)  # the attempt that wrote it may have failed at its flush
        else:  # one that is there was skipped as damaged by a resume, which took an older one
            write_folder(path, sealed, scratch=scratch, replace=True)
        whole = 1  # the one just saved is read back below
        kept = {path.name, self._checkpoint_path(best or 0).name}
        for older in self._checkpoint_paths():
            if whole < KEPT_CHECKPOINTS:
                whole += older != path and _is_whole(older)
            elif older.name not in kept:
                discard_folder(older, scratch=scratch, safe="the new checkpoint is saved")
        return _open(path)

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, every byte checked.

        Raises:
            DamagedStoreError: It is missing or damaged.
        """
        return _open_whole(self._checkpoint_path(step))

    def newest_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint whose every byte is right, or None.

        ``notes`` says which newer ones were skipped, and why.
        """
        for path in self._checkpoint_paths():
            try:
                return _open_whole(path)
            except DamagedStoreError as error:
                self._note(f"checkpoint skipped: {error}")
        return None

    def _checkpoint_path(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:06d}"

    def _checkpoint_paths(self) -> list[Path]:
        """Return the folders of checkpoints, newest first."""
        found = [(_NAME.fullmatch(path.name), path) for path in entries(self.path / CHECKPOINTS)]
        steps = [(int(match[1]), path) for match, path in found if match]
        return [path for _, path in sorted(steps, reverse=True)]

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def discard_run(store_root: Path, name: str) -> None:
    """Delete the folder of a run that became no session; its record may be damaged.

    Args:
        store_root: The store's folder.
        name: The folder's name, or a path that ends with it.

    Raises:
        UsageError: There is no such run, or it became a session.
        DiskError: The disk is read-only or failing.
    """
    paths = {path.name: path for path in entries(store_root / RUNS)}
    if (path := paths.get(Path(name).name)) is None:
        raise UsageError(f"{name}: no run of that name; there are: {', '.join(paths) or 'none'}")
    with suppress(DamagedStoreError, IncompatibleError):  # what cannot be read can be given up
        if Run.open(path).record.get("phase") == DONE:
            raise UsageError(
                f"{path.name} became a session, so it is kept; `{typed('gc', store_root)}` deletes "
                "its checkpoints"
            )
    discard_folder(
        path, scratch=store_root / SCRATCH, safe="HEAD and the sessions are as they were"
    )
    with disk_errors("delete from", path.parent, safe="the run is gone, a power cut may undo it"):
        sync_folder(path.parent)


def list_runs(store_root: Path, *, notes: list[str] | None = None) -> list[Run]:
    """Return the runs of a store, oldest first.

    Args:
        store_root: The store's folder, which may be missing.
        notes: Takes a line for every run that is damaged and left out.

    Raises:
        IncompatibleError: A newer version of mlx-tune wrote one of them.
        DiskError: They cannot be read.
    """
    found = []
    for path in entries(store_root / RUNS):
        with disk_errors("read", path, safe="reading changes nothing"):
            if not path.is_dir():
                continue
        try:
            found.append(Run.open(path))
        except DamagedStoreError as error:
            if notes is not None:
                notes.append(
                    f"run skipped: {error}; put it back, or give the run up with `{give_up(path)}`"
                )
    return sorted(found, key=lambda run: (run.record["created"], run.path.name))


def give_up(path: Path) -> str:
    """Return the command that deletes the run in a folder."""
    return typed(f"resume --discard {quote(path.name)}", path.parents[1])


def _check_record(record: Mapping[str, Any], place: Path) -> None:
    refuse_newer(record, SCHEMA, place)
    texts = (record.get("name"), record.get("created"))
    if record.get("schema") != SCHEMA or not all(isinstance(text, str) for text in texts):
        raise DamagedStoreError(
            f'{place}: "schema", "name" or "created" missing or malformed; run `mlx-tune doctor`'
        )


def _open(path: Path) -> Checkpoint:
    return Checkpoint(**vars(open_sealed(path)), step=int(path.name.removeprefix("step-")))


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


def write_evaluation(store_root: Path, record: Mapping[str, Any], *, who: str) -> Path:
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
    refuse_taken("the record of an evaluation", record, ("schema", "created"))
    now = datetime.now(UTC)
    folder, stem = store_root / EVALS, f"{now:%Y-%m-%dT%H-%M-%S}-{who}"
    names = (stem if count == 1 else f"{stem}-{count}" for count in itertools.count(1))
    with disk_errors("write", folder):
        make_folder(folder)
        path = next(path for name in names if not (path := folder / f"{name}.json").exists())
    replace_file(path, to_json({**record, "schema": SCHEMA, "created": now.isoformat()}, path))
    return path


def read_evaluations(store_root: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the evaluations of a store by file name, in order of time.

    Args:
        store_root: The store's folder.
        notes: Takes a line for every file that is damaged or newer than this version, and is
            passed over: what it says can be measured again.

    Raises:
        DiskError: The folder or a file cannot be read.
    """
    found = {}
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
