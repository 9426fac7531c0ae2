"""Other words measured: rows trained in one wording or several, and asked in others.

Every session is a cell, a file of its own: called again, the program goes on with the cells that
are missing. benchmarks/README.md says how, and what each number means.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cells, wordings_report
from benchmarks.retention_cell import Task

_ROOT = Path(__file__).parents[1]
SUBJECTS = ("cs", "housing", "dining")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train.

    Attributes:
        wordings: In how many each row is trained, as taught included.
        settings: What differs from what a person gets who sets nothing.
    """

    wordings: int = 1
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "default-1": Arm(),
    "default-5": Arm(wordings=5),
    "one": Arm(settings={"question_noise": 0}),
    "two": Arm(wordings=2, settings={"question_noise": 0}),
    "four": Arm(wordings=4, settings={"question_noise": 0}),
    "five": Arm(wordings=5, settings={"question_noise": 0}),
    "noise": Arm(settings={"question_noise": 8}),
    "noise-5": Arm(wordings=5, settings={"question_noise": 8}),
    "weight-10": Arm(settings={"question_noise": 0, "general_weight": 10}),
    "no-general": Arm(settings={"question_noise": 0, "general_replay": 0}),
}
"""By name. Each has the settings of its name, whatever the defaults become."""

OPEN_BOOK = "open-book"
"""The untrained base with the three nearest rows in its prompt."""


@dataclass(frozen=True, kw_only=True)
class Setup(cells.Setup):
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        sessions: Subjects of a chain, at most three of ``data/``.
        rows: Of a subject.
    """

    sessions: int
    rows: int


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    purpose = __doc__.splitlines()[0] if __doc__ else ""
    p = cells.parser("wordings", purpose, seeds=(0, 1))
    p.add_argument("--arms", nargs="+", choices=[*ARMS, OPEN_BOOK], default=[*ARMS, OPEN_BOOK])
    p.add_argument("--sessions", type=int, choices=(1, 2, 3), default=1, help="of a chain")
    p.add_argument("--rows", type=int, default=24, help="of a subject, spread over its file")
    return p


def main(words: Sequence[str]) -> int:
    """Train and score what is missing, then print the report; 1 where a cell failed."""
    args = parser().parse_args(words)
    setup = Setup(
        base=args.base,
        sessions=args.sessions,
        rows=args.rows,
        epochs=args.epochs,
        until_learned=not args.every_epoch,
    )
    cells.claim(args.out, setup)
    todo = [] if args.report_only else chains(args)
    is_done = [cells.is_done(partial(_chain, args.out, setup, chain)) for chain in todo]
    cells.report(args.out, words, wordings_report.text(args.out))
    return 0 if all(is_done) else 1


def chains(args: argparse.Namespace) -> Iterator[cells.Chain]:
    """Yield the chains, so that a run cut short has every arm with the first seed."""
    for seed in args.seeds:
        for arm in args.arms:
            if arm != OPEN_BOOK or seed == args.seeds[0]:  # no training, so no seed
                yield cells.Chain(arm=arm, seed=seed)


def _chain(folder: Path, setup: Setup, chain: cells.Chain) -> None:
    """Carry out what is missing of a chain."""
    numbers = [setup.sessions] if chain.arm == OPEN_BOOK else range(1, setup.sessions + 1)
    module = "open_book" if chain.arm == OPEN_BOOK else "retention_cell"
    for number in numbers:
        path = folder / chain.name / f"cell-{number}.json"
        known = {**dataclasses.asdict(chain), "number": number}
        cells.fill(path, known, f"benchmarks.{module}", task_of(folder, setup, chain, number))


def task_of(folder: Path, setup: Setup, chain: cells.Chain, number: int) -> Task:
    """Return what a cell's process is told; the subjects' files are written if need be."""
    arm = ARMS.get(chain.arm, Arm())
    subjects = SUBJECTS[: setup.sessions]
    return Task(
        label=f"{chain.name} {number}/{setup.sessions}",
        base=setup.base,
        store=str(folder / chain.name / "store"),
        subjects=[str(_data(folder, name, setup.rows, arm.wordings)) for name in subjects],
        taught=list(range(number)),
        joint=False,
        name=subjects[number - 1],
        flags={**setup.flags, **arm.settings, "seed": chain.seed},
    )


def _data(folder: Path, subject: str, count: int, wordings: int) -> Path:
    path = folder / "data" / str(wordings) / f"{subject}.json"
    return cells.kept(path, lambda: rows(subject, count, wordings))


def rows(subject: str, count: int, wordings: int) -> list[dict[str, Any]]:
    """Return rows of ``data/``, at even distances in the file, each in so many wordings."""
    every = json.loads((_ROOT / "data" / f"{subject}.json").read_text())
    chosen = [every[i * len(every) // count] for i in range(count)]
    if wordings == 1:
        return [{key: row[key] for key in row if key != "wordings"} for row in chosen]
    return [{**row, "wordings": row["wordings"][: wordings - 1]} for row in chosen]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
