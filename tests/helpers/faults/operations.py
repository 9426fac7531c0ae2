"""What is done to a store while something fails.

A new operation is one line in ``OPERATIONS``: its name, what prepares the store, what is done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from helpers.stores import adapter_files
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.runs import Run, discard_run, list_runs
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore

RECORD = {"verdict": "promote", "base": {"name": "small", "fingerprint": "f" * 64}}


@dataclass(frozen=True)
class Operation:
    """One change of a store.

    Attributes:
        prepare: Makes the store as it is before; the folder given does not exist yet.
        act: Makes the change, and returns the word that announces it: the same whenever the same
            change is made to the same store, or made again.
    """

    prepare: Callable[[Path], object]
    act: Callable[[Path], str]


def nothing(root: Path) -> None:
    """No store at all."""


def two_sessions(root: Path) -> None:
    """HEAD on the first session; the second, a child of it, was held back."""
    store = SessionStore.open(root)
    first = _commit(store, "one", None)
    store.move_head(first, expected=None, why="train one")
    _commit(store, "two", first)


def a_run(root: Path) -> None:
    """Saved three times, so that the next save has a checkpoint to discard."""
    two_sessions(root)
    run = Run.create(root, name="three", record={"phase": "train"}, files={"rows.jsonl": b"{}\n"})
    for step in (1, 2, 3):
        run.log(step=step, loss=1.0 / step)
        run.save_checkpoint(step, _state(step))


def a_run_with_a_damaged_checkpoint(root: Path) -> None:
    a_run(root)
    checkpoint = list_runs(root)[0].newest_checkpoint()
    assert checkpoint is not None
    (checkpoint.path / "state.safetensors").write_bytes(b"torn")


def commit(root: Path) -> str:
    store = SessionStore.open(root)
    return _commit(store, "three", store.snapshot().head()).folder_name


def move_head(root: Path) -> str:
    store = SessionStore.open(root)
    to = store.snapshot().find("two")
    store.move_head(to, expected=store.snapshot().head(), why="promote")
    return to.id if to else "base"


def roll_back(root: Path) -> str:
    store = SessionStore.open(root)
    store.move_head(None, expected=store.snapshot().head(), why="rollback")
    return "base"


def save_the_third_step(root: Path) -> str:
    return _save(root, 3)


def save_the_fourth_step(root: Path) -> str:
    return _save(root, 4)


def start_a_run(root: Path) -> str:
    files = {"rows.jsonl": b"{}\n"}
    run = Run.create(root, name="four", record={"phase": "train"}, files=files)
    return str(run.record["name"])


def much_to_collect(root: Path) -> None:
    """A branch of two to move, a run that became a session, old trash, an unfinished write."""
    a_run(root)
    store = SessionStore.open(root)
    first, second = store.snapshot().head(), store.snapshot().find("two")
    third = _commit(store, "three", second)
    for session in (third, second):
        mark_removed(store, session)
    list_runs(root)[0].set(phase="done", session=first.id)
    (root / ".tmp" / "0123456789abcdef").mkdir()
    (root / ".tmp" / "0123456789abcdef" / "torn").write_bytes(b"x" * 5000)
    old = _commit(store, "old", first)
    (root / "trash").mkdir()
    old.path.rename(root / "trash" / f"2026-01-01-{old.path.name}")


def collect_all(root: Path) -> str:
    collect_garbage(SessionStore.open(root), today=date(2026, 11, 23))
    return "collected"


def give_a_tag(root: Path) -> str:
    store = SessionStore.open(root)
    session = store.snapshot().find("two")
    assert session is not None
    tag(store, "best", session)
    return session.id


def mark_for_removal(root: Path) -> str:
    store = SessionStore.open(root)
    session = store.snapshot().find("two")
    assert session is not None
    mark_removed(store, session)
    return session.id


def enter_a_phase(root: Path) -> str:
    run = list_runs(root)[0]
    run.set(phase="score")
    return str(run.record["phase"])


def give_the_run_up(root: Path) -> str:
    for run in list_runs(root):
        discard_run(root, run.path.name)
    return "given up"


OPERATIONS = {
    "first commit": Operation(nothing, commit),
    "commit": Operation(two_sessions, commit),
    "HEAD move": Operation(two_sessions, move_head),
    "HEAD to the base": Operation(two_sessions, roll_back),
    "checkpoint": Operation(a_run, save_the_fourth_step),
    "checkpoint over a damaged one": Operation(
        a_run_with_a_damaged_checkpoint, save_the_third_step
    ),
    "checkpoint of the same step": Operation(a_run, save_the_third_step),
    "start of a run": Operation(a_run, start_a_run),
    "record of a run": Operation(a_run, enter_a_phase),
    "giving a run up": Operation(a_run, give_the_run_up),
    "tag": Operation(two_sessions, give_a_tag),
    "removal": Operation(two_sessions, mark_for_removal),
    "collection": Operation(much_to_collect, collect_all),
}


def _commit(store: SessionStore, name: str, parent: Session | None) -> Session:
    files = {**adapter_files(name, width=1200), "data.jsonl": b"{}\n"}
    return store.commit(name=name, parent=parent, record=RECORD, files=files)


def _save(root: Path, step: int) -> str:
    run = list_runs(root)[0]
    run.log(step=step, loss=1.0 / step)
    return run.save_checkpoint(step, _state(step)).id


def _state(seed: int) -> dict[str, bytes]:
    return {"state.safetensors": bytes([seed]) * 9000, "step.json": b"{}\n"}
