"""JSON as it is defined, nothing guessed: the one reader of what people, clients and stores give.

The standard library's scanner reads every value. It takes more than JSON, and tells no lines:
``loads`` refuses the rest for files and requests that programs write, and ``parse_json`` and
``parse_jsonl`` for what a person wrote, with the line of every object and key.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from mlx_tune.errors import InputError
from mlx_tune.text import one_line, quoted

MAX_DEPTH = 64

_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_BLANK = " \t\r\n"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Strings, brackets, commas, line ends, and numbers and words; colons and blanks tell nothing.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},\n]|[^][{},:"\s]+', re.DOTALL)
_REASONS = {
    "Expecting value": "expected a value",
    "Expecting property name enclosed in double quotes": "expected a key in double quotes",
    "Extra data": "more text after the end of the value",
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

    def __init__(self, line: int, pairs: Iterable[tuple[str, object]] = ()) -> None:
        super().__init__(pairs)
        self.line = line
        self.key_lines: dict[str, int] = {}


class StrictJsonError(ValueError):
    """What the standard library would read and strict JSON refuses; the message names no place."""


def loads(data: bytes) -> Any:
    """Return the value that ``data`` holds.

    Args:
        data: UTF-8, without a byte order mark.

    Raises:
        StrictJsonError: A NaN, an infinite number, a duplicate key, an unpaired surrogate, more
            than ``MAX_DEPTH`` levels, or bytes that are not UTF-8, with their offset.
        json.JSONDecodeError: It is no JSON at all.
    """
    try:
        # Decoded here: json itself would guess at UTF-16 and UTF-32.
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"{_bad_byte(data, error)} is not UTF-8") from None
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise StrictJsonError(_TOO_DEEP) from None
    _check_depth(value)
    if _ESCAPED_SURROGATE.search(text):  # most are halves of a pair
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(error.object[error.start]):04x}"
            raise StrictJsonError(f"{code} is an unpaired surrogate") from None
    return value


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
    value, lines = _Reader(place).read(text, line=1)
    if isinstance(value, list):
        return [Item(value=one, line=at) for one, at in zip(value, lines, strict=True)]
    line = 1 + text.count("\n", 0, len(text) - len(text.lstrip(_BLANK)))
    fix = "put the rows into one array [...], or name the file .jsonl if it has one a line"
    raise InputError(f"{place}:{line}: found {kind(value)}, not an array; {fix}")


def parse_jsonl(data: bytes, place: str) -> list[Item]:
    """Return the value of every line of ``data`` that is not blank.

    Args:
        data: UTF-8, with or without a byte order mark.
        place: The file's name, for messages.

    Raises:
        InputError: Lines that are not strict JSON, each with its first problem.
    """
    items, problems, reader = [], [], _Reader(place)
    # Not splitlines(): it also cuts at U+2028 and its like, which a string may hold.
    for line, text in enumerate(decode(data, place).split("\n"), start=1):
        if not text.strip(_BLANK):
            continue
        try:
            items.append(Item(value=reader.read(text, line=line)[0], line=line))
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
        byte = _bad_byte(data, error)
        raise InputError(f"{place}:{line}: {byte} is not UTF-8; save it as UTF-8") from error


def kind(value: object) -> str:
    """Return what ``value`` is, in words for a message: "a number", "an object"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "text", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return next(name for known, name in names.items() if isinstance(value, known))


def _bad_byte(data: bytes, error: UnicodeDecodeError) -> str:
    return f"byte 0x{data[error.start]:02x} at offset {error.start}"


def _integer(digits: str) -> int | float:
    """Return an integer; one that no float holds counts as infinite, as 1e400 does."""
    # Past 4,300 digits int() would refuse it with an error of its own.
    return math.inf if math.isinf(float(digits)) else int(digits)


def _finite_integer(digits: str) -> int:
    number = _integer(digits)
    return number if isinstance(number, int) else _refuse_number(digits)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise StrictJsonError(f"{one_line(text, 20)} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise StrictJsonError(f"duplicate key {quoted(twice)}")
    return found


_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_finite_integer,
    parse_float=_finite,
    parse_constant=_refuse_number,
)


