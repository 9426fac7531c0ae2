"""A benchmark cell by cell: each a process and a file, so that a run cut short is gone on with."""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.retention_cell import Task
from mlx_tune.files.durable import replace_file

_ROOT = Path(__file__).parents[1]


class CellError(RuntimeError):
    """A cell ended without a result; what it said is on stderr."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        base: The base model.
        epochs: The cap, None for the program's own.
        until_learned: Train until everything is learned; False takes every epoch.
    """

    base: str
    epochs: int | None
    until_learned: bool

    @property
    def flags(self) -> dict[str, Any]:
        """The settings of every cell."""
        given: dict[str, Any] = {"until_learned": self.until_learned}
        return given | ({"epochs": self.epochs} if self.epochs else {})


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One arm with one seed, which is of the training; the rows are always the same.

    Attributes:
        arm: Its name.
        seed: Its number.
    """

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.seed}"


def parser(name: str, purpose: str, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return the options that every such benchmark has.

    Args:
        name: The module's.
        purpose: The first line of its docstring.
        seeds: By default.
    """
    p = argparse.ArgumentParser(
        prog=f"benchmarks.{name}",
        description=purpose,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="a folder for everything")
    p.add_argument("--seeds", type=int, nargs="+", default=seeds, help="of all that is drawn")
    p.add_argument("--base", default="smollm2-135m", help="base model")
    p.add_argument("--epochs", type=int, help="the cap; the program's own unless given")
    p.add_argument("--every-epoch", action="store_true", help="do not stop when all is learned")
    p.add_argument("--report-only", action="store_true", help="of the cells that are there")
    return p


def claim(folder: Path, setup: Setup) -> None:
    """Make a folder this setup's own.

    Args:
        folder: Made where it does not exist.
        setup: What all cells have in common.

    Raises:
        SystemExit: It was begun with another.
    """
    wanted = dataclasses.asdict(setup)
    path = kept(folder / "setup.json", lambda: wanted)
    found = json.loads(path.read_text())
    if found != wanted:
        raise SystemExit(f"{path}: {found}; asked for is {wanted}; name another folder with --out")


def kept(path: Path, made: Callable[[], object]) -> Path:
    """Return the path of a JSON file; what is made for it is written where there is none."""
    if not path.exists():
        value = made()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _json_bytes(value))
    return path


def fill(path: Path, known: Mapping[str, Any], module: str, task: Task) -> None:
    """Carry out a cell, unless its file is there.

    Args:
        path: Its file.
        known: What the file holds besides what the process found.
        module: The program.
        task: What it is told.

    Raises:
        CellError: As for :func:`child`.
    """
    kept(path, lambda: {**known, **child(module, task)})


def child(module: str, task: Task) -> dict[str, Any]:
    """Return the JSON that a program prints as its last line.

    Raises:
        CellError: It failed.
    """
    command = (sys.executable, "-m", module, json.dumps(dataclasses.asdict(task)))
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CellError(f"{task.label}: {module} ended with exit code {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def is_done(chain: Callable[[], None]) -> bool:
    """Carry out a chain; say what failed and leave the rest of it."""
    try:
        chain()
    except CellError as error:
        print(f"{error}; the rest of this chain is left out", file=sys.stderr, flush=True)
        return False
    return True


def report(folder: Path, words: Sequence[str], text: Sequence[str]) -> None:
    """Print a report, and keep it with the command line and the machine."""
    print("\n".join(text))
    whole = {"command": list(words), "machine": machine.describe(), "text": list(text)}
    replace_file(folder / "report.json", _json_bytes(whole))


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
