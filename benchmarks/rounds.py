"""Runs the sides of a comparison in turn, round after round, each in a process of its own."""

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sides.job import Job, Result

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: For the table.
        command: The program; the job is its one argument.
        job: What it is to do.
        once: Take part in the first round only.
    """

    name: str
    command: tuple[str, ...]
    job: Job
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of all rounds.

    Attributes:
        results: By side, one for each round it took part in and finished.
        products: What `sides/products.py` said, one for each round.
    """

    results: dict[str, list[Result]]
    products: list[dict[str, Any]]


class SideError(RuntimeError):
    """A side ended without a result; the message is the last line it wrote."""


def measure(sides: Sequence[Side], rounds: int, say: Callable[[str], None]) -> Measured:
    """Run every side once a round; one that fails is left out of that round.

    Args:
        sides: In the order they take their turns.
        rounds: How often.
        say: Hears one line after each turn.
    """
    job = sides[0].job
    done = Measured(results={side.name: [] for side in sides}, products=[])
    limit = (sys.executable, "-m", "benchmarks.sides.products", job.shape, job.dtype)
    for number in range(1, rounds + 1):
        done.products.append(_run(limit))
        for side in sides if number == 1 else [side for side in sides if not side.once]:
            try:
                result = turn(side)
            except SideError as error:
                say(f"round {number}/{rounds}  {side.name:<19}  failed: {error}")
                continue
            done.results[side.name].append(result)
            say(f"round {number}/{rounds}  {side.name:<19}  {_in_short(result)}")
    return done


def turn(side: Side) -> Result:
    """Run one side once.

    Raises:
        SideError: It failed.
    """
    return Result(**_run((*side.command, json.dumps(dataclasses.asdict(side.job)))))


def _run(command: Sequence[str]) -> dict[str, Any]:
    """Return the JSON that a program prints as its last line."""
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SideError(said[-1])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _in_short(result: Result) -> str:
    return (
        f"{result.rows / result.seconds:.2f} rows/s in {len(result.step_seconds)} steps, "
        f"mean loss {statistics.mean(result.losses):.2f}"
    )
