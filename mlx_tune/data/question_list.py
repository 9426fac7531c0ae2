"""Questions to be asked: a text file with one a line, or a data file, whose answers come along."""

from pathlib import Path

from mlx_tune.data import read, strict_json
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError

MAX_BYTES = 16 * 1024**2
"""Some 200,000 questions; more would be asked for weeks."""

_FIX = "write one question a line, or name a .json or .jsonl data file"


def read_questions(path: Path) -> list[Row]:
    """Return the questions of a file, in order.

    Args:
        path: A ``.json`` or ``.jsonl`` file, a folder of such files, or a text. Its rows' answers
            stay in them; rows of plain text ask nothing and are left out.

    Returns:
        At least one row, each with its place. A row ends with its question, or with the answer that
        is expected to it.

    Raises:
        InputError: There is no such file, it asks nothing, or it cannot be read as what it is.
    """
    if path.is_dir() or path.suffix.lower() in strict_json.SUFFIXES:
        return _some([row for row in read.read([path]) if row.question is not None], str(path))
    if not path.exists():
        raise InputError(f"{path}: does not exist; {_FIX}")
    try:
        with path.open("rb") as file:  # a pipe has no size to be asked for beforehand
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from error
    return parse_questions(data, str(path))


def parse_questions(data: bytes, place: str) -> list[Row]:
    """Return the questions of a text: its lines, but for blank ones and those that begin with #.

    Args:
        data: UTF-8, with or without a byte order mark.
        place: Where it is from, for messages and for the rows' places.

    Raises:
        InputError: It is too large, not UTF-8, or asks nothing.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{place}: more than {MAX_BYTES:,} bytes, which is the limit; split it")
    text = strict_json.decode(data, place)
    # Not splitlines(): it also cuts at U+2028 and its like, where no editor counts a line.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    rows = [
        Row(messages=(Message(role="user", content=line),), place=f"{place}:{number}")
        for number, line in lines
        if line and not line.startswith("#")
    ]
    return _some(rows, place)


def _some(rows: list[Row], place: str) -> list[Row]:
    if not rows:
        raise InputError(f"{place}: asks nothing; {_FIX}")
    return rows
