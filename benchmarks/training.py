"""Training measured against mlx-lm and PEFT: the same rows, one run, the sides in turn.

`make bench` calls it; benchmarks/README.md says how, and what each number means.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import machine, report, rounds, rows
from benchmarks.report import MLX_LM, MLX_LM_PLAIN, OURS, PEFT_BFLOAT16, PEFT_FLOAT32
from benchmarks.rounds import Measured, Side
from benchmarks.rows import RowSet
from benchmarks.shapes import SHAPES
from benchmarks.sides.job import Job, write_rows
from mlx_tune import blas
from mlx_tune.models import bases, runtime
from mlx_tune.models.load import load_tokenizer

BASE = "smollm2-135m"
EFFECTIVE_BATCH = 8

_BLAS_FIRST = (
    "import mlx_tune, runpy; runpy.run_module('benchmarks.sides.mlx_lm_side', run_name='__main__')"
)
"""mlx-lm's side as it is, in a process where mlx_tune has loaded the BLAS before MLX."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="benchmarks.training",
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--rounds", type=int, default=3, help="turns of every side")
    p.add_argument("--epochs", type=int, default=1, help="passes over the rows in a turn")
    p.add_argument("--warmup", type=int, default=1, help="first steps of a turn, not counted")
    p.add_argument("--steps", type=int, help="end a turn after so many, for a quick look")
    p.add_argument("--batch-size", type=int, choices=(1, 2, 4, 8), default=8, help="micro-batch")
    p.add_argument("--rank", type=int, default=16, help="of the adapter")
    p.add_argument("--json", type=Path, help="a file for everything that was measured")
    real = p.add_argument_group(f"on {BASE}")
    real.add_argument(
        "--sets", nargs="+", choices=("cs", "mixed"), default=("cs", "mixed"), help="rows"
    )
    real.add_argument("--slow-steps", type=int, default=2, help="of mlx-lm as it comes; 0 for none")
    real.add_argument("--torch-python", help="an interpreter with torch and peft")
    shape = p.add_argument_group("on random weights and tokens")
    shape.add_argument("--shape", choices=SHAPES, help="architecture")
    shape.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights"
    )
    shape.add_argument("--rows", type=int, default=64, help="how many")
    shape.add_argument("--lengths", type=_span, default="40-400", help="of a row in tokens")
    shape.add_argument("--prefix", type=int, default=24, help="tokens all rows share")
    return p


def _span(text: str) -> tuple[int, int]:
    """Read "40-400" as (40, 400), and "128" as (128, 128)."""
    shortest, _, longest = text.partition("-")
    return int(shortest), int(longest or shortest)


def main(words: Sequence[str]) -> None:
    """Measure set after set; print a table of each and write the JSON."""
    args = parser().parse_args(words)
    sets = []
    for number, chosen in enumerate(row_sets(args)):
        with tempfile.TemporaryDirectory() as folder:
            job = job_of(args, Path(folder))
            write_rows(Path(job.rows), chosen.rows)
            sides = sides_of(args, job, first=number == 0)
            done = rounds.measure(sides, args.rounds, _progress)
        lines = text_of(args, chosen, job, done)
        print("\n".join(lines), end="\n\n", flush=True)
        sets.append(record_of(chosen, sides, done, lines))
        if args.json:  # after every set: an hour's work must not hang on the next
            whole = {"command": list(words), "machine": machine.describe(), "sets": sets}
            args.json.write_text(json.dumps(whole, indent=1) + "\n")


def row_sets(args: argparse.Namespace) -> list[RowSet]:
    """Return the sets to train on."""
    if args.shape:
        shortest, longest = args.lengths
        vocabulary = SHAPES[args.shape].vocabulary
        return [
            rows.drawn(
                count=args.rows,
                shortest=shortest,
                longest=longest,
                prefix=args.prefix,
                vocabulary=vocabulary,
            )
        ]
    info = bases.locate(BASE, say=_progress)
    tokenizer = load_tokenizer(info.folder, info.template)
    made = {"cs": rows.plain, "mixed": rows.mixed}
    return [made[name](tokenizer) for name in args.sets]


def job_of(args: argparse.Namespace, folder: Path) -> Job:
    """Return what every side is told."""
    return Job(
        rows=str(folder / "rows.json"),
        folder=str(folder),
        model=None if args.shape else str(bases.locate(BASE).folder),
        shape=args.shape or BASE,
        dtype=args.dtype if args.shape else "float32",
        rank=args.rank,
        scale=2.0,
        learning_rate=1e-4,
        batch_size=args.batch_size,
        grad_accumulation=EFFECTIVE_BATCH // args.batch_size,
        epochs=args.epochs,
        warmup=args.warmup,
        max_steps=args.steps,
        seed=0,
    )


def sides_of(args: argparse.Namespace, job: Job, *, first: bool) -> list[Side]:
    """Return the sides that can be measured here.

    mlx-lm as it comes is so slow that it takes a few steps, in the first round of the first set,
    and none to warm up: what a first step does more is nothing beside it. Where MLX has no use for
    a BLAS of ours, it would be the same side twice.
    """
    here = (sys.executable, "-m")
    sides = [
        Side(name=OURS, command=(*here, "benchmarks.sides.ours"), job=job),
        Side(name=MLX_LM, command=(sys.executable, "-c", _BLAS_FIRST), job=job),
    ]
    if args.shape:
        return sides
    if args.torch_python:
        torch = (args.torch_python, "-m", "benchmarks.sides.peft_side")
        sides.append(Side(name=PEFT_FLOAT32, command=torch, job=job))
        sides.append(Side(name=PEFT_BFLOAT16, command=torch, job=replace(job, dtype="bfloat16")))
    if first and args.slow_steps and blas.loaded and not runtime.on_gpu():
        few = replace(job, max_steps=args.slow_steps, warmup=0)
        plain = (*here, "benchmarks.sides.mlx_lm_side")
        sides.append(Side(name=MLX_LM_PLAIN, command=plain, job=few, once=True))
    return sides


def text_of(args: argparse.Namespace, chosen: RowSet, job: Job, done: Measured) -> list[str]:
    """Return what is printed of one set."""
    shape = SHAPES[job.shape]
    sides = {
        name: report.summary(results, shape, job.rank)
        for name, results in done.results.items()
        if results
    }
    limit = report.limit(done.products)
    targets = report.SHAPE_TARGETS if args.shape else report.CPU_TARGETS
    return [
        f"{job.shape}, rank {job.rank}, {EFFECTIVE_BATCH} rows a step in micro-batches of "
        f"{job.batch_size}",
        f"{chosen.name}: {chosen.describe()}",
        f"{args.rounds} rounds of {job.epochs} epoch(s), the first {job.warmup} step(s) of each "
        "not counted; medians",
        *report.table(sides, limit),
        f"beyond, RSS: MiB beyond the weights; share: of {limit / 1e9:,.0f} GFLOP/s in {job.dtype}",
        *(report.verdict(target, sides) for target in targets),
    ]


def record_of(
    chosen: RowSet, sides: Sequence[Side], done: Measured, lines: Sequence[str]
) -> dict[str, Any]:
    """Return everything about one set, for the JSON."""
    return {
        "name": chosen.name,
        "how": chosen.how,
        "lengths": chosen.lengths,
        "text": list(lines),
        "products": done.products,
        "sides": [
            {**dataclasses.asdict(side), "rounds": list(map(dataclasses.asdict, results))}
            for side, results in zip(sides, done.results.values(), strict=True)
        ],
    }


def _progress(line: str) -> None:
    """Say where the run is; the tables alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
