"""What a store holds at one moment, and what is wrong with it after a fault."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_tune.errors import MlxTuneError
from mlx_tune.files.durable import UNTOUCHED
from mlx_tune.files.sealed import open_sealed
from mlx_tune.store import labels, snapshot
from mlx_tune.store.runs import Run, list_runs
from mlx_tune.store.session import read_session
from mlx_tune.store.snapshot import read_snapshot

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")
ID = re.compile("([0-9a-f]{8})[0-9a-f]{56}")
PROMISES = (UNTOUCHED, "nothing was changed")


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that was announced and must stay, read by a fresh reader.

    Attributes:
        sessions: The ids of the sessions whose every byte is right.
        trash: The same, of those that lie in the trash.
        labels: Tags and marks of removal: folder, name, id.
        head: The id HEAD holds, or ``base``; None where a reader must guess.
        moves: HEAD.log, without times.
        runs: By name, the record without its time, the rows, and the id of the newest whole
            checkpoint.
        metrics: By a run's name, how many sound lines its log has.
        damage: What a reader complains of, without the store's path and times.
    """

    sessions: frozenset[str]
    trash: frozenset[str]
    labels: frozenset[tuple[str, str, str]]
    head: str | None
    moves: tuple[tuple[str, str, str], ...]
    runs: dict[str, tuple[object, ...]]
    metrics: dict[str, int]
    damage: tuple[str, ...]

    @property
    def kept(self) -> frozenset[str]:
        """The sessions that can still be had."""
        return self.sessions | self.trash

    def differences(self, other: "State", *more: str) -> Iterator[str]:
        """Yield what differs; the logs only where they are named."""
        for name in ("sessions", "trash", "labels", "head", "runs", *more):
            if getattr(self, name) != getattr(other, name):
                yield f"{name}: {_short(getattr(self, name))}, not {_short(getattr(other, name))}"


def observe(root: Path) -> State:
    """Read a store as a new process would, checking every byte."""
    damage: list[str] = []
    sessions = frozenset(_whole(root / "sessions", read_session, damage))
    trash = frozenset(_whole(root / "trash", open_sealed, damage))
    word = _head(root, damage)
    found = {run.record["name"]: run for run in list_runs(root, notes=damage)}
    attempts = {name: _attempt(run, damage) for name, run in found.items()}
    return State(
        sessions=sessions,
        trash=trash,
        labels=frozenset(_labels(root, damage)),
        head=word,
        moves=tuple((move.old, move.new, move.why) for move in snapshot.head_moves(root)),
        runs=attempts,
        metrics={name: len(run.metrics()) for name, run in found.items()},
        damage=tuple(TIME.sub("", line.replace(f"{root}/", "")) for line in damage),
    )


def violations(before: State, after: State, now: State, said: dict[str, str]) -> Iterator[str]:
    """Yield what a fault broke.

    Args:
        before: What had been announced.
        after: What the operation makes when nothing fails.
        now: What a reader finds after the fault.
        said: What the operation announced: ``saved`` or ``error``, or nothing when it was killed.
    """
    yield from (f"damaged: {line}" for line in now.damage if line not in before.damage)
    yield from (f"session lost: {lost}" for lost in (before.kept & after.kept) - now.kept)
    yield from (f"session from nowhere: {new}" for new in now.kept - before.kept - after.kept)
    if now.head not in {before.head, after.head}:
        yield f"HEAD holds {now.head}"
    if now.moves not in (before.moves, after.moves):
        yield f"HEAD.log tells of {now.moves}"
    elif now.moves != before.moves and now.head != after.head:
        yield "HEAD.log tells of a move that was not made"
    for name in {*before.runs, *after.runs, *now.runs}:
        if now.runs.get(name) not in (before.runs.get(name), after.runs.get(name)):
            yield f"run lost: {name} is {_short(now.runs.get(name))}"
        if now.metrics.get(name) not in (before.metrics.get(name), after.metrics.get(name)):
            yield f"metrics lost: {name} has {now.metrics.get(name)} lines"
    if "saved" in said:
        untrue = _deleted(now, after).differences(after, "moves", "metrics")
        yield from (f"announced, but {line}" for line in untrue)
    if any(promise in said.get("error", "") for promise in PROMISES):
        untrue = now.differences(before)
        yield from (f"untrue: {said['error']!r}, but {line}" for line in untrue)


def violations_when_done_again(before: State, after: State, now: State) -> Iterator[str]:
    """Yield how a store differs from what it should be once the operation was done again."""
    yield from (f"again, damaged: {line}" for line in now.damage if line not in before.damage)
    yield from (f"again, {line}" for line in now.differences(after))
    kept, more = now.moves[: len(before.moves)], now.moves[len(before.moves) :]
    if kept != before.moves or any(new != after.head for _, new, _ in more):
        yield f"again, HEAD.log tells of {now.moves}"


def _deleted(now: State, after: State) -> State:
    """Return a state without what should be gone and is back, which is no loss."""
    list_runs = dict(now.runs)
    for name, (*rest, checkpoint) in after.runs.items():
        if checkpoint is None and name in list_runs:
            list_runs[name] = (*list_runs[name][: len(rest)], None)
    return replace(now, trash=now.trash & after.trash, runs=list_runs)


def _short(value: object) -> str:
    return ID.sub(r"\1…", str(sorted(value) if isinstance(value, frozenset) else value))


def _whole(folder: Path, read: Callable, damage: list[str]) -> Iterator[str]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            sealed = read(path)
            sealed.verify()
            yield sealed.id
        except MlxTuneError as error:
            damage.append(str(error))


def _labels(root: Path, damage: list[str]) -> Iterator[tuple[str, str, str]]:
    for folder in (labels.TAGS, labels.REMOVED):
        for name, identity in labels.read_labels(root / folder, damage).items():
            yield folder, name, identity


def _attempt(run: Run, damage: list[str]) -> tuple[object, ...]:
    list(_whole(run.path / "checkpoints", open_sealed, damage))
    newest = run.newest_checkpoint()
    damage += run.notes
    record = {key: value for key, value in run.record.items() if key != "created"}
    return record, run.read("rows.jsonl"), newest.id if newest else None


def _head(root: Path, damage: list[str]) -> str | None:
    try:
        store = read_snapshot(root)
        session = store.head()
        for ancestor in store.chain(session):
            ancestor.verify()
    except MlxTuneError as error:
        damage.append(str(error))
        return None
    damage += store.notes
    if store.notes:
        return None
    return session.id if session else snapshot.BASE
