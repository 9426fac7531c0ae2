"""Reads data files and lists of questions; every problem is reported with its file and line.

The checks of a row report a problem and return a placeholder, so that the rest of the row is
checked too. No placeholder is returned to a caller: a file with problems raises an error.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_tune.data.rows import OTHER_QUESTIONS, ROLES, Message, Row, canonical_json
from mlx_tune.errors import InputError
from mlx_tune.files import strict_json
from mlx_tune.files.strict_json import Item, JsonObject, kind
from mlx_tune.text import quoted

MAX_FILE_BYTES = 1024**3
SUFFIXES = (".json", ".jsonl")
FORMATS = ".json (one array of rows) and .jsonl (one row a line)"
MAX_PROBLEMS_SHOWN = 20
MAX_QUESTIONS_BYTES = 16 * 1024**2
"""Size limit of a list of questions, about 200,000 questions."""

_QUESTIONS_FIX = "write one question a line, or name a .json or .jsonl data file"
_QUESTION_FIELDS = ("instruction", "prompt")
_ANSWER_FIELDS = ("response", "output", "completion")
_SHAPES = (
    {"instruction", "response"}, {"instruction", "output"}, {"prompt", "completion"},
    {"messages"}, {"text"},
)  # fmt: skip
_ONE_OF = {
    "paraphrases": "paraphrase", "wordings": "wording", "replaces": "replaced question",
}  # fmt: skip
_FIELDS = (*_QUESTION_FIELDS, *_ANSWER_FIELDS, "messages", "text", *OTHER_QUESTIONS)
_EXAMPLE = '{"instruction": "…", "response": "…"}'
_MESSAGE = '{"role": "user", "content": "…"}'
_TURNS = "after an optional system message, user and assistant take turns"


def read(paths: Sequence[Path]) -> list[Row]:
    """Return the rows of files and folders, at least one, in the order given.

    Args:
        paths: ``.json`` and ``.jsonl`` files, and folders, whose ``.json`` and ``.jsonl`` files are
            read in the order of names.

    Raises:
        InputError: A file is missing or empty, or a value is no row: at most
            ``MAX_PROBLEMS_SHOWN`` problems, one per line.
    """
    if not paths:
        raise InputError(f"no data was named; accepted are {FORMATS}")
    with _shortened():
        return _read_all(paths)


Use = Literal["train", "hold out", "leave"]


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
    """

    rows: list[Row]
    held_out: list[Row]
    files: list[DataFile]


def read_set(paths: Sequence[Path]) -> DataSet:
    """Return the rows of files and folders, as :func:`read` does, each file with its use.

    A folder with a file ``train`` is laid out as mlx-lm's and Hugging Face's are: its ``valid`` (or
    ``validation``) is held out, its ``test`` is checked and left alone, and so is nothing else.

    Raises:
        InputError: As for :func:`read`; or such a folder has further files.
    """
    if not paths:
        raise InputError(f"no data was named; accepted are {FORMATS}")
    found = [part for path in paths for part in _with_uses(path)]
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
    )


_USES: Mapping[str, Use] = {
    "train": "train", "valid": "hold out", "validation": "hold out", "test": "leave",
}  # fmt: skip
"""By the name of a file of a folder that is split already."""


def _with_uses(path: Path) -> list[tuple[Path, Use]]:
    """Return the files of a path, each with its use."""
    try:
        files = _data_files(path) if path.is_dir() else []
    except InputError:  # told with the problems of the others
        files = []
    if not files:
        return [(path, "train")]
    names = [file.stem.lower() for file in files]
    if "train" not in names:
        return [(file, "train") for file in files]
    others = [file.name for file, name in zip(files, names, strict=True) if name not in _USES]
    if others:
        raise InputError(
            f"{path}: {', '.join(others[:3])} beside train, of which it is not known whether to "
            "train on it; name the files to train on one by one"
        )
    return [(file, _USES[name]) for file, name in zip(files, names, strict=True)]


def load(data: bytes, place: str) -> list[Row]:
    """Return the rows of JSON Lines; the inverse of :func:`dump`.

    Args:
        data: JSON Lines; no bytes for no rows.
        place: The name of the file, for messages and for the places of the rows.

    Raises:
        InputError: A line is not strict JSON, or no row: at most ``MAX_PROBLEMS_SHOWN`` problems,
            one per line.
    """
    with _shortened():
        return check(strict_json.parse_jsonl(data, place), place)


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
        raise InputError(f"rows: none were given; a row is {_EXAMPLE}")
    return load("\n".join(lines).encode(), "rows")


