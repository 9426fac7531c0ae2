"""Retention measured: sessions of invented facts, taught one after another, in several ways.

Every session is a cell, a file of its own: called again, the program goes on with the cells that
are missing. benchmarks/README.md says how, and what each number means.
"""

import argparse
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cells, facts, key_values, retention_report
from benchmarks.retention_cell import Task

ARMS: dict[str, dict[str, Any]] = {
    "seed": {"method": "seed"},
    "none": {"method": "none"},
    "ratio": {"replay": "0.05"},
    "default": {},
    "recital": {
        "question_noise": 0,
        "general_weight": 10,
        "general_replay": 0.3,
        "decay_epochs": 0,
    },
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


@dataclass(frozen=True, kw_only=True)
class Setup(cells.Setup):
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        facts: One of ``FACTS``.
        sessions: Subjects of a chain.
        rows: Facts of a subject.
    """

    facts: str
    sessions: int
    rows: int


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
    purpose = __doc__.splitlines()[0] if __doc__ else ""
    p = cells.parser("retention", purpose, seeds=(0,))
    p.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, help="ways of training")
    p.add_argument("--facts", choices=FACTS, default="places", help="what is taught")
    p.add_argument("--sessions", type=int, default=3, help="of a chain, a subject each")
    p.add_argument("--rows", type=int, default=30, help="facts of a subject")
    p.add_argument("--orders", type=int, default=2, help="in how many the subjects are taught")
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
    cells.claim(args.out, setup)
    todo = [] if args.report_only else chains(args)
    is_done = [cells.is_done(partial(_chain, args.out, setup, chain)) for chain in todo]
    cells.report(args.out, words, retention_report.text(retention_report.load(args.out)))
    return 0 if all(is_done) else 1


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


def _chain(folder: Path, setup: Setup, chain: Chain) -> None:
    """Carry out what is missing of a chain."""
    for number in [0] if chain.arm == "base" else range(1, setup.sessions + 1):
        task = task_of(folder, setup, chain, number)
        known = {**dataclasses.asdict(chain), "number": number, "taught": task.taught}
        path = folder / chain.name / f"cell-{number}.json"
        cells.fill(path, known, "benchmarks.retention_cell", task)
    if chain.arm not in ("base", "joint"):
        _checks(folder, setup, chain)


def _checks(folder: Path, setup: Setup, chain: Chain) -> None:
    """Check a finished chain's rollback and folds, against what its cells wrote down."""
    if setup.sessions > 1:
        path = folder / chain.name / "checks.json"
        task = task_of(folder, setup, chain, setup.sessions)
        cells.fill(path, {}, "benchmarks.retention_checks", task)


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
    return cells.kept(path, lambda: draw(seed, index, setup.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
