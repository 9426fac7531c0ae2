"""JSON as it is defined, each value with the line it stands on, and nothing guessed.

Arrays and objects are walked here, because depth, lines and duplicate keys are theirs; every string
and number is read by the standard library's scanner.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from mlx_tune.errors import InputError

MAX_FILE_BYTES = 1024**3
MAX_DEPTH = 64
SUFFIXES = (".json", ".jsonl")
FORMATS = ".json (one array of rows) and .jsonl (one row a line)"

_BLANK = " \t\r\n"
_BLANKS = re.compile(r"[ \t\r\n]*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Longer integers exceed what a float holds, so they count as infinite, as 1e400 does; past 4,300
# digits int() would refuse them with an error of its own.
_MAX_INTEGER_DIGITS = 308
_REASONS = {
    "Expecting value": "expected a value",
    "Unterminated string starting at": "a string without its closing quote",
    "Invalid control character at": "a raw line break or control character in a string; "
    r"write it as \n, \t or \u00XX",
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """An element of an array, or a line of JSON Lines.

    Attributes:
        value: What was read; every object in it is a ``JsonObject``.
        line: The line, from 1, on which it starts.
    """

    value: object
    line: int


class JsonObject(dict[str, object]):
    """An object that knows its lines.

    Attributes:
        line: The line, from 1, of its opening brace.
        key_lines: The line of each of its keys.
    """

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.key_lines: dict[str, int] = {}


def read_file(path: Path) -> list[Item]:
    """Return the elements of a ``.json`` array, or the lines of a ``.jsonl`` file.

    Args:
        path: A file of at most ``MAX_FILE_BYTES``; its suffix says which of the two it is.

    Returns:
        One item a row; none for a file that is blank or holds an empty array.

    Raises:
        InputError: Not a data file, too large, or not strict JSON. One problem a line: the first
            of an array, the first of every line of JSON Lines.
        OSError: The file system does not give it.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: not a data format; accepted are {FORMATS}")
    parse = parse_json if suffix == ".json" else parse_jsonl
    return parse(_read_bytes(path), str(path))


def parse_json(data: bytes, place: str) -> list[Item]:
    """Return the elements of the array that ``data`` holds; none if it is blank.

    Args:
        data: UTF-8, with or without a byte order mark.
        place: The file's name, for messages.

    Raises:
        InputError: Not strict JSON, or not an array.
    """
    text = decode(data, place)
    if not text.strip(_BLANK):
        return []
    reader = _Reader(text, place, line=1)
    items = list(reader.document_elements())
    reader.expect_end()
    return items


def parse_jsonl(data: bytes, place: str) -> list[Item]:
    """Return the value of every line of ``data`` that is not blank.

    Args:
        data: UTF-8, with or without a byte order mark.
        place: The file's name, for messages.

    Raises:
        InputError: Lines that are not strict JSON, each with its first problem.
    """
    items, problems = [], []
    # Not splitlines(): it also cuts at U+2028 and its like, which a string may hold.
    for line, text in enumerate(decode(data, place).split("\n"), start=1):
        if not text.strip(_BLANK):
            continue
        try:
            items.append(Item(value=_Reader(text, place, line=line).document(), line=line))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return items


def decode(data: bytes, place: str) -> str:
    """Return the text that ``data`` is, a byte order mark left out.

    Args:
        data: UTF-8.
        place: The file's name, for messages.

    Raises:
        InputError: Not UTF-8: the line and the offset of the first bad byte.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise InputError(f"{place}:{line}: {byte} is not UTF-8; save it as UTF-8") from error


def kind(value: object) -> str:
    """Return what ``value`` is, in words for a message: "a number", "an object"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "text", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return next(name for known, name in names.items() if isinstance(value, known))


def quoted(name: str) -> str:
    """Return ``name`` in quotes, shortened, with whatever could break a line escaped."""
    shown = name if len(name) <= 40 else name[:40] + "…"
    return json.dumps(shown, ensure_ascii=not shown.isprintable())


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        # Reading a FIFO would wait for ever.
        raise InputError(f"{path}: not a regular file; accepted are {FORMATS}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: {size:,} bytes; the limit is {MAX_FILE_BYTES:,}, so split it")
    return path.read_bytes()


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else math.inf


_SCALARS = json.JSONDecoder(parse_int=_integer)


