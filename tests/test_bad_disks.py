"""A disk that is full, read-only or failing at any write of a training."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.stores import sessions_of
from helpers.training_lab import TrainingLab, facts, isolated_environment
from mlx_tune.files import durable
from mlx_tune.models import runtime
from mlx_tune.store import store as store_module
from mlx_tune.store.runs import Run, list_runs
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

TRAIN = ("train", "two.json", "--store", "s", "--epochs", 2, "--rank", 2)
ADVICE = {
    errno.ENOSPC: "no space left on device; {}; free some space, then run the command again",
    errno.EROFS: "read-only file system; {}; make the disk writable or name another store, then "
    "run the command again",
    errno.EIO: "input/output error; {}; check the disk, then run the command again",
}
SAFE = (
    "HEAD, sessions and the last checkpoint are as they were",
    "a power cut may undo it",
    "only this line is missing",
    "the new checkpoint is saved",
    "is saved, only the run's record lacks its last line",
)
"""What a message may promise."""


class BadDisk:
    """A disk whose nth write, flush or rename fails: that one alone, or all from then on.

    It stands between the lineage and the system, and only what is done to the store is counted: a
    base model's cache may lie elsewhere.

    Attributes:
        calls: What was called so far, in order.
    """

    def __init__(self, root: Path, fails_at: int, error: int, *, stays: bool) -> None:
        self.calls: list[str] = []
        self._root = root.absolute()
        self._at, self._error, self._stays = fails_at, error, stays

    def _counted(self, name, real):
        def call(*arguments, **options):
            if isinstance(arguments[0], Path) and self._root not in arguments[0].absolute().parents:
                return real(*arguments, **options)
            self.calls.append(name)
            number = len(self.calls)
            if number == self._at or (self._stays and number > self._at):
                raise OSError(self._error, os.strerror(self._error))
            return real(*arguments, **options)

        return call

    @contextmanager
    def under(self, monkeypatch) -> Iterator[None]:
        """Lie under the store for the length of a block."""
        disk = self

        class System:
            write = staticmethod(disk._counted("write", os.write))
            fsync = staticmethod(disk._counted("flush", os.fsync))

            def __getattr__(self, name):
                return getattr(os, name)

        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", System())
            for name in ("rename", "replace"):
                patch.setattr(Path, name, self._counted("rename", getattr(Path, name)))
            yield


@dataclass(frozen=True)
class Undisturbed:
    """A training on a good disk.

    Attributes:
        before: The store it began in.
        adapter: What it ended with.
        calls: To the disk, in order.
        saved: How many of them had been made when each checkpoint was announced.
        moved: How many when HEAD had moved and the move was logged.
    """

    before: Path
    adapter: bytes
    calls: list[str]
    saved: list[int]
    moved: int


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_base) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    lab = TrainingLab(root=folder, base=tiny_base)
    disk = BadDisk(lab.store, -1, 0, stays=False)
    saved, moved = [], []

    def counted(real, counts):
        def call(*arguments, **options):
            result = real(*arguments, **options)
            counts.append(len(disk.calls))
            return result

        return call

    with isolated_environment(folder) as patch:
        lab.train(lab.data("one", facts("one", 2)), epochs=1, rank=2)
        before = shutil.copytree(lab.store, folder / "before", symlinks=True)
        patch.setattr(Run, "save_checkpoint", counted(Run.save_checkpoint, saved))
        patch.setattr(store_module, "log_move", counted(store_module.log_move, moved))
        with disk.under(patch):
            # Micro-batches as the command line's rules have them: the adapter must be the same.
            flags = {"epochs": 2, "rank": 2, "batch_size": None, "grad_accumulation": None,
                     "general_replay": None, "question_noise": None}  # fmt: skip
            session = lab.train(lab.data("two", facts("two", 2)), **flags).session
    return Undisturbed(
        before=before,
        adapter=session.read("adapters.safetensors"),
        calls=disk.calls,
        saved=saved,
        moved=moved[0],
    )


@pytest.fixture
def trial(undisturbed, tmp_path, monkeypatch, mlx_tune_command):
    """Train on a disk whose nth call fails, check that nothing is lost, and go on; gives the code.

    A command that could not be carried out ends with 7 and one line.
    """
    monkeypatch.chdir(tmp_path)
    # The base was asked its general questions there: nothing of that is written in a trial.
    monkeypatch.setenv("MLX_TUNE_CACHE", str(undisturbed.before.parent / "cache"))
    monkeypatch.setattr(runtime, "can_compile", lambda: False)
    rows = [{"instruction": q, "response": a} for q, a in facts("two", 2).items()]
    Path("two.json").write_text(json.dumps(rows, indent=1))

    def trial(number: int, error: int, *, stays: bool) -> int:
        shutil.rmtree("s", ignore_errors=True)
        shutil.copytree(undisturbed.before, "s", symlinks=True)
        store = SessionStore.open(Path("s"))
        one = store.snapshot().head()
        with BadDisk(store.root, number, error, stays=stays).under(monkeypatch):
            code, _, said = mlx_tune_command(*TRAIN)
        errors = [line for line in said.splitlines() if line.startswith(("error: ", "       "))]
        assert verify(store.snapshot()).problems == [], said
        if code == 7:
            (line,) = errors
            promised = [safe for safe in SAFE if line.endswith(ADVICE[error].format(safe))]
            assert promised or any(f"{safe}; " in line for safe in SAFE), line
            if promised == [SAFE[0]] and number <= undisturbed.moved:
                assert store.snapshot().head() == one
            _check_checkpoints(number)
            _go_on(store, one)
        else:
            assert (code, errors) == (0, []), said
        two = store.snapshot().head()
        assert (two.name, two.parent, sessions_of(store)) == ("two", one.id, [one, two])
        assert two.read("adapters.safetensors") == undisturbed.adapter
        assert verify(store.snapshot()).problems == []
        return code

    def _check_checkpoints(number: int) -> None:
        """Whatever was announced as saved before the failure is there, or something newer."""
        announced = sum(calls < number for calls in undisturbed.saved)
        run = [r for r in list_runs(Path("s")) if r.record["name"] == "two"]
        newest = run[0].newest_checkpoint() if run else None
        assert (newest.step if newest else 0) >= announced

    def _go_on(store: SessionStore, one: Session) -> None:
        begun = any(run.is_unfinished for run in list_runs(store.root))
        if not begun and store.snapshot().head() != one:
            return  # only the flush of the word "done" failed
        code, _, said = mlx_tune_command(*(("resume", "--store", "s") if begun else TRAIN))
        assert code == 0, said

    return trial


FAILURES = [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)]


def test_a_bad_disk_at_a_call_of_each_kind_loses_nothing(trial, undisturbed):
    """The slow test takes every call; these are the first of each kind."""
    pairs = list(zip(["", *undisturbed.calls], undisturbed.calls, strict=False))
    logged = pairs[: undisturbed.moved]  # what follows are links, which may fail
    first = {pair: number for number, pair in reversed(list(enumerate(logged, start=1)))}
    for number in sorted(first.values()):
        assert trial(number, errno.EIO, stays=False) == 7, number
    for error, number in itertools.product((errno.ENOSPC, errno.EROFS), (1, *undisturbed.saved)):
        assert trial(number, error, stays=True) == 7, number


@pytest.mark.slow
@pytest.mark.parametrize(("error", "stays"), FAILURES)
def test_a_bad_disk_at_any_call_loses_nothing(trial, undisturbed, error, stays):
    codes = [trial(n, error, stays=stays) for n in range(1, len(undisturbed.calls) + 1)]
    # The two links for the eye may fail, once the session is safe; nobody is stopped for that.
    assert (codes.count(0), codes.count(7)) == ((0, len(codes)) if stays else (2, len(codes) - 2))


def test_an_error_after_head_moved_does_not_say_that_it_did_not_move(
    undisturbed, trial, mlx_tune_command, monkeypatch
):
    shutil.copytree(undisturbed.before, "s", symlinks=True)
    with BadDisk(Path("s"), undisturbed.moved + 1, errno.EIO, stays=True).under(monkeypatch):
        code, _, said = mlx_tune_command(*TRAIN)
    assert (code, SessionStore.open(Path("s")).snapshot().head().name) == (7, "two")
    assert "HEAD, sessions and the last checkpoint are as they were" not in said


def test_a_disk_that_only_counts_its_calls_changes_nothing(trial):
    """Otherwise the tests above would say nothing of what failed."""
    assert trial(-1, errno.EIO, stays=False) == 0
