"""Passages learned one after another: SQuAD's questions, asked without the passage.

The continual protocol of SEAL (Zweiger et al. 2025, arXiv:2506.10943) on its own data, a session a
passage. Every session is a cell, a file of its own: called again, the program goes on with the
cells that are missing. benchmarks/README.md says how, and what each number means.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cells, squad_report
from benchmarks.asked_cell import AskingTask
from benchmarks.squad_rows import Questions

_MAX_TOKENS = 64  # a statement has up to 40 words, and most have half as many


@dataclass(frozen=True, kw_only=True)
class Setup(cells.Setup):
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        passages: Of a chain, the first of the file.
        rows: The most of a passage.
        with_passage: Rows are made of the passage's own sentences too.
    """

    passages: int
    rows: int
    with_passage: bool


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    purpose = __doc__.splitlines()[0] if __doc__ else ""
    p = cells.parser("squad", purpose, seeds=(0,))
    p.add_argument("--data", type=Path, required=True, help="the file of passages, .json")
    p.add_argument("--passages", type=int, default=8, help="of a chain, the first of the file")
    p.add_argument("--rows", type=int, default=16, help="the most that are made of a passage")
    p.add_argument(
        "--with-passage", action="store_true", help="make rows of the passage's sentences too"
    )
    return p


def main(words: Sequence[str]) -> int:
    """Train and ask what is missing, then print the report; 1 where a cell failed."""
    args = parser().parse_args(words)
    setup = Setup(
        base=args.base,
        passages=args.passages,
        rows=args.rows,
        with_passage=args.with_passage,
        epochs=args.epochs,
        until_learned=not args.every_epoch,
    )
    cells.claim(args.out, setup)
    todo = [] if args.report_only else [None, *args.seeds]
    is_done = [cells.is_done(partial(_chain, args.out, args.data, setup, seed)) for seed in todo]
    cells.report(args.out, words, squad_report.text(args.out))
    return 0 if all(is_done) else 1


def _chain(folder: Path, data: Path, setup: Setup, seed: int | None) -> None:
    """Carry out what is missing of a seed's chain; without a seed the base is asked."""
    passages = json.loads(data.read_text(encoding="utf-8"))[: setup.passages]
    write_data(folder, setup, passages)
    for number in [0] if seed is None else range(1, len(passages) + 1):
        title = passages[number - 1]["title"] if number else "base"
        known = {"seed": seed, "number": number, "title": title}
        task = task_of(folder, setup, seed, number, len(passages))
        path = folder / chain_name(seed) / f"cell-{number}.json"
        cells.fill(path, known, "benchmarks.asked_cell", task)


def chain_name(seed: int | None) -> str:
    """Return the name of a chain's folder."""
    return "base" if seed is None else f"seed-{seed}"


def write_data(folder: Path, setup: Setup, passages: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of every passage and SQuAD's questions, unless they are there."""
    made = Questions(one["question"] for passage in passages for one in passage["questions"])
    for number, passage in enumerate(passages, 1):
        rows = made.rows(passage, setup.rows, with_passage=setup.with_passage)
        asked = [
            {"prompt": one["question"], "completion": one["answer"]} for one in passage["questions"]
        ]
        cells.kept(_rows(folder, number), partial(list, rows))
        cells.kept(_asked(folder, number), partial(list, asked))


def task_of(folder: Path, setup: Setup, seed: int | None, number: int, passages: int) -> AskingTask:
    """Return what a cell's process is told: the base is asked all, a session what is taught."""
    every = range(1, passages + 1)
    asked = range(1, number + 1) if number else every
    return AskingTask(
        label=f"{chain_name(seed)} {number}/{passages}",
        base=setup.base,
        store=str(folder / chain_name(seed) / "store"),
        subjects=[str(_rows(folder, one)) for one in every],
        taught=list(range(number)),
        joint=False,
        name=f"passage-{number}",
        flags={**setup.flags, "seed": seed or 0},
        asked={str(one): str(_asked(folder, one)) for one in asked},
        max_tokens=_MAX_TOKENS,
    )


def _rows(folder: Path, number: int) -> Path:
    return folder / "data" / f"rows-{number}.json"


def _asked(folder: Path, number: int) -> Path:
    return folder / "data" / f"questions-{number}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
