"""What a store must show, kept in memory: its sessions, HEAD, labels, trash and runs."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from helpers.stores import adapter_files, names
from mlx_tune.files.records import to_json
from mlx_tune.files.sealed import manifest, open_sealed, sha256
from mlx_tune.store import snapshot
from mlx_tune.store.session import folder_name, read_session
from mlx_tune.store.store import SessionStore


class ExpectedSession(NamedTuple):
    """A session as it was announced."""

    id: str
    number: int
    name: str
    parent: str | None
    verdict: str
    created: str

    @property
    def folder(self) -> str:
        return folder_name(self.number, self.name, self.id)

    @property
    def record(self) -> dict[str, str]:
        return {"verdict": self.verdict, "created": self.created}

    @property
    def files(self) -> dict[str, bytes]:
        return adapter_files(self.name)


def expected_session(
    name: str, parent: ExpectedSession | None, verdict: str, created: str
) -> ExpectedSession:
    """Return a session as it will be, id and all, before it is committed."""
    number = parent.number + 1 if parent else 1
    made = ExpectedSession("", number, name, parent.id if parent else None, verdict, created)
    own = {"schema": 1, "number": number, "name": name, "parent": made.parent}
    text = to_json({**made.record, **own}, Path("session.json"))
    identity = sha256(manifest({**made.files, "session.json": text}))
    return made._replace(id=identity)


class ExpectedRun(NamedTuple):
    """A run: what it stands on, how far it is, and the steps of its checkpoints."""

    parent: str | None
    phase: str
    steps: tuple[int, ...]


@dataclass
class Model:
    """What the disk must show; the rest follows from it."""

    sessions: dict[str, ExpectedSession] = field(default_factory=dict)
    head_text: str | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    trash: dict[str, str] = field(default_factory=dict)
    runs: dict[str, ExpectedRun] = field(default_factory=dict)
    format: dict[str, object] | None = None

    @property
    def marked(self) -> set[str]:
        return set(self.marks.values())

    @property
    def is_lost(self) -> bool:
        """Whether HEAD is missing or garbled, though there is something."""
        if self.head_text is None:
            return bool(self.sessions or self.log)
        return re.fullmatch("base|[0-9a-f]{64}", self.head_text) is None

    @property
    def head(self) -> str:
        """The id in use, or `base`, found again where HEAD is lost; it may be missing."""
        if not self.is_lost:
            return self.head_text or "base"
        if logged := [new for _, new in self.log if new not in self.marked]:
            here = [new for new in logged if new in self.sessions or new == "base"]
            if here and (here[-1] != "base" or logged[-1] == "base"):
                return here[-1]
            return logged[-1]
        promoted = [s for s in self.sessions.values() if s.verdict == "promote"]
        kept = [s for s in promoted if s.id not in self.marked]
        return max(kept, key=lambda s: s.created).id if kept else "base"

    def chain(self, identity: str) -> set[str]:
        found = set()
        word: str | None = identity
        while word:
            found.add(word)
            word = self.sessions[word].parent
        return found

    def in_order(self) -> list[ExpectedSession]:
        return sorted(self.sessions.values(), key=lambda s: (s.number, s.id))

    def standing_on(self, identity: str) -> bool:
        """Say whether anything needs a session."""
        return (
            self.head == identity
            or identity in self.tags.values()
            or any(s.parent == identity and s.id not in self.marked for s in self.sessions.values())
            or identity in self.parents_of_unfinished()
        )

    def parents_of_unfinished(self) -> set[str | None]:
        return {run.parent for run in self.runs.values() if run.phase not in ("done", "failed")}


def read_model(root: Path) -> Model:
    """Return what a disk shows."""
    format_file, head_file = root / "format.json", root / "HEAD"
    return Model(
        sessions={s.id: s for s in map(read_announced, folders(root / "sessions"))},
        head_text=head_file.read_text().removesuffix("\n") if head_file.exists() else None,
        log=[(move.old, move.new) for move in snapshot.head_moves(root)],
        tags=label_texts(root / "tags"),
        marks=label_texts(root / "removed"),
        trash={path.name: open_sealed(path).id for path in folders(root / "trash")},
        runs={path.name: read_run(path) for path in folders(root / "runs")},
        format=json.loads(format_file.read_bytes()) if format_file.exists() else None,
    )


def folders(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def label_texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text().strip() for p in folders(folder) if not p.name.startswith(".")}


def read_announced(path: Path) -> ExpectedSession:
    session = read_session(path)
    session.verify()
    record = session.record
    return ExpectedSession(
        session.id,
        session.number,
        session.name,
        session.parent,
        record["verdict"],
        record["created"],
    )


def read_run(path: Path) -> ExpectedRun:
    record = json.loads((path / "run.json").read_bytes())
    steps = sorted(int(name.removeprefix("step-")) for name in names(path / "checkpoints"))
    return ExpectedRun(record["parent"], record["phase"], tuple(steps))


Effect = Callable[[Model], object]


class Plan(NamedTuple):
    """An operation: what it does to a store, what it is refused with, and what follows from it."""

    act: Callable[[SessionStore], object]
    effects: list[Effect]
    error: type[Exception] | None = None


class ProcessDied(BaseException):
    """Raised by every change that a dead process does not make any more."""


@contextmanager
def dying_at(moment: int) -> Iterator[None]:
    """Let the process be dead from a certain change to the disk on; a write dies half way."""
    left = [moment]

    def wrapped(real, is_change):
        def call(*args, **kwargs):
            if is_change(*args):
                left[0] -= 1
                if left[0] == 0 and real is os_write:
                    real(args[0], args[1][: len(args[1]) // 2])
                if left[0] <= 0:
                    raise ProcessDied
            return real(*args, **kwargs)

        return call

    os_write = os.write
    with ExitStack() as stack:
        for name in ("write", "mkdir", "rename", "replace", "unlink", "rmdir", "symlink", "link"):
            call = wrapped(getattr(os, name), lambda *_: True)
            stack.enter_context(mock.patch.object(os, name, call))
        opened = wrapped(os.open, lambda _path, flags, *_: bool(flags & os.O_CREAT))
        stack.enter_context(mock.patch.object(os, "open", opened))
        yield


def drop_if_gone(model: Model, name: str) -> None:
    if model.marks.get(name) not in model.sessions:
        model.marks.pop(name, None)
