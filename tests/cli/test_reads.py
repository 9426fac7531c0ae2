"""A command reads the store once, whatever it does with it; one that writes reads it once more."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

READS = [
    "log",
    "show",
    "verify",
    "doctor",
    "tag",
    "diff cs dining",
    "eval",
    "eval --on housing",
    "ask questions.txt",
    "chat --prompt Who?",
    "chat --session cs --prompt Who?",
    "fuse --out fused",
]
WRITES = ["rollback", "promote housing", "tag good cs", "rm housing"]


@pytest.fixture
def reads(fork, tmp_path, monkeypatch):
    """Return a counter of the listings of sessions/ and of the times each record is opened."""
    shutil.copytree(fork.store, tmp_path / "store", symlinks=True)
    (tmp_path / "questions.txt").write_text("Where is A?\n")
    monkeypatch.chdir(tmp_path)
    counted: Counter[str] = Counter()

    def counting(real, is_counted):
        def call(path=".", *args, **kwargs):
            name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            if is_counted(name):
                counted[os.path.relpath(name, tmp_path / "store")] += 1
            return real(path, *args, **kwargs)

        return call

    for lists in ("listdir", "scandir"):
        call = counting(getattr(os, lists), lambda name: Path(name).name == "sessions")
        monkeypatch.setattr(os, lists, call)
    opens = counting(os.open, lambda name: Path(name).name == "session.json")
    monkeypatch.setattr(os, "open", opens)
    return counted


@pytest.mark.parametrize("line", READS)
def test_a_command_lists_the_sessions_once(reads, mlx_tune_command, line):
    code, _, err = mlx_tune_command(*line.split(), "--store", "store")
    assert code == 0, err
    assert reads.pop("sessions") == 1
    hashes_all = line in {"verify", "doctor"}  # and so reads each record once more
    assert list(reads.values()) == [2 if hashes_all else 1] * 3


@pytest.mark.parametrize("line", WRITES)
def test_a_command_that_writes_lists_them_again_under_the_lock(reads, mlx_tune_command, line):
    code, _, err = mlx_tune_command(*line.split(), "--store", "store")
    assert code == 0, err
    assert reads["sessions"] == 2