def dump(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON Lines: UTF-8, sorted keys, a newline after every line."""
    return "".join(canonical_json(row.to_json()) + "\n" for row in rows).encode()


def fingerprint(rows: Iterable[Row]) -> str:
    """Return the sha256 (hex) of rows as JSON Lines; it depends on their order."""
    return hashlib.sha256(dump(rows)).hexdigest()


def read_questions(path: Path) -> list[Row]:
    """Return the questions of a file, at least one; a row ends with it or the expected answer.

    Args:
        path: A ``.json`` or ``.jsonl`` file, a folder of such files, or a text file with a question
            on each line. Text rows have no question and are left out.

    Raises:
        InputError: There is no such file, it has no question, or it cannot be read.
    """
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
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
    """Return the elements of a ``.json`` array, or the lines of a ``.jsonl`` file; maybe none.

    Args:
        path: A file of at most ``MAX_FILE_BYTES``.

    Raises:
        InputError: The suffix is another, the file is too large, or not strict JSON. One problem
            per line: the first of an array, the first of every line of JSON Lines.
        OSError: The file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: not a data format; accepted are {FORMATS}")
    if not path.is_file():  # reading a FIFO would wait for ever
        raise InputError(f"{path}: not a regular file; accepted are {FORMATS}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: {size:,} bytes; the limit is {MAX_FILE_BYTES:,}, so split it")
    parse = strict_json.parse_json if suffix == ".json" else strict_json.parse_jsonl
    return parse(path.read_bytes(), str(path))


def check(items: Sequence[Item], path: str) -> list[Row]:
    """Return the rows of the JSON values of a file.

    A row has ``instruction`` and ``response`` (or ``output``), ``prompt`` and ``completion``,
    ``messages``, or ``text``; chat rows may have ``paraphrases``, ``wordings`` and ``replaces``.
    Rows may differ.

    Args:
        items: The values, each with its line.
        path: The name of the file, for messages and for the places of the rows.

    Raises:
        InputError: Some values are no rows; every problem of the file, one per line.
    """
    problems = _Problems(path)
    rows = [_row(item, problems) for item in items]
    problems.raise_if_any()
    return rows


def report(problems: Sequence[str]) -> str:
    """Return a message of at most ``MAX_PROBLEMS_SHOWN`` problems and the number of the others."""
    shown = list(problems[:MAX_PROBLEMS_SHOWN])
    rest = len(problems) - len(shown)
    return "\n".join(shown + ([f"… and {rest:,} more"] if rest else []))


def _read_all(paths: Sequence[Path]) -> list[Row]:
    return [row for rows in _read_each(paths) for row in rows]


def _read_each(paths: Sequence[Path]) -> list[list[Row]]:
    """Return the rows of each path, or raise one InputError with the problems of all."""
    found: list[list[Row]] = []
    problems: list[str] = []
    for path in paths:
        try:
            found.append(_read_all(_data_files(path)) if path.is_dir() else _read_file(path))
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; make it readable")
    if problems:
        raise InputError("\n".join(problems))
    return found


def _data_files(folder: Path) -> list[Path]:
    # macOS writes "._cs.json" beside cs.json on disks of other systems; it is not JSON.
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    files = sorted(path for path in shown if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder}: a folder without data; accepted are {FORMATS}")
    return files


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


class _Problems:
    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, problem: str) -> None:
        self.found.append((line, f"{self.path}:{line}: {problem}"))

    def raise_if_any(self) -> None:
        if self.found:
            by_line = sorted(self.found, key=lambda found: found[0])
            raise InputError("\n".join(problem for _, problem in by_line))


def _row(item: Item, problems: _Problems) -> Row:
    fields = item.value
    if not isinstance(fields, JsonObject):
        problems.add(item.line, f"a row is an object, not {kind(fields)}; write {_EXAMPLE}")
        return Row()
    if _has_known_fields(fields, _FIELDS, problems):
        _check_shape(fields, problems)
    return Row(
        messages=_messages(fields, problems),
        text=_field(fields, "text", problems) if "text" in fields else None,
        paraphrases=_other_questions(fields, "paraphrases", problems),
        wordings=_other_questions(fields, "wordings", problems),
        replaces=_other_questions(fields, "replaces", problems),
        place=f"{problems.path}:{item.line}",
    )


def _check_shape(fields: JsonObject, problems: _Problems) -> None:
    """Report fields that are missing or do not go together."""
    names = [name for name in fields if name not in OTHER_QUESTIONS]
    if not names:
        problems.add(fields.line, f"a row without text to learn; write {_EXAMPLE}")
    elif not _could_be(names):
        # The first name that no shape has together with all names before it.
        cut = next(i for i in range(len(names)) if not _could_be(names[: i + 1]))
        mixed = f'"{names[cut - 1]}" and "{names[cut]}" in one row'
        problems.add(fields.key_lines[names[cut]], f"{mixed}; keep the fields of one shape")
    elif set(names) not in _SHAPES:
        (missing,) = next(shape for shape in _SHAPES if names[0] in shape) - {names[0]}
        problem = f'"{names[0]}" without "{missing}"; add "{missing}"'
        problems.add(fields.key_lines[names[0]], problem)


