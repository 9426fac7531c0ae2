"""Tables as rows of JSON values: CSV as Excel and others write it, and Parquet.

Each row becomes the object that a line of JSON Lines would be, so that every check of a row, and
what it says, is the same. A cell with nothing in it counts as a field that is not there.
"""

import ast
import csv
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_tune.data.fields import Problems
from mlx_tune.data.rows import OTHER_QUESTIONS
from mlx_tune.data.shapes import FIELDS, PART_OF, PARTS
from mlx_tune.errors import InputError
from mlx_tune.files import strict_json
from mlx_tune.files.strict_json import Item, JsonObject
from mlx_tune.text import quoted

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIX = ".parquet"

_DELIMITERS = ",;\t"
_SAVE = "save it as CSV UTF-8"
_BATCH_ROWS = 4096
_TEXT = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
# Of texts with commas between them, as JSON or Python writes it; numpy writes none between, which
# Python would join into one text.
_LIST = re.compile(rf"\[\s*+(?:{_TEXT}\s*+(?:,\s*+{_TEXT}\s*+)*+)?\]", re.DOTALL)
_LEARNED = ("question", "answer", "text")


def parse_csv(data: bytes, place: str) -> list[Item]:
    """Return the rows of a table with a header; none if it is blank.

    The delimiter is a comma, a semicolon or a tab: that which makes the header hold the most known
    fields. A cell in double quotes may hold delimiters, line breaks and doubled quotes (RFC 4180).
    Rows with nothing in any cell are left out. A cell of ``wordings`` and its like has one a line,
    or is a list as JSON or Python writes it.

    Args:
        data: UTF-8, with or without a byte order mark, or UTF-16 with one.
        place: The file's name, for messages.

    Raises:
        InputError: Another encoding; a header without a question and an answer, or a text, or with
            a name twice; a row with more cells than the header, or fewer; a quote that is not
            closed; a list in brackets that is none.
    """
    text = _decode(data, place)
    problems = Problems(place)
    # The length of the text, which is limited already, in the place of 128 KiB a cell; the limit is
    # one for the whole program, and is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    delimiter = _delimiter(text, place)
    lines = _lines(text, delimiter, place)
    if not lines:
        return []
    (first, names), *rows = lines
    header = [name.strip() for name in names]
    _check_header(header, first, problems)
    problems.raise_if_any()
    items = []
    for line, cells in rows:
        if len(cells) != len(header):
            shown = "a tab" if delimiter == "\t" else f'"{delimiter}"'
            fix = f"put a cell with {shown} in it into quotes"
            if len(cells) < len(header):
                fix = f"write all of them, parted by {shown}, empty ones too"
            found = f"cells: {len(cells)}, and the header has {len(header)}"
            problems.add(line, f"{found}; {fix}")
        items.append(Item(value=_object(header, cells, line, problems), line=line))
    problems.raise_if_any()
    return items


def read_parquet(path: Path, *, limit: int) -> list[Item]:
    """Return the rows of a Parquet file; the line of each is its number, from 1.

    Lists and structs become lists and objects. Null, and a number that is none, is a field that is
    not there; a date, or a number with decimals of its own, is the text that it is written as.

    Args:
        path: The file.
        limit: The most bytes that its columns may take, unpacked.

    Raises:
        InputError: pyarrow is not installed; or the file is damaged, too large, or holds bytes.
        OSError: The file cannot be opened.
    """
    try:
        import pyarrow.parquet as parquet  # optional, and slow to import
    except ImportError:
        raise InputError(
            f"{path}: Parquet is read with pyarrow, which is not installed; "
            "`pip install 'mlx-tune-continual[parquet]'` does that"
        ) from None
    problems = Problems(str(path))
    items: list[Item] = []
    try:
        with path.open("rb") as stream, parquet.ParquetFile(stream) as file:
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            if size > limit:
                raise InputError(f"{path}: {size:,} bytes; the limit is {limit:,}, so split it")
            _check_names(file.schema_arrow.names, 1, problems)
            problems.raise_if_any()
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number = len(items) + 1
                    value = _json_value(row, number, problems, "a value")
                    items.append(Item(value=value, line=number))
    except InputError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are kinds of them
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"{path}: not a Parquet file that can be read ({reason})") from error
    problems.raise_if_any()
    return items


