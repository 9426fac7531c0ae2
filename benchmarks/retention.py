"""Retention measured: sessions of invented facts, taught one after another, in several ways.

Every session is a cell, a file of its own: called again, the program goes on with the cells that
are missing. benchmarks/README.md says how, and what each number means.
"""

import argparse
import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import facts, key_values, machine, retention_report
from benchmarks.retention_cell import Task
from mlx_tune.files.durable import replace_file

ARMS: dict[str, dict[str, Any]] = {
    "seed": {"method": "seed"},
    "none": {"method": "none"},
    "ratio": {"replay": "0.05"},
    "default": {},
    "joint": {},
    "self_distill": {"method": "self_distill"},
    "orthogonal": {"method": "orthogonal"},
    "synthetic": {"method": "synthetic"},
    "soup": {"method": "soup"},
}
"""By name, the settings that make an arm differ from what a person gets who sets nothing."""

Draw = Callable[[int, int, int], list[dict[str, Any]]]
"""Of a seed, a subject's index and how many: rows as ``data/*.json`` holds them."""
FACTS: dict[str, tuple[Draw, Callable[[int, int], str]]] = {
    "places": (facts.subject, lambda seed, index: facts.place(seed, index).lower()),
    "kvr": (key_values.subject, lambda _, index: key_values.name(index)),
}
"""By name, how a subject's rows are drawn and what it is called."""

DEFAULT_ARMS = ("default", "joint", "none", "ratio", "seed")
_ROOT = Path(__file__).parents[1]


class CellError(RuntimeError):
    """A cell ended without a result; what it said is on stderr."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        base: The base model.
        facts: One of ``FACTS``.
        sessions: Subjects of a chain.
        rows: Facts of a subject.
        epochs: The cap, None for the program's own.
        until_learned: Train until everything is learned; False takes every epoch.
    """

    base: str
    facts: str
    sessions: int
    rows: int
    epochs: int | None
    until_learned: bool

    @property
    def flags(self) -> dict[str, Any]:
        """The settings of every arm."""
        given: dict[str, Any] = {"until_learned": self.until_learned}
        return given | ({"epochs": self.epochs} if self.epochs else {})


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One arm, on the subjects in one order, with one seed.

    Attributes:
        arm: One of ``ARMS``, or "base": the bare base, scored once a seed.
        order: Its number; 0 is as the subjects were drawn, 1 the reverse.
        seed: Of the facts and of the training.
    """

    arm: str
    order: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.order}-{self.seed}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="benchmarks.retention",
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="a folder for everything")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, help="ways of training")
    p.add_argument("--facts", choices=FACTS, default="places", help="what is taught")
    p.add_argument("--sessions", type=int, default=3, help="of a chain, a subject each")
    p.add_argument("--rows", type=int, default=30, help="facts of a subject")
    p.add_argument("--seeds", type=int, nargs="+", default=(0,), help="of facts and training")
    p.add_argument("--orders", type=int, default=2, help="in how many the subjects are taught")
    p.add_argument("--base", default="smollm2-135m", help="base model")
    p.add_argument("--epochs", type=int, help="the cap; the program's own unless given")
    p.add_argument("--every-epoch", action="store_true", help="do not stop when all is learned")
    p.add_argument("--report-only", action="store_true", help="of the cells that are there")
    return p


def main(words: Sequence[str]) -> int:
    """Train and score what is missing, then print the report; 1 where a cell failed."""
    args = parser().parse_args(words)
    setup = Setup(
        base=args.base,
        facts=args.facts,
        sessions=args.sessions,
        rows=args.rows,
        epochs=args.epochs,
        until_learned=not args.every_epoch,
    )
    claim(args.out, setup)
    failed = [] if args.report_only else [c for c in chains(args) if not _whole(args.out, setup, c)]
    text = retention_report.text(retention_report.load(args.out))
    print("\n".join(text))
    whole = {"command": list(words), "machine": machine.describe(), "text": text}
    replace_file(args.out / "report.json", json_bytes(whole))
    return 1 if failed else 0


def claim(folder: Path, setup: Any) -> None:
    """Make a folder this setup's own.

    Args:
        folder: Made where it does not exist.
        setup: What all cells have in common, a dataclass.

    Raises:
        SystemExit: It was begun with another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "setup.json"
    wanted = dataclasses.asdict(setup)
    if not path.exists():
        replace_file(path, json_bytes(wanted))
    found = json.loads(path.read_text())
    if found != wanted:
        raise SystemExit(f"{path}: {found}; asked for is {wanted}; name another folder with --out")


