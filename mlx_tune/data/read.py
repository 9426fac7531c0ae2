"""Paths in, checked rows out; and rows to bytes and back, as a session keeps them."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_tune.data import checks, strict_json
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.errors import InputError


def read(paths: Sequence[Path]) -> list[Row]:
    """Return the rows of files and folders, in the order given.

    Args:
        paths: ``.json`` and ``.jsonl`` files, or folders, whose own such files are read by name.

    Returns:
        At least one row, each with its place.

    Raises:
        InputError: Something is missing, empty or no row: at most 20 problems, one a line.
    """
    if not paths:
        raise InputError(f"no data was named; accepted are {strict_json.FORMATS}")
    try:
        return _read_all(paths)
    except InputError as error:
        raise _in_short(error) from error


def dump(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON Lines: UTF-8, sorted keys, every line ended."""
    return "".join(canonical_json(row.to_json()) + "\n" for row in rows).encode()


def load(data: bytes, place: str) -> list[Row]:
    """Return the rows that ``dump`` wrote; none for no bytes.

    Args:
        data: JSON Lines.
        place: The file's name, for messages and for the rows' places.

    Raises:
        InputError: Not strict JSON Lines, or not rows: at most 20 problems, one a line.
    """
    try:
        return checks.check(strict_json.parse_jsonl(data, place), place)
    except InputError as error:
        raise _in_short(error) from error


def fingerprint(rows: Iterable[Row]) -> str:
    """Return the sha256 (hex) of the rows' dump: same rows, same order, same fingerprint."""
    return hashlib.sha256(dump(rows)).hexdigest()


def _in_short(error: InputError) -> InputError:
    return InputError(checks.report(str(error).split("\n")))


def _read_all(paths: Sequence[Path]) -> list[Row]:
    """Read every path, or raise one InputError with the problems of them all."""
    rows: list[Row] = []
    problems: list[str] = []
    for path in paths:
        try:
            rows += _read_folder(path) if path.is_dir() else _read_file(path)
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; make it readable")
    if problems:
        raise InputError("\n".join(problems))
    return rows


def _read_folder(path: Path) -> list[Row]:
    files = sorted(file for file in path.iterdir() if _is_data(file))
    if not files:
        raise InputError(f"{path}: a folder without data; accepted are {strict_json.FORMATS}")
    return _read_all(files)


def _read_file(path: Path) -> list[Row]:
    if not path.exists():
        raise InputError(f"{path}: does not exist; accepted are {strict_json.FORMATS}")
    items = strict_json.read_file(path)
    if not items:
        raise InputError(f"{path}: holds no rows; accepted are {strict_json.FORMATS}")
    return checks.check(items, str(path))


def _is_data(path: Path) -> bool:
    # macOS leaves "._cs.json" beside cs.json on foreign disks; it is no JSON.
    hidden = path.name.startswith(".")
    return path.suffix.lower() in strict_json.SUFFIXES and path.is_file() and not hidden