def _could_be(names: Sequence[str]) -> bool:
    """Return whether the rows of one shape have all these fields."""
    return any(shape.issuperset(names) for shape in _SHAPES)


def _messages(fields: JsonObject, problems: _Problems) -> tuple[Message, ...]:
    """Return the conversation of a row of any shape; empty for a text row."""
    if "messages" not in fields:
        return tuple(
            Message(role=role, content=_field(fields, name, problems))
            for role, names in (("user", _QUESTION_FIELDS), ("assistant", _ANSWER_FIELDS))
            for name in names
            if name in fields
        )
    line, entries = fields.key_lines["messages"], fields["messages"]
    if not isinstance(entries, list) or not entries:
        found = f"is {kind(entries)}, not a list" if not isinstance(entries, list) else "is empty"
        example = f'[{_MESSAGE}, {{"role": "assistant", "content": "…"}}]'
        problems.add(line, f'"messages" {found}; write {example}')
        return ()
    lines = [entry.line if isinstance(entry, JsonObject) else line for entry in entries]
    messages = tuple(
        _message(entry, number, lines[number - 1], problems)
        for number, entry in enumerate(entries, start=1)
    )
    if all(message.role in ROLES for message in messages):
        _check_turns(messages, lines, problems)
    return messages


def _message(entry: object, number: int, line: int, problems: _Problems) -> Message:
    if not isinstance(entry, JsonObject):
        problems.add(line, f"message {number} is {kind(entry)}, not an object; write {_MESSAGE}")
        return Message(role="", content="")
    known = _has_known_fields(entry, ("role", "content"), problems)
    for name in ("role", "content"):
        if known and name not in entry:
            problems.add(line, f'message {number} has no "{name}"; add it')
    role = _role(entry, problems) if "role" in entry else ""
    content = _field(entry, "content", problems) if "content" in entry else ""
    return Message(role=role, content=content)


def _role(entry: JsonObject, problems: _Problems) -> str:
    line, role = entry.key_lines["role"], entry["role"]
    if not isinstance(role, str):
        problems.add(line, f'"role" is {kind(role)}, not text; use one of {", ".join(ROLES)}')
        return ""
    if role not in ROLES:
        problems.add(line, f"{quoted(role)} is not a role; {_nearest(role, ROLES)}")
    return role


def _check_turns(messages: tuple[Message, ...], lines: Sequence[int], problems: _Problems) -> None:
    """Report the first message whose role is not the expected one, or a missing last answer."""
    first = 1 if messages[0].role == "system" else 0
    for index in range(first, len(messages)):
        role, expected = messages[index].role, ("user", "assistant")[(index - first) % 2]
        if role != expected:
            found = f'message {index + 1} is "{role}" where "{expected}" belongs'
            problems.add(lines[index], f"{found}; {_TURNS}")
            return
    if messages[-1].role != "assistant":
        found = f'the last message is "{messages[-1].role}"'
        problems.add(lines[-1], f"{found}; end with the assistant's answer")


def _other_questions(fields: JsonObject, name: str, problems: _Problems) -> tuple[str, ...]:
    if name not in fields:
        return ()
    line, texts = fields.key_lines[name], fields[name]
    if "text" in fields:
        problems.add(line, f'"{name}" lists questions, and "text" asks none; remove it')
    if not isinstance(texts, list):
        problems.add(line, f'"{name}" is {kind(texts)}, not a list; write ["…", "…"]')
        return ()
    if not texts:
        problems.add(line, f'"{name}" is empty; write ["…", "…"], or leave it out')
    return tuple(
        _string(text, f"{_ONE_OF[name]} {number}", line, problems)
        for number, text in enumerate(texts, start=1)
    )


def _field(fields: JsonObject, name: str, problems: _Problems) -> str:
    return _string(fields[name], f'"{name}"', fields.key_lines[name], problems)


def _string(value: object, name: str, line: int, problems: _Problems) -> str:
    if not isinstance(value, str):
        problems.add(line, f"{name} is {kind(value)}, not text; write it in quotes")
        return ""
    if not value.strip():
        problems.add(line, f"{name} is empty; write its text, or leave the row out")
    return value


def _has_known_fields(fields: JsonObject, known: Sequence[str], problems: _Problems) -> bool:
    unknown = [name for name in fields if name not in known]
    for name in unknown:
        line = fields.key_lines[name]
        problems.add(line, f"{quoted(name)} is not a field; {_nearest(name, known)}")
    return not unknown


def _nearest(name: str, known: Sequence[str]) -> str:
    # difflib is quadratic, and no known name is longer than a dozen characters.
    near = difflib.get_close_matches(name[:40].casefold(), known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known)}"
