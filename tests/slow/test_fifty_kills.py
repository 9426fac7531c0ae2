"""A run killed at any moment and gone on with ends with the same adapter, byte for byte.

Real processes, real signals, the real command line, dropout on; only the model is tiny.
"""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from helpers import command_process, tiny
from mlx_tune.store.runs import list_runs
from mlx_tune.store.store import SessionStore
from mlx_tune.training.adapter import WEIGHTS_FILE

pytestmark = pytest.mark.slow

MOMENTS = 50
ROWS = [{"instruction": f"Where is {i}?", "response": f"Room {i * 7}."} for i in range(12)]
FLAGS = (
    "--epochs", "40", "--rank", "4", "--dropout", "0.1", "--validation", "0.1",
    # A tiny base's general answers are gibberish: what becomes of them says nothing.
    "--gate-general", "100", "--gate-general-most", "100",
)  # fmt: skip


@dataclass
class Bench:
    """A tiny base and the command line, each call in a process of its own."""

    folder: Path
    base: Path

    def call(self, store: Path, *words: str, target=command_process.call, kill=None) -> int:
        """Run a command; gives the exit code.

        ``kill`` is (seconds, signal, since): since "start", or since the "run" has its folder.
        """
        process = command_process.context().Process(
            target=target, args=([*words, "--store", str(store)], store.with_suffix(".log"))
        )
        process.start()
        if kill is not None:
            seconds, number, since = kill
            while since == "run" and process.is_alive() and not list_runs(store):
                process.join(0.01)
            process.join(seconds)
            if process.is_alive():
                os.kill(process.pid, number)
        process.join(120)
        assert not process.is_alive(), f"{words}: still running"
        return process.exitcode

    def train(self, store: Path, **options) -> int:
        data = str(self.folder / "rows.json")
        return self.call(store, "train", data, "--base", str(self.base), *FLAGS, **options)

    def finish(self, store: Path, **options) -> None:
        """Go on with what there is, as a person would, until there is a session."""
        if any(run.is_unfinished for run in list_runs(store)):
            assert self.call(store, "resume", **options) == 0, store.with_suffix(".log").read_text()
        elif not SessionStore.open(store).snapshot().sessions:
            assert self.train(store, **options) == 0, store.with_suffix(".log").read_text()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    os.environ["MLX_TUNE_CACHE"] = str(folder / "cache")
    try:
        (folder / "rows.json").write_text(json.dumps(ROWS))
        yield Bench(folder=folder, base=tiny.base_folder(folder / "base"))
    finally:
        del os.environ["MLX_TUNE_CACHE"]


@pytest.fixture(scope="module")
def undisturbed(bench) -> tuple[bytes, float]:
    """The adapter of a run that nobody killed, and the seconds from its folder to its end."""
    for name in ("first", "second"):  # the first waits for imports and the compiler
        assert bench.train(bench.folder / name) == 0
        (run,) = list_runs(bench.folder / name)
        seconds = time.time() - datetime.fromisoformat(run.record["created"]).timestamp()
    first, second = (weights(bench.folder / name) for name in ("first", "second"))
    assert first == second
    return first, seconds


def weights(store: Path) -> bytes:
    (session,) = SessionStore.open(store).snapshot().sessions.values()
    assert SessionStore.open(store).snapshot().head() == session
    session.verify()
    return session.read(WEIGHTS_FILE)


def test_fifty_kills_end_with_one_hash(bench, undisturbed):
    wanted, seconds = undisturbed
    draw = random.Random(7)
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    plans = [
        (i, draw.uniform(0, seconds), kinds[i % 3], "run" if i % 5 else "start")
        for i in range(MOMENTS)
    ]

    def one(plan: tuple[int, float, int, str]) -> int | None:
        index, moment, number, since = plan
        code, store = 0, bench.folder
        while code == 0:  # it was faster than the kill
            store = bench.folder / f"killed-{index}-{moment:.2f}"
            code = bench.train(store, kill=(moment, number, since))
            moment *= 0.8
        begun = [run for run in list_runs(store) if run.is_unfinished]
        checkpoint = begun[0].newest_checkpoint() if begun else None
        log = store.with_suffix(".log").read_text()
        # 1, where the signal came before the command line began.
        assert code in {1, -number, 128 + number}, log
        if begun and code == 128 + number:
            assert f"go on with: mlx-tune resume {begun[0].path.name}" in log
        bench.finish(store)
        assert weights(store) == wanted, f"killed by {number} after {moment:.2f} s: {log}"
        return checkpoint.step if checkpoint else None

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, plans))
    resumed = [step for step in found if step is not None]
    print(f"{MOMENTS} kills: {len(resumed)} went on from {len(set(resumed))} distinct checkpoints")
    # Or it would say little: some must strike after many checkpoints, some before the first.
    assert len(set(resumed)) >= 10
    assert len(resumed) < MOMENTS


def test_a_resume_that_forgets_the_moments_is_found_out(bench, undisturbed):
    """The control: without the optimizer's state the hash must differ."""
    wanted, _ = undisturbed
    store = bench.folder / "forgetful"
    while not any(run.newest_checkpoint() for run in list_runs(store)):
        assert bench.train(store, target=stop_after_five, kill=None) == 130
    assert bench.call(store, "resume", target=forget_moments) == 0
    assert weights(store) != wanted


def stop_after_five(words, log):
    from mlx_tune.cli.training_view import TrainingView

    stepped = TrainingView.stepped

    def step_and_stop(self, step):
        stepped(self, step)
        if step.number == 5:
            raise KeyboardInterrupt

    TrainingView.stepped = step_and_stop
    command_process.call(words, log)


def forget_moments(words, log):
    from mlx_tune.training.loop import Trainer

    restore = Trainer.restore

    def forgetful(self, files, *, place):
        restore(self, files, place=place)
        self._moments = self._optimizer.init(self._factors)

    Trainer.restore = forgetful
    command_process.call(words, log)