class _Reader:
    """Walks one JSON text from left to right.

    ``key`` is the nearest key above the value being read, for messages; None if there is none.
    """

    def __init__(self, text: str, place: str, *, line: int) -> None:
        self.text = text
        self.place = place
        self.first_line = line
        self.line = line
        self.at = 0

    def document(self) -> object:
        """Return the one value of the text."""
        self._skip_blanks()
        value = self._value(None, depth=1)
        self.expect_end()
        return value

    def document_elements(self) -> Iterator[Item]:
        """Yield the elements of the array that the text must hold."""
        self._skip_blanks()
        line = self.line
        if self._next() == "[":
            yield from self._elements(None, depth=1)
            return
        found = kind(self._value(None, depth=1))
        fix = "put the rows into one array [...], or name the file .jsonl if it has one a line"
        raise InputError(f"{self.place}:{line}: found {found}, not an array; {fix}")

    def expect_end(self) -> None:
        """Refuse anything but blanks after the value."""
        self._skip_blanks()
        if self._next():
            self._refuse_syntax(self.at, "more text after the end of the value")

    def _value(self, key: str | None, *, depth: int) -> object:
        match self._next():
            case "{":
                return self._object(depth=depth)
            case "[":
                return [item.value for item in self._elements(key, depth=depth)]
            case _:
                return self._scalar(key)

    def _elements(self, key: str | None, *, depth: int) -> Iterator[Item]:
        more = self._open("]", depth)
        while more:
            line = self.line
            yield Item(value=self._value(key, depth=depth + 1), line=line)
            more = self._go_on("]")

    def _object(self, *, depth: int) -> JsonObject:
        found = JsonObject(self.line)
        more = self._open("}", depth)
        while more:
            key = self._key(found)
            found[key] = self._value(key, depth=depth + 1)
            more = self._go_on("}")
        return found

    def _open(self, close: str, depth: int) -> bool:
        """Step over the opening bracket; say whether anything follows it."""
        if depth > MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} deep, which is the limit; flatten it")
        self._step()
        if self._next() != close:
            return True
        self._step()
        return False

    def _go_on(self, close: str) -> bool:
        """Step over the comma or the closing bracket; say whether another element follows."""
        self._skip_blanks()
        mark = self._next()
        if mark not in (",", close) or not mark:
            self._refuse_syntax(self.at, f'expected "," or "{close}"')
        comma = self.at
        self._step()
        if mark == "," and self._next() == close:
            self._refuse_syntax(comma, f'a comma before "{close}"; remove it')
        return mark == ","

    def _key(self, found: JsonObject) -> str:
        if self._next() != '"':
            self._refuse_syntax(self.at, "expected a key in double quotes")
        line, key = self.line, cast(str, self._scalar(None))
        if key in found:
            first = found.key_lines[key]
            self._refuse(f"{quoted(key)} is given twice, first on line {first}; keep one")
        found.key_lines[key] = line
        self._skip_blanks()
        if self._next() != ":":
            self._refuse_syntax(self.at, f'expected ":" after {quoted(key)}')
        self._step()
        return key

    def _scalar(self, key: str | None) -> object:
        start = self.at
        try:
            value, self.at = _SCALARS.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            reason = _REASONS.get(error.msg, error.msg[:1].lower() + error.msg[1:])
            self._refuse_syntax(error.pos, reason)
        if isinstance(value, float) and not math.isfinite(value):
            raw = self.text[start : self.at]
            shown = raw if len(raw) <= 20 else raw[:20] + "…"
            name = "a value" if key is None else quoted(key)
            self._refuse(f"{name} is {shown}; write a finite number")
        if isinstance(value, str) and (half := _LONE_SURROGATE.search(value)):
            code = f"\\u{ord(half[0]):04x}"
            name = quoted(value if key is None else key)
            self._refuse(f"{name} holds {code}, half of a character; write the whole character")
        return value

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _step(self) -> None:
        self.at += 1
        self._skip_blanks()

    def _skip_blanks(self) -> None:
        if self._next() > " ":
            return  # no blank sorts above the space: most calls end here, without the match
        blanks = _BLANKS.match(self.text, self.at)
        if blanks and blanks.end() > self.at:
            self.line += self.text.count("\n", self.at, blanks.end())
            self.at = blanks.end()

    def _refuse(self, problem: str) -> NoReturn:
        raise InputError(f"{self.place}:{self.line}: {problem}")

    def _refuse_syntax(self, position: int, reason: str) -> NoReturn:
        line = self.first_line + self.text.count("\n", 0, position)
        column = position - self.text.rfind("\n", 0, position)
        raise InputError(f"{self.place}:{line}:{column}: {reason}")
