"""An operation, a fault and one moment: the case is played in a store of its own and judged."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from helpers.faults import broken, disks, traced
from helpers.faults.broken import ALL
from helpers.faults.state import TIME, State, observe, violations, violations_when_done_again
from helpers.faults.traced import Call, Outcome

DISK_ERROR = "7"
# The calls that change what a disk holds; between two others nothing new can be lost.
_CHANGES = """
    copy_file_range creat fallocate fdatasync fsync ftruncate link linkat mkdir mkdirat pwrite64
    pwritev rename renameat renameat2 rmdir sendfile symlink symlinkat truncate unlink unlinkat
    write"""
CHANGES = frozenset(_CHANGES.split())
_FOLDER = re.compile("/[^ ]*/(?=store)")  # where a case's store happened to lie


@dataclass(frozen=True, kw_only=True)
class Study:
    """What an operation does when nothing fails.

    Attributes:
        before: The store it starts from.
        after: The store it makes.
        saved: What it announces.
        calls: Its system calls.
    """

    before: State
    after: State
    saved: str
    calls: list[Call]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a case: the calls that were struck, and what was broken."""

    place: str
    struck: list[Call]
    violations: list[str]


def work_in(folder: Path) -> None:
    """Make this process a worker: its templates, stores and disks lie in a folder of its own."""
    tempfile.tempdir = tempfile.mkdtemp(dir=folder)


def work_with_disks_in(folder: Path) -> None:
    """Make this process a worker that mounts disks, which end with it."""
    work_in(folder)
    disks.leave_the_mounts_of_others_alone()


@cache
def template(operation: str) -> Path:
    """Return a folder with ``store`` in it as the operation finds it; ``store`` may be missing."""
    parent = Path(tempfile.mkdtemp())
    ALL[operation].prepare(parent / "store")
    return parent


@cache
def disk(operation: str, kind: str) -> Path:
    """Return an image of a disk that holds the template, flushed."""
    image, place = Path(tempfile.mkdtemp()) / "template.img", Path(tempfile.mkdtemp())
    disks.make(kind, image)
    with disks.mounted(kind, image, place):
        shutil.copytree(template(operation), place / "case", symlinks=True)
    return image


@cache
def study(operation: str) -> Study:
    """Do the operation with nothing failing."""
    act = ALL[operation].act
    with copied(operation) as root:
        act(root)  # whatever Python imports late is imported now, not in the children
    with copied(operation) as root:
        before = observe(root)
        outcome = traced.run(partial(act, root))
        saved = outcome.said["saved"]
        return Study(before=before, after=observe(root), saved=saved, calls=outcome.calls)


def strike(operation: str, fault: str, call: Call) -> Verdict:
    """Let a fault strike one system call of an operation."""
    study(operation)
    with copied(operation) as root:
        outcome = traced.run(partial(ALL[operation].act, root), fault=fault, at=call)
        return Verdict(
            place=f"{operation}, {fault} at {call.text}",
            struck=outcome.struck,
            violations=list(judge(operation, root, outcome)),
        )


def cut(operation: str, kind: str, fate: str, call: Call | None) -> Verdict:
    """Cut the power before one system call of an operation, or just after it announced its end."""
    study(operation)
    place = Path(tempfile.mkdtemp())
    root = place / "case" / "store"
    image = disks.copy(disk(operation, kind), place.with_suffix(".img"))
    with disks.mounted(kind, image, place):
        fault = "KILL" if call else None
        outcome = traced.run(partial(ALL[operation].act, root), fault=fault, at=call)
        disks.cut_power(place, fate)
    with disks.mounted(kind, image, place):
        found = list(judge(operation, root, outcome))
    image.unlink()
    place.rmdir()
    moment = call.text if call else "its end"
    return Verdict(
        place=f"{operation} on {kind}, what was not flushed {fate}, power cut at {moment}",
        struck=outcome.struck,
        violations=found,
    )


def judge(operation: str, root: Path, outcome: Outcome) -> Iterator[str]:
    """Yield what is wrong with a store after a fault, and after the same is done again."""
    done, said = study(operation), outcome.said
    if "crash" in said:
        yield f"crash: {said['crash']}"
    if "error" in said and said["code"] != DISK_ERROR:
        yield f"exit code {said['code']}: {said['error']}"
    if said.get("saved", done.saved) != done.saved:
        yield f"announced {said['saved']}, not {done.saved}"
    yield from violations(done.before, done.after, observe(root), said)
    try:
        saved = ALL[operation].act(root)
    except Exception as error:
        yield f"again, {error!r}"
        return
    if saved != done.saved:
        yield f"again, announced {saved}, not {done.saved}"
    yield from violations_when_done_again(done.before, done.after, observe(root))


def complaints(verdicts: list[Verdict]) -> list[str]:
    """Return what was broken, each thing once, with the first case in which it was."""
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        for line in verdict.violations:
            found.setdefault(_plain(line), []).append(_plain(verdict.place))
    return [f"{line} [{len(places)}×, first: {places[0]}]" for line, places in found.items()]


def _plain(line: str) -> str:
    return TIME.sub("", _FOLDER.sub("", line))


def changes_the_disk(call: Call) -> bool:
    """Say whether a call changes what a disk holds."""
    return call.name in CHANGES or "O_CREAT" in call.text or "O_TRUNC" in call.text


def flushed_files(operation: str) -> list[str]:
    """Return the names of the files that an operation flushes, in order."""
    with copied(operation) as root:
        return broken.flushed_files(operation, root)


@contextmanager
def copied(operation: str) -> Iterator[Path]:
    """Give a store as the operation finds it, deleted afterwards."""
    parent = Path(tempfile.mkdtemp())
    shutil.copytree(template(operation), parent, symlinks=True, dirs_exist_ok=True)
    try:
        yield parent / "store"
    finally:
        shutil.rmtree(parent)