def chains(args: argparse.Namespace) -> Iterator[Chain]:
    """Yield the chains, so that a run cut short has every arm in the first order."""
    for seed in args.seeds:
        yield Chain(arm="base", order=0, seed=seed)
        for order in range(args.orders):
            for arm in args.arms:
                yield Chain(arm=arm, order=order, seed=seed)


def taught_order(number: int, sessions: int) -> list[int]:
    """Return the subjects in an order: 0 as they are, 1 reversed, the rest shuffled."""
    order = list(range(sessions))
    if number == 1:
        order.reverse()
    elif number > 1:
        random.Random(number).shuffle(order)
    return order


def _whole(folder: Path, setup: Setup, chain: Chain) -> bool:
    """Carry out what is missing of a chain; say what failed and leave the rest of it."""
    try:
        for number in [0] if chain.arm == "base" else range(1, setup.sessions + 1):
            _cell(folder, setup, chain, number)
        if chain.arm not in ("base", "joint"):
            _checks(folder, setup, chain)
    except CellError as error:
        print(f"{error}; the rest of this chain is left out", file=sys.stderr, flush=True)
        return False
    return True


def _cell(folder: Path, setup: Setup, chain: Chain, number: int) -> None:
    path = folder / chain.name / f"cell-{number}.json"
    if path.exists():
        return
    task = task_of(folder, setup, chain, number)
    path.parent.mkdir(exist_ok=True)
    found = child("benchmarks.retention_cell", task)
    cell = {**dataclasses.asdict(chain), "number": number, "taught": task.taught, **found}
    replace_file(path, json_bytes(cell))


def _checks(folder: Path, setup: Setup, chain: Chain) -> None:
    """Check a finished chain's rollback and folds, against what its cells wrote down."""
    path = folder / chain.name / "checks.json"
    if not path.exists() and setup.sessions > 1:
        task = task_of(folder, setup, chain, setup.sessions)
        replace_file(path, json_bytes(child("benchmarks.retention_checks", task)))


def task_of(folder: Path, setup: Setup, chain: Chain, number: int) -> Task:
    """Return what a cell's process is told; the subjects' files are written if need be."""
    taught = taught_order(chain.order, setup.sessions)[:number]
    joint = chain.arm == "joint"
    last = FACTS[setup.facts][1](chain.seed, taught[-1]) if taught else "base"
    return Task(
        label=f"{chain.name} {number}/{setup.sessions}",
        base=setup.base,
        store=str(folder / chain.name / (f"store-{number}" if joint else "store")),
        subjects=[str(_data(folder, setup, chain.seed, i)) for i in range(setup.sessions)],
        taught=taught,
        joint=joint,
        name=f"joint-{number}" if joint else last,
        flags={**setup.flags, **ARMS.get(chain.arm, {}), "seed": chain.seed},
    )


def _data(folder: Path, setup: Setup, seed: int, index: int) -> Path:
    draw, name = FACTS[setup.facts]
    path = folder / "data" / str(seed) / f"{name(seed, index)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json_bytes(draw(seed, index, setup.rows)))
    return path


def child(module: str, task: Task) -> dict[str, Any]:
    """Return the JSON that a program prints as its last line."""
    command = (sys.executable, "-m", module, json.dumps(dataclasses.asdict(task)))
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CellError(f"{task.label}: {module} ended with exit code {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def json_bytes(value: object) -> bytes:
    """Return a file's contents."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
