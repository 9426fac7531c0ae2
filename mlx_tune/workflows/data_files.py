"""Writes data files from others: in the one shape that people edit, or parted into splits."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.data import read
from mlx_tune.data.folders import SUFFIXES
from mlx_tune.data.rows import Row
from mlx_tune.errors import UsageError
from mlx_tune.files.durable import check_new, new_file, new_folder

TRAIN, VALID, TEST = "train", "valid", "test"


@dataclass(frozen=True, kw_only=True)
class ConvertedData:
    """A data file that was written.

    Attributes:
        out: The file.
        rows: How many it has.
        passed_over: Of every field that teaches nothing and was left out, in how many rows it
            stood.
    """

    out: Path
    rows: int
    passed_over: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        return {"out": str(self.out), "rows": self.rows, "passed_over": dict(self.passed_over)}


@dataclass(frozen=True, kw_only=True)
class SplitData:
    """A folder of splits that was written.

    Attributes:
        out: The folder.
        rows: Of each split, how many rows it has.
        passed_over: As of :class:`ConvertedData`.
    """

    out: Path
    rows: Mapping[str, int]
    passed_over: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        return {
            "out": str(self.out), "rows": dict(self.rows), "passed_over": dict(self.passed_over),
        }  # fmt: skip


def convert_data(paths: Sequence[Path], out: Path) -> ConvertedData:
    """Write the rows of data files of any shape as JSON that a person can edit.

    Args:
        paths: Files and folders, as for a training.
        out: A .json or .jsonl file that does not exist yet.

    Raises:
        InputError: The data cannot be read.
        UsageError: The file exists, or has another ending.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: expected a name that ends with {' or '.join(SUFFIXES)}")
    check_new(out)
    rows = read.read(paths)
    with new_file(out) as scratch:
        scratch.write_text(_written(rows, out.suffix.lower()), encoding="utf-8")
    return ConvertedData(out=out, rows=len(rows), passed_over=read.count_passed_over(rows))


def split_data(
    paths: Sequence[Path], out: Path, *, valid: float, test: float, seed: int
) -> SplitData:
    """Part rows into files to train on, to hold out and to leave, which a training tells apart.

    Rows that ask alike stay together, for else the answer to a question that is held out would be
    taught.

    Args:
        paths: Files and folders, as for a training.
        out: A folder that does not exist yet.
        valid: Share of the rows to hold out, 0 to 1.
        test: Share of the rows to leave.
        seed: Of the choice.

    Raises:
        InputError: The data cannot be read.
        UsageError: The folder exists, a share is none, or nothing would be left to train on.
    """
    if min(valid, test) < 0 or not 0 < valid + test < 1:
        raise UsageError("--valid and --test are shares of the rows: together above 0 and below 1")
    check_new(out)
    rows = read.read(paths)
    splits = _splits(rows, {TEST: test, VALID: valid}, seed)
    if not splits[TRAIN]:
        raise UsageError(
            f"{len(rows)} rows ask so few different things that none is left to train on; take "
            "smaller shares"
        )
    with new_folder(out) as scratch:
        for name, chosen in splits.items():
            if chosen:
                path = scratch / f"{name}.json"
                path.write_text(_written(chosen, path.suffix), encoding="utf-8")
    return SplitData(
        out=out,
        rows={name: len(chosen) for name, chosen in splits.items()},
        passed_over=read.count_passed_over(rows),
    )


def _splits(rows: Sequence[Row], shares: Mapping[str, float], seed: int) -> dict[str, list[Row]]:
    """Return the rows of each split in their order; a split has its share, or a little more."""
    alike: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        alike.setdefault(row.likeness, []).append(i)
    groups = list(alike.values())
    random.Random(seed).shuffle(groups)
    found: dict[str, list[Row]] = {}
    for name, share in shares.items():
        chosen: list[int] = []
        while groups and len(chosen) < share * len(rows):
            chosen += groups.pop()
        found[name] = [rows[i] for i in sorted(chosen)]
    found[TRAIN] = [rows[i] for i in sorted(i for group in groups for i in group)]
    return {name: found[name] for name in (TRAIN, VALID, TEST)}


def _written(rows: Sequence[Row], suffix: str) -> str:
    """Return rows as a JSON array, one field a line, or as JSON Lines."""
    shown = [_plain(row) for row in rows]
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shown)
    return json.dumps(shown, ensure_ascii=False, indent=1) + "\n"


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as a person writes it, where it is one question and one answer."""
    stored = row.to_json()
    if [one.role for one in row.messages] != ["user", "assistant"]:
        return stored
    question, answer = stored.pop("messages")
    if "tools" in stored or any(one.keys() > {"role", "content"} for one in (question, answer)):
        return row.to_json()
    return {"instruction": question["content"], "response": answer["content"], **stored}