def _check_names(names: Sequence[str], line: int, problems: Problems) -> None:
    for name, count in Counter(name for name in names if name).items():
        if count > 1:
            problems.add(line, f"{count} columns are named {quoted(name)}; keep one")


# CSV


def _decode(data: bytes, place: str) -> str:
    # Excel's "Unicode Text" is UTF-16 with a mark; its plain "CSV" is in a code page, which does
    # not say which.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = f":{data.count(10, 0, error.start) + 1}" if encoding != "utf-16" else ""
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        name = encoding.removesuffix("-sig").upper()
        raise InputError(f"{place}{line}: {found} is not {name}; {_SAVE}") from error


def _delimiter(text: str, place: str) -> str:
    """Return the delimiter with which the header holds the most known fields."""

    def known(delimiter: str) -> int:
        try:
            rows = _lines(text, delimiter, place, most=1)
        except InputError:  # with another one the quotes may be sound
            return -1
        header = {name.strip().casefold() for _, names in rows for name in names}
        return len(header.intersection(FIELDS))

    first = "\t" if place.lower().endswith(".tsv") else ","
    return max(sorted(_DELIMITERS, key=lambda one: one != first), key=known)


def _lines(
    text: str, delimiter: str, place: str, *, most: int | None = None
) -> list[tuple[int, list[str]]]:
    """Return the cells of rows that are not empty, ``most`` of them, each with its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                # What separates rows separates the lines of a cell too where an editor wrote it.
                found.append((line, [cell.replace("\r\n", "\n") for cell in cells]))
            if len(found) == most:
                break
            line = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            problem = "a cell opens a quote that nothing closes"
        else:
            problem = "text after the quote that closes a cell; double the quotes inside it"
        raise InputError(f"{place}:{line}: {problem}") from None
    return found


def _check_header(header: Sequence[str], line: int, problems: Problems) -> None:
    _check_names(header, line, problems)
    parts = {PART_OF.get(name) for name in header}
    if not ({"question", "answer"} <= parts or "text" in parts):
        found = ", ".join(quoted(name) for name in header)
        question, answer, text = (", ".join(PARTS[part]) for part in _LEARNED)
        problems.add(
            line,
            f"the first line names the columns, and has {found}; it has to name a question "
            f"({question}) and an answer ({answer}), or {text}",
        )


def _object(
    header: Sequence[str], cells: Sequence[str], line: int, problems: Problems
) -> JsonObject:
    pairs: list[tuple[str, object]] = []
    for name, cell in zip(header, cells, strict=False):  # a difference is reported
        if name in OTHER_QUESTIONS:
            questions = _listed(cell)
            if questions is None:
                found = f'"{name}" stands in brackets and is no list of texts'
                problems.add(line, f'{found}; write one a line, or ["…", "…"]')
            elif questions:
                pairs.append((name, questions))
        elif cell.strip() or PART_OF.get(name) in _LEARNED:  # where it is needed, it is told of
            pairs.append((name, cell))
    return _made(line, pairs)


def _listed(cell: str) -> list[str] | None:
    """Return the texts of a cell that has several; None where a list in it cannot be read."""
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [one.strip() for one in text.split("\n") if one.strip()]
    try:
        found = strict_json.loads(text.encode())
    except ValueError:
        if not _LIST.fullmatch(text):
            return None
        try:
            with warnings.catch_warnings(action="error"):  # an escape that Python does not know
                # Through JSON, so that it is checked as all texts are.
                found = strict_json.loads(json.dumps(ast.literal_eval(text)).encode())
        except (ValueError, SyntaxError):
            return None
    is_texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return [one.strip() for one in found if one.strip()] if is_texts else None


def _made(line: int, pairs: Sequence[tuple[str, object]]) -> JsonObject:
    made = JsonObject(line, pairs)
    made.key_lines = dict.fromkeys(made, line)
    return made


# Parquet


def _json_value(value: Any, line: int, problems: Problems, name: str) -> object:
    """Return the JSON value that an Arrow value is."""
    if isinstance(value, dict):
        pairs = ((key, _json_value(one, line, problems, quoted(key))) for key, one in value.items())
        return _made(line, [(key, one) for key, one in pairs if one is not None])
    if isinstance(value, list | tuple):
        return [_json_value(one, line, problems, name) for one in value]
    if isinstance(value, bytes):
        problems.add(line, f"{name} holds bytes, and only text is read; leave the column out")
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