def _check_depth(value: Any) -> None:
    """Go down level by level, so that no depth of the value is one of the stack."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for child in level if isinstance(child, dict | list)]
        if not level:
            return
        level = [c for one in level for c in (one.values() if isinstance(one, dict) else one)]
    raise StrictJsonError(_TOO_DEEP)


@dataclass
class _Level:
    """An array or object that is open."""

    line: int  # of its bracket
    key_lines: dict[str, int] | None  # of its keys so far; None for an array
    key: str | None  # the nearest key above the value that is read


class _Reader:
    """Reads texts of one file: the scanner first, then its tokens for lines and what is refused."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.line = 1
        self.made: list[JsonObject] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self._keep, parse_int=_integer)

    def read(self, text: str, *, line: int) -> tuple[object, list[int]]:
        """Return the one value of a text, and the line of each element if it is an array."""
        self.line, self.made = line, []
        value: object = None
        try:
            value = self.decoder.decode(text)
        except json.JSONDecodeError as error:
            at, reason = _syntax(text, error)
            line, column = line + text.count("\n", 0, at), at - text.rfind("\n", 0, at)
            raise InputError(f"{self.place}:{line}:{column}: {reason}") from None
        except RecursionError:
            pass  # too deep: the tokens say where
        return value, self._locate(text)

    def _keep(self, pairs: list[tuple[str, object]]) -> JsonObject:
        self.made.append(JsonObject(self.line, pairs))
        return self.made[-1]

    def _locate(self, text: str) -> list[int]:
        """Give objects their lines; return those of the elements, if the text is an array."""
        elements: list[int] = []
        levels = [_Level(self.line, None, None)]
        objects, previous = iter(self.made), ""  # in the order in which they end
        for found in _TOKEN.finditer(text):
            token, level = found[0], levels[-1]
            if token == "\n":
                self.line += 1
                continue
            if token in ("}", "]"):
                levels.pop()
                if level.key_lines is not None:
                    ended = next(objects)
                    ended.line, ended.key_lines = level.line, level.key_lines
            elif level.key_lines is not None and previous in ("{", ","):
                level.key = self._key(token, level.key_lines)
            elif token != ",":
                if len(levels) == 2 and level.key_lines is None:
                    elements.append(self.line)
                if token in ("{", "["):
                    if len(levels) > MAX_DEPTH:
                        self._refuse(f"{_TOO_DEEP}, which is the limit; flatten it")
                    is_list = token == "["
                    levels.append(
                        _Level(self.line, None if is_list else {}, level.key if is_list else None)
                    )
                else:
                    self._check_scalar(token, level.key)
            previous = token
        return elements

    def _key(self, token: str, key_lines: dict[str, int]) -> str:
        key = _text(token)
        self._check_text(key, None)
        if key in key_lines:
            first = key_lines[key]
            self._refuse(f"duplicate key {quoted(key)}, first on line {first}; keep one")
        key_lines[key] = self.line
        return key

    def _check_scalar(self, token: str, key: str | None) -> None:
        if token[0] == '"':
            self._check_text(_text(token), key)
        elif token[0] in "-0123456789NI" and not math.isfinite(float(token)):
            shown = token if len(token) <= 20 else token[:20] + "…"
            name = "a value" if key is None else quoted(key)
            self._refuse(f"{name} is {shown}; write a finite number")

    def _check_text(self, text: str, key: str | None) -> None:
        if found := _SURROGATE.search(text):
            name, code = quoted(text if key is None else key), f"\\u{ord(found[0]):04x}"
            self._refuse(f"{name} holds {code}, an unpaired surrogate; write the whole character")

    def _refuse(self, problem: str) -> NoReturn:
        raise InputError(f"{self.place}:{self.line}: {problem}")


def _text(token: str) -> str:
    """Return the text of a string's token."""
    return str(json.loads(token)) if "\\" in token else token[1:-1]


def _syntax(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Return where a text stops being JSON, and why, in words for a person."""
    before = text[: error.pos].rstrip(_BLANK)
    after = text[error.pos : error.pos + 1]
    if "Expecting" in error.msg and before.endswith(",") and after in ("]", "}"):
        return len(before) - 1, f'a comma before "{after}"; remove it'
    tokens = _TOKEN.findall(before)
    if error.msg == "Expecting ',' delimiter":
        closing: list[str] = []
        for token in tokens:
            if token in ("{", "["):
                closing.append("}" if token == "{" else "]")
            elif token in ("}", "]"):
                closing.pop()
        return error.pos, f'expected "," or "{closing[-1]}"'
    if error.msg == "Expecting ':' delimiter":
        return error.pos, f'expected ":" after {quoted(_text(tokens[-1]))}'
    return error.pos, _REASONS.get(error.msg, error.msg[:1].lower() + error.msg[1:])
