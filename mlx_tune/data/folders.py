"""Which files of a folder are data, and what each is for: to train on, to hold out, to leave alone.

A name says it with a word of its own, wherever it stands: `train-00000-of-00002.parquet`,
`cs_test.csv`, `dev-v2.0.json`. The words are those of Hugging Face's `datasets`, which reads
folders by the same rule, so that what was published as a test is one here.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mlx_tune.data import tables
from mlx_tune.errors import InputError

SUFFIXES = (".json", ".jsonl")
"""Of the data files that are written as well as read."""

READ_SUFFIXES = (*SUFFIXES, *tables.CSV_SUFFIXES, tables.PARQUET_SUFFIX)
FORMATS = ".json (one array of rows), .jsonl (one row a line), .csv, .tsv and .parquet"

Use = Literal["train", "hold out", "leave"]

_USES: Mapping[str, Use] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "hold out"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "leave"),
}
_WORD = re.compile(r"[^\W\d_]+")
# train-00000-of-00002, in older sets with a hash behind it.
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")
_NO_DATA = re.compile(r"readme|licen[cs]e", re.IGNORECASE)
_SHOWN = 3
_ONE_BY_ONE = "name the files to train on one by one"


def data_files(folder: Path) -> list[Path]:
    """Return the data files of a folder, at least one, in the order of their names.

    Raises:
        InputError: There is none.
    """
    files = [path for path in _entries(folder) if _is_data(path)]
    if not files:
        folders = [path.name for path in _entries(folder) if path.is_dir()]
        fix = f"; it has folders, so name those: {_listed(folders)}" if folders else ""
        raise InputError(f"{folder}: a folder without data; accepted are {FORMATS}{fix}")
    return files


def not_read(folder: Path) -> list[str]:
    """Return what stands in a folder and is no data file of it: subfolders and other suffixes.

    Hidden files, a README and a licence are nobody's data, and are not among them.
    """
    others = (path for path in _entries(folder) if not _is_data(path))
    return [
        f"{path}/" if path.is_dir() else str(path)
        for path in others
        if path.is_dir() or not _NO_DATA.match(path.name)
    ]


def said_uses(path: Path) -> frozenset[Use]:
    """Return what the name of a file or folder says it is for; nothing for most names."""
    return frozenset(_USES[word] for word in _WORD.findall(path.name.lower()) if word in _USES)


def uses_of_folder(folder: Path, files: Sequence[Path]) -> list[Use]:
    """Return what each file of a folder is for; all are to train on where no name says anything.

    Raises:
        InputError: A name says two things; it says nothing beside one that does; no file is to
            train on; or a part of a split is missing.
    """
    _check_parts(folder, files)
    said = [said_uses(file) for file in files]
    if not any(said):
        return ["train"] * len(files)
    for file, uses in zip(files, said, strict=True):
        if len(uses) > 1:
            words = " and ".join(word for word in _WORD.findall(file.name.lower()) if word in _USES)
            raise InputError(f"{file}: the name says {words}; rename it, or {_ONE_BY_ONE}")
    if others := [file.name for file, uses in zip(files, said, strict=True) if not uses]:
        named = next(file.name for file, uses in zip(files, said, strict=True) if uses)
        raise InputError(
            f"{folder}: {_listed(others)} beside {named}, of which it is not known whether to "
            f"train on it; put train, valid or test into the name, or {_ONE_BY_ONE}"
        )
    if not any("train" in uses for uses in said):
        names = _listed([file.name for file in files])
        raise InputError(f"{folder}: {names} and no file with train in its name; {_ONE_BY_ONE}")
    return [use for uses in said for use in uses]


def uses_of_named(paths: Sequence[Path]) -> list[Use]:
    """Return what each file or folder that a person named is for.

    They are to train on, since they were named. But ``folder/*`` names them all: where one has
    train in its name, the others are what theirs say.
    """
    said = [said_uses(path) for path in paths]
    if frozenset({"train"}) not in said:
        return ["train"] * len(paths)
    return [next(iter(uses)) if len(uses) == 1 else "train" for uses in said]


def _check_parts(folder: Path, files: Sequence[Path]) -> None:
    """Report a part of a split that is not there."""
    parts: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for file in files:
        if found := _PART.fullmatch(file.stem):
            parts[found[1], found[3], file.suffix].add(int(found[2]))
    for (name, total, suffix), numbers in parts.items():
        first = 1 if int(total) in numbers else 0  # most count from 0
        every = range(first, first + int(total))
        if missing := [f"{name}-{i:05}-of-{total}{suffix}" for i in every if i not in numbers]:
            are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
            fix = f"put {them} there, or {_ONE_BY_ONE}"
            raise InputError(f"{folder}: {_listed(missing)} {are} missing; {fix}")


def _entries(folder: Path) -> list[Path]:
    # macOS writes "._cs.json" beside cs.json on disks of other systems; it is not JSON.
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in READ_SUFFIXES and path.is_file()


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
