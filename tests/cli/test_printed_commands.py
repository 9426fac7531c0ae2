"""A command that is printed can be typed as it stands, whatever the store's folder is called."""

import re
import shlex

import pytest

from helpers.stores import start_run
from mlx_tune.store.store import SessionStore

PRINTED = re.compile(r"`mlx-tune ([^`]+)`|(?:with|is|on with): mlx-tune (.+)")
TRAINS = ("train", "consolidate", "resume")  # others run these, which need a base


@pytest.fixture
def blank(store, tmp_path) -> SessionStore:
    """The store of made-up sessions, in a folder with a blank and a quote in its name."""
    return SessionStore.open(store.root.rename(tmp_path / "Ann's store"))


def test_what_commands_print_is_run_as_printed(blank, mlx_tune_command, tmp_path):
    held = blank.snapshot().find("dining")
    start_run(blank, held)
    runs = (blank.root / "runs").iterdir()
    first = [
        ("log",), ("rollback",), ("tag", "best", "dining"), ("rm", "dining"), ("rm", "HEAD"),
        ("promote", "base"), ("promote", "dining"), ("rollback", "--to", "base"), ("rollback",),
        ("resume", "--discard", next(runs).name), ("resume",), ("tag", "--delete", "best"),
        ("rm", "dining"), ("rm", "--undo", "1"), ("promote", "dining"), ("gc",), ("tag",),
        ("rm", "cs"),
    ]  # fmt: skip
    seen = set()
    for words in first:
        _, out, error = mlx_tune_command(*words, "--store", blank.root)
        for quoted, last in PRINTED.findall(out + error):
            printed = shlex.split(quoted or last)
            if printed[0] in TRAINS or "N" in printed or "SESSION" in printed:
                assert printed[-2:] == ["--store", str(blank.root)]
                continue
            code, _, said = mlx_tune_command(*printed)
            assert "no store is there" not in said
            assert code in (0, 2), said  # 2: what was printed is done already
            seen.add(printed[0])
    assert seen >= {"log", "rollback", "rm", "gc", "tag"}


def test_every_command_that_is_printed_names_the_store(blank, mlx_tune_command):
    """But for those that need none."""
    (blank.root / "HEAD").unlink()
    for words in (("log",), ("verify",), ("gc",), ("show",)):
        _, out, error = mlx_tune_command(*words, "--store", blank.root)
        for quoted, last in PRINTED.findall(out + error):
            assert shlex.split(quoted or last)[-2:] == ["--store", str(blank.root)]
