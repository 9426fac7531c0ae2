"""Reads data files, folders and lists of questions; every problem is told with its file and line.

What a row is, and what is wrong with one that is none, is in `shapes`; tables are in `tables`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.data import folders, tables
from mlx_tune.data.fields import Problems
from mlx_tune.data.folders import FORMATS, READ_SUFFIXES, Use
from mlx_tune.data.rows import Message, Row, canonical_json
from mlx_tune.data.shapes import EXAMPLE, read_row
from mlx_tune.errors import InputError
from mlx_tune.files import strict_json
from mlx_tune.files.strict_json import Item
from mlx_tune.text import quoted

MAX_FILE_BYTES = 1024**3
MAX_PROBLEMS_SHOWN = 20
MAX_QUESTIONS_BYTES = 16 * 1024**2
"""Size limit of a list of questions, about 200,000 questions."""

# The first line with anything in it, and whether more follows.
_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?P<line>(?P<bracket>[\[{])[^\n]*+)(?P<more>\s*[^\s])?")
_QUESTIONS_FIX = f"write one question a line, or name a data file: {', '.join(READ_SUFFIXES)}"


def read(paths: Sequence[Path]) -> list[Row]:
    """Return the rows of files and folders, at least one, in the order given.

    Args:
        paths: Files with one of ``READ_SUFFIXES``, and folders, whose files with such a suffix are
            read in the order of names.

    Raises:
        InputError: A file is missing or empty, or a value is no row: at most
            ``MAX_PROBLEMS_SHOWN`` problems, one per line; equal ones of a file are one.
    """
    if not paths:
        raise InputError(f"no data was named; accepted are {FORMATS}")
    with _shortened():
        return _read_all(paths)


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file that was read.

    Attributes:
        path: Its place.
        rows: How many rows it holds.
        use: What they are for.
    """

    path: Path
    rows: int
    use: Use


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The rows of files and folders.

    Attributes:
        rows: To train on, at least one.
        held_out: To choose the best checkpoint by.
        files: Every file, in the order in which they were read.
        not_read: What stands in the folders besides; a folder ends with a slash.
        passed_over: Of every field that teaches nothing, in how many rows of all files it stands.
    """

    rows: list[Row]
    held_out: list[Row]
    files: list[DataFile]
    not_read: list[str]
    passed_over: Mapping[str, int]


def read_set(paths: Sequence[Path]) -> DataSet:
    """Return the rows of files and folders, as :func:`read` does, each file with its use.

    Where a file of a folder has a word such as ``train`` or ``test`` in its name, names say which
    files are held out or left alone: see :mod:`mlx_tune.data.folders`.

    Raises:
        InputError: As for :func:`read`; or names of a folder do not say what each file is for.
    """
    if not paths:
        raise InputError(f"no data was named; accepted are {FORMATS}")
    named = zip(paths, folders.uses_of_named(paths), strict=True)
    found = [part for path, use in named for part in _with_uses(path, use)]
    with _shortened():
        each = _read_each([path for path, _ in found])
    uses = [use for _, use in found]
    return DataSet(
        rows=[row for rows, use in zip(each, uses, strict=True) if use == "train" for row in rows],
        held_out=[
            row for rows, use in zip(each, uses, strict=True) if use == "hold out" for row in rows
        ],
        files=[
            DataFile(path=path, rows=len(rows), use=use)
            for (path, use), rows in zip(found, each, strict=True)
        ],
        not_read=[name for path in paths if path.is_dir() for name in folders.not_read(path)],
        passed_over=count_passed_over(row for rows in each for row in rows),
    )


def count_passed_over(rows: Iterable[Row]) -> Mapping[str, int]:
    """Return, of every field that teaches nothing, in how many rows it stands."""
    return dict(Counter(name for row in rows for name in row.passed_over))


def _with_uses(path: Path, use: Use) -> list[tuple[Path, Use]]:
    """Return the files of a path that is for one use, each with its own."""
    try:
        files = folders.data_files(path) if path.is_dir() else []
    except InputError:  # told with the problems of the others
        files = []
    if not files:
        return [(path, use)]
    if use != "train":
        return [(file, use) for file in files]
    return list(zip(files, folders.uses_of_folder(path, files), strict=True))


def load(data: bytes, place: str) -> list[Row]:
    """Return the rows of JSON Lines; the inverse of :func:`dump`.

    Args:
        data: JSON Lines; no bytes for no rows.
        place: The name of the file, for messages and for the places of the rows.

    Raises:
        InputError: A line is not strict JSON, or no row, or has a field that teaches nothing, which
            :func:`dump` never writes: at most ``MAX_PROBLEMS_SHOWN`` problems, one per line.
    """
    rows = _loads(data, place)
    for row in rows:
        for name in row.passed_over:
            raise InputError(f"{row.place}: {quoted(name)} is not a field of a stored row")
    return rows


def from_values(values: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of values in memory, with the same checks as those of a data file.

    Args:
        values: Each as on a line of a data file, such as
            ``{"instruction": "…", "response": "…"}``; the place of a row is ``rows:N``, N from 1.

    Raises:
        InputError: There are no values, or some are no rows: at most ``MAX_PROBLEMS_SHOWN``
            problems, one per line.
    """
    try:
        lines = [json.dumps(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"rows: {error}; a row holds what JSON can") from error
    if not lines:
        raise InputError(f"rows: none were given; a row is {EXAMPLE}")
    return _loads("\n".join(lines).encode(), "rows")


def dump(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON Lines: UTF-8, sorted keys, a newline after every line."""
    return "".join(canonical_json(row.to_json()) + "\n" for row in rows).encode()


def fingerprint(rows: Iterable[Row]) -> str:
    """Return the sha256 (hex) of rows as JSON Lines; it depends on their order."""
    return hashlib.sha256(dump(rows)).hexdigest()


def read_questions(path: Path) -> list[Row]:
    """Return the questions of a file, at least one; a row ends with it or the expected answer.

    Args:
        path: A data file, a folder of such files, or a text file with a question on each line.
            Text rows have no question and are left out.

    Raises:
        InputError: There is no such file, it has no question, or it cannot be read.
    """
    if path.is_dir() or path.suffix.lower() in READ_SUFFIXES:
        return _not_empty([row for row in read([path]) if row.question is not None], str(path))
    if not path.exists():
        raise InputError(f"{path}: does not exist; {_QUESTIONS_FIX}")
    try:
        with path.open("rb") as file:  # the size of a pipe is not known beforehand
            data = file.read(MAX_QUESTIONS_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from error
    return parse_questions(data, str(path))


def parse_questions(data: bytes, place: str) -> list[Row]:
    """Return the questions of a text, one per line; blank and # lines are left out.

    Args:
        data: UTF-8, with or without a byte order mark.
        place: The name of its source, for messages and for the places of the rows.

    Raises:
        InputError: The text is too large, not UTF-8, or has no question.
    """
    if len(data) > MAX_QUESTIONS_BYTES:
        limit = f"{MAX_QUESTIONS_BYTES:,} bytes, which is the limit"
        raise InputError(f"{place}: more than {limit}; split it")
    text = strict_json.decode(data, place)
    # Not splitlines(): it also splits at U+2028 and others, where editors count no line.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    rows = [
        Row(messages=(Message(role="user", content=line),), place=f"{place}:{number}")
        for number, line in lines
        if line and not line.startswith("#")
    ]
    return _not_empty(rows, place)


def read_items(path: Path) -> list[Item]:
    """Return what a data file holds as JSON values, each with its line; maybe none.

    Of JSON these are the elements of the array, of JSON Lines the lines, of a table its rows, each
    an object whose keys are the names of the columns. JSON Lines that are named .json are read as
    what they are, and so is an array that is named .jsonl.

    Args:
        path: A file of at most ``MAX_FILE_BYTES``.

    Raises:
        InputError: The suffix is another, the file is too large, or not of its format. One problem
            per line: the first of an array, the first of every line of JSON Lines.
        OSError: The file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in READ_SUFFIXES:
        raise InputError(f"{path}: not a data format; accepted are {FORMATS}")
    if not path.is_file():  # reading a FIFO would wait for ever
        raise InputError(f"{path}: not a regular file; accepted are {FORMATS}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: {size:,} bytes; the limit is {MAX_FILE_BYTES:,}, so split it")
    if suffix == tables.PARQUET_SUFFIX:
        return tables.read_parquet(path, limit=MAX_FILE_BYTES)
    data, place = path.read_bytes(), str(path)
    if suffix in tables.CSV_SUFFIXES:
        return tables.parse_csv(data, place)
    is_array = _is_array(data, by_suffix=suffix == ".json")
    return strict_json.parse_json(data, place) if is_array else _parse_jsonl(data, place)


def check(items: Sequence[Item], path: str) -> list[Row]:
    """Return the rows of the JSON values of a file, as :func:`mlx_tune.data.shapes.read_row` does.

    Args:
        items: The values, each with its line.
        path: The name of the file, for messages and for the places of the rows.

    Raises:
        InputError: Some values are no rows; every problem of the file, one per line; equal ones
            are one, with the first place and their number.
    """
    problems = Problems(path)
    rows = [read_row(item, problems) for item in items]
    problems.raise_if_any()
    return rows


def report(problems: Sequence[str]) -> str:
    """Return a message of at most ``MAX_PROBLEMS_SHOWN`` problems and the number of the others."""
    shown = list(problems[:MAX_PROBLEMS_SHOWN])
    rest = len(problems) - len(shown)
    return "\n".join(shown + ([f"… and {rest:,} more"] if rest else []))


def _is_array(data: bytes, *, by_suffix: bool) -> bool:
    """Tell whether a file is one array, not JSON Lines.

    Its first character and first line say so: no object is an array, and no line that is a whole
    value is the beginning of one. Where they do not, its name does.
    """
    found = _START.match(data)
    if not found or (found["bracket"] == b"[") == by_suffix:
        return by_suffix
    if not found["more"]:  # one object is told of, since it may hold the rows
        return True
    try:
        json.loads(found["line"])
    except (ValueError, RecursionError):
        return True
    return False


def _loads(data: bytes, place: str) -> list[Row]:
    with _shortened():
        return check(_parse_jsonl(data, place), place)


def _parse_jsonl(data: bytes, place: str) -> list[Item]:
    """Return the values of JSON Lines; equal problems of several lines are told as one."""
    try:
        return strict_json.parse_jsonl(data, place)
    except InputError as error:
        problems, found = Problems(place), str(error).split("\n")
        if not all(problem.startswith(f"{place}:") for problem in found):
            raise  # a path with a line break in it
        for problem in found:
            where, _, what = problem.removeprefix(f"{place}:").partition(": ")
            line, *column = where.split(":")
            problems.add(int(line), what, column="".join(f":{one}" for one in column))
        problems.raise_if_any()
        raise


def _read_all(paths: Sequence[Path]) -> list[Row]:
    return [row for rows in _read_each(paths) for row in rows]


def _read_each(paths: Sequence[Path]) -> list[list[Row]]:
    """Return the rows of each path, or raise one InputError with the problems of all."""
    found: list[list[Row]] = []
    problems: list[str] = []
    for path in paths:
        try:
            found.append(_read_all(folders.data_files(path)) if path.is_dir() else _read_file(path))
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; make it readable")
    if problems:
        raise InputError("\n".join(problems))
    return found


def _read_file(path: Path) -> list[Row]:
    if not path.exists():
        raise InputError(f"{path}: does not exist; accepted are {FORMATS}")
    if not (items := read_items(path)):
        raise InputError(f"{path}: holds no rows; accepted are {FORMATS}")
    return check(items, str(path))


@contextmanager
def _shortened() -> Iterator[None]:
    """Raise an InputError again with its first problems alone."""
    try:
        yield
    except InputError as error:
        raise InputError(report(str(error).split("\n"))) from error


def _not_empty(rows: list[Row], place: str) -> list[Row]:
    if not rows:
        raise InputError(f"{place}: asks nothing; {_QUESTIONS_FIX}")
    return rows
