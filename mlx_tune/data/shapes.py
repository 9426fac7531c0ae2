"""One row from one object, in any of the shapes that instruction data comes in.

The checks of a row report a problem and return a placeholder, so that the rest of the row is
checked too. No placeholder is returned to a caller: a file with problems raises an error.

Nothing is dropped without a word: a field that teaches nothing is named in `Row.passed_over`, and
one that is spelt nearly as a known one, or that would change what is taught, is refused.
"""

import difflib
import json
import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from mlx_tune.data.rows import OTHER_QUESTIONS, ROLES, Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import Item, JsonObject, kind
from mlx_tune.text import one_line, quoted

EXAMPLE = '{"instruction": "…", "response": "…"}'
PARTS = {
    "question": ("instruction", "prompt", "question"),
    "answer": ("response", "output", "completion", "answer"),
    "context": ("input", "context"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "conversation": ("messages", "conversations"),
    "text": ("text",),
}
"""What rows are made of, and the fields that may be each part: of one part a row has one."""

PART_OF = {name: part for part, names in PARTS.items() for name in names}
FIELDS = (*PART_OF, *OTHER_QUESTIONS)

_OPTIONAL = ("context", "system", "history")
_TOGETHER = ("question", "answer", "context", "system", "history"), ("conversation", "system")
_USUAL_PAIRS = {
    "instruction": "response", "response": "instruction", "output": "instruction",
    "prompt": "completion", "completion": "prompt", "question": "answer", "answer": "question",
}  # fmt: skip
_ROLE_OF = {
    **{role: role for role in ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot"), "assistant"),
}
_ROLE_FIELDS, _CONTENT_FIELDS = ("role", "from"), ("content", "value")
_MESSAGE_FIELDS = (*_ROLE_FIELDS, *_CONTENT_FIELDS, "weight")
_TEXT_PARTS = ("text", "input_text", "output_text")
_TOOL_FIELDS = ("tools", "functions", "tool_calls", "function_call")
_TOOL_ROLES = ("tool", "function", "observation", "function_call")
_NO_TOOLS = "tools and calls are not read yet; leave the row out"
_ONE_OF = {
    "paraphrases": "paraphrase", "wordings": "wording", "replaces": "replaced question",
}  # fmt: skip
_MESSAGE = '{"role": "user", "content": "…"}'
_PART = '{"type": "text", "text": "…"}'
_NEAR = 0.8
"""From this likeness on (difflib's ratio) a name is taken for a misspelling of another."""


class Problems:
    """The problems of one file; equal ones are one, at its first place.

    Attributes:
        path: The name of the file, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._found: dict[str, tuple[int, str, int]] = {}  # first line, its place, how many

    def add(self, line: int, problem: str, *, column: str = "") -> None:
        """Add a problem of a line, and of a column, such as ``:7``, where it is known."""
        first, place, count = self._found.get(problem, (line, f"{line}{column}", 0))
        self._found[problem] = (first, place, count + 1)

    def raise_if_any(self) -> None:
        """Raise what was added, in the order of the lines.

        Raises:
            InputError: There were problems; one per line.
        """
        if self._found:
            by_line = sorted(self._found.items(), key=lambda found: found[1][0])
            raise InputError(
                "\n".join(
                    f"{self.path}:{place}: {problem}" + (f" ({n:,} times)" if n > 1 else "")
                    for problem, (_, place, n) in by_line
                )
            )


def read_row(item: Item, problems: Problems) -> Row:
    """Return the row that a JSON value stands for.

    It has a question (``instruction``, ``prompt`` or ``question``) and an answer (``response``,
    ``output``, ``completion`` or ``answer``), perhaps with ``input`` or ``context``, ``system`` or
    ``system_prompt``, and ``history``; or ``messages`` or ``conversations``, perhaps with a
    ``system``; or ``text``. Chat rows may have ``paraphrases``, ``wordings`` and ``replaces``.

    Args:
        item: The value, with its line.
        problems: What is wrong with it is added here, and the row is then of no use.
    """
    if isinstance(item.value, JsonObject):
        return _RowReader(item.value, problems).read(f"{problems.path}:{item.line}")
    problem = f"a row is an object, not {kind(item.value)}; write {EXAMPLE}"
    problems.add(item.line, problem)
    return Row()


class _RowReader:
    def __init__(self, fields: JsonObject, problems: Problems) -> None:
        self.fields, self.problems = fields, problems
        self.passed_over: dict[str, None] = {}

    def read(self, place: str) -> Row:
        if line := _line_of_tools(self.fields):
            self.problems.add(line, _NO_TOOLS)
            return Row()
        names = self._names()
        is_known = self._has_known_fields(self.fields, FIELDS)
        messages: tuple[Message, ...] = ()
        if chat := next((name for name in names if PART_OF[name] == "conversation"), None):
            messages = self._conversation(chat)
        names = self._without_repeated(names, messages)
        if is_known:
            self._check_shape(names)
        part = {PART_OF[name]: name for name in reversed(names)}
        if "text" not in part:
            messages = self._messages(part, messages)
        asks_none = '"text" asks none' if "text" in part else ""
        if chat and _ends_with_answer(messages) and Row(messages=messages).question is None:
            asks_none = "the row ends with no taught answer to one"
        return Row(
            messages=messages,
            text=self._text("text") if "text" in part else None,
            paraphrases=self._other_questions("paraphrases", asks_none),
            wordings=self._other_questions("wordings", asks_none),
            replaces=self._other_questions("replaces", asks_none),
            place=place,
            passed_over=tuple(self.passed_over),
        )

    # Which fields make the row

    def _names(self) -> list[str]:
        """Return the names of the fields that make the row.

        Not those with nothing in them that are optional, or of another shape than the others: a
        table that holds rows of two shapes has the columns of both.
        """
        names = [name for name in self.fields if name in PART_OF]
        filled = [name for name in names if not _is_nothing(self.fields[name])]
        return [
            name
            for name in names
            if name in filled
            or not (PART_OF[name] in _OPTIONAL or any(_clash(name, other) for other in filled))
        ]

    def _without_repeated(self, names: list[str], messages: Sequence[Message]) -> list[str]:
        """Pass over the fields that say again what others say."""
        asked = [message.content for message in messages if message.role == "user"]
        first = [message.content for message in messages[:1] if message.role == "system"]
        pair = [self.fields[n] for n in names if PART_OF[n] in ("question", "answer")]
        for name in names:
            text = self.fields[name]
            if not isinstance(text, str):
                continue
            if (
                (name == "prompt" and any(text.strip() in one for one in asked))
                or (PART_OF[name] == "system" and text.strip() in map(str.strip, first))
                # Alpaca's has the whole prompt and the answer.
                or (name == "text" and len(pair) == 2 and all(_is_in(one, text) for one in pair))
            ):
                self.passed_over[name] = None
        return [name for name in names if name not in self.passed_over]

    def _has_known_fields(self, found: JsonObject, known: tuple[str, ...], at: str = "") -> bool:
        """Pass over the fields that are not known, and report those nearly spelt as a known one."""
        is_known = True
        for name in found:
            if name in known:
                continue
            near = None if found[name] is None else _near(name, known)
            if near is None:
                self.passed_over[at + name] = None
                continue
            is_known = False
            stands = near in found and not _is_nothing(found[near])
            fix = (
                f'"{near}" is there already, so remove it' if stands else f'did you mean "{near}"?'
            )
            self.problems.add(found.key_lines[name], f"{quoted(name)} is not a field; {fix}")
        return is_known

    def _check_shape(self, names: Sequence[str]) -> None:
        """Report fields that are missing or do not go together."""
        part = {PART_OF[name]: name for name in names}
        if not any(one not in _OPTIONAL for one in part):
            self.problems.add(self.fields.line, f"a row without text to learn; write {EXAMPLE}")
            return
        for i, name in enumerate(names):
            if others := [other for other in names[:i] if _clash(name, other)]:
                same = PART_OF[name] == PART_OF[others[-1]] and PART_OF[name] in _OPTIONAL
                fix = "keep one" if same else "keep the fields of one shape"
                found = f'"{others[-1]}" and "{name}" in one row; {fix}'
                self.problems.add(self.fields.key_lines[name], found)
                return
        if ("question" in part) != ("answer" in part):
            name = part.get("question") or part["answer"]
            missing = _other_half(name, names)
            fix = f'add "{missing}"'
            if missing == "instruction" and "input" in names:
                fix += ', or rename "input" to it'
            problem = f'"{name}" without "{missing}"; {fix}'
            self.problems.add(self.fields.key_lines[name], problem)

    # What it says

    def _messages(self, part: dict[str, str], chat: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the conversation of a row that is no text, from its fields by part."""
        messages: list[Message] = []
        if "system" in part:
            messages.append(Message(role="system", content=self._text(part["system"])))
            if chat and chat[0].role == "system":
                line = self.fields.key_lines[part["system"]]
                found = f'"{part["system"]}" beside another system message'
                self.problems.add(line, f"{found}; keep one")
        if "conversation" in part:
            return (*messages, *chat)
        if "history" in part:
            messages += self._history(part["history"])
        if "question" in part:
            question = self._text(part["question"])
            if "context" in part:
                question += "\n\n" + self._text(part["context"])
            messages.append(Message(role="user", content=question))
        if "answer" in part:
            messages.append(Message(role="assistant", content=self._text(part["answer"])))
        return tuple(messages)

    def _history(self, name: str) -> list[Message]:
        """Return the turns before the question, from a list of pairs."""
        line, turns = self.fields.key_lines[name], self.fields[name]
        if not isinstance(turns, list):
            found = f'"{name}" is {kind(turns)}, not a list'
            self.problems.add(line, f'{found}; write [["question", "answer"], …]')
            return []
        messages = []
        for number, turn in enumerate(turns, start=1):
            if not isinstance(turn, list) or len(turn) != 2:
                found = f'turn {number} of "{name}" is no pair'
                self.problems.add(line, f'{found}; write ["question", "answer"]')
                continue
            for role, said, text in zip(("user", "assistant"), ("question", "answer"), turn,
                                        strict=True):  # fmt: skip
                content = self._string(text, f'{said} {number} of "{name}"', line)
                messages.append(Message(role=role, content=content))
        return messages

    def _conversation(self, name: str) -> tuple[Message, ...]:
        line, entries = self.fields.key_lines[name], self.fields[name]
        if not isinstance(entries, list) or not entries:
            is_list = isinstance(entries, list)
            found = "is empty" if is_list else f"is {kind(entries)}, not a list"
            example = f'[{_MESSAGE}, {{"role": "assistant", "content": "…"}}]'
            self.problems.add(line, f'"{name}" {found}; write {example}')
            return ()
        lines = [entry.line if isinstance(entry, JsonObject) else line for entry in entries]
        messages = tuple(
            self._message(entry, number, lines[number - 1], at=f"{name}[].")
            for number, entry in enumerate(entries, start=1)
        )
        if all(message.role in ROLES for message in messages):
            self._check_turns(messages, lines)
        return messages

    def _check_turns(self, messages: Sequence[Message], lines: Sequence[int]) -> None:
        """Report what no template renders, or what teaches nothing."""
        for number, (message, line) in enumerate(zip(messages, lines, strict=True), start=1):
            if message.role == "system" and number > 1:
                found = f'message {number} is "system"; only the first may be'
                self.problems.add(line, f"{found}, so join them or leave it out")
        if messages[-1].role != "assistant":
            found = f'the last message is "{messages[-1].role}"'
            self.problems.add(lines[-1], f"{found}; end with the assistant's answer")
        elif not any(one.role == "assistant" and one.is_taught for one in messages):
            found = 'every answer has "weight" 0, so none is taught'
            self.problems.add(lines[-1], f"{found}; give one 1, or leave the row out")

    def _message(self, entry: object, number: int, line: int, *, at: str) -> Message:
        if not isinstance(entry, JsonObject):
            found = f"message {number} is {kind(entry)}, not an object"
            self.problems.add(line, f"{found}; write {_MESSAGE}")
            return Message(role="", content="")
        is_known = self._has_known_fields(entry, _MESSAGE_FIELDS, at)
        role_field = self._one_field(entry, _ROLE_FIELDS)
        content_field = self._one_field(entry, _CONTENT_FIELDS)
        is_sharegpt = "from" in entry or "value" in entry
        for name, names in ((role_field, _ROLE_FIELDS), (content_field, _CONTENT_FIELDS)):
            if name is None and is_known:
                missing = f'message {number} has no "{names[is_sharegpt]}"'
                self.problems.add(line, f"{missing}; add it")
        role = self._role(entry, role_field) if role_field else ""
        content = ""
        if content_field:
            content = self._content(entry, content_field, number, role, at)
        return Message(role=role, content=content, is_taught=self._is_taught(entry, number, role))

    def _one_field(self, entry: JsonObject, names: Sequence[str]) -> str | None:
        """Return which of two names a message has."""
        found = [name for name in names if name in entry]
        if len(found) > 1:
            found = [name for name in found if entry[name] is not None] or found[:1]
        if len(found) > 1:
            both = " and ".join(f'"{name}"' for name in found)
            self.problems.add(entry.key_lines[found[1]], f"{both} in one message; keep one")
        return found[0] if found else None

    def _role(self, entry: JsonObject, name: str) -> str:
        line, role = entry.key_lines[name], entry[name]
        if not isinstance(role, str):
            known = ", ".join(ROLES)
            self.problems.add(line, f'"{name}" is {kind(role)}, not text; use one of {known}')
            return ""
        if role not in _ROLE_OF:
            near = _near(role, tuple(_ROLE_OF))
            fix = f'did you mean "{near}"?' if near else f"known are {', '.join(_ROLE_OF)}"
            self.problems.add(line, f"{quoted(role)} is not a role; {fix}")
        return _ROLE_OF.get(role, "")

    def _content(self, entry: JsonObject, name: str, number: int, role: str, at: str) -> str:
        line, content = entry.key_lines[name], entry[name]
        if isinstance(content, list):
            parts = [self._part(part, number, line, at=f"{at}{name}[].") for part in content]
            texts = [part for part in parts if part is not None]
            if len(texts) < len(parts):
                return ""
            content = "".join(texts)
        leave_out = "the message" if role == "system" else "the row"
        return self._string(content, f'"{name}"', line, leave_out=leave_out)

    def _part(self, part: object, number: int, line: int, *, at: str) -> str | None:
        """Return the text of a part of a message's content; None where it is none."""
        if not isinstance(part, JsonObject):
            found = f"a part of message {number} is {kind(part)}, not an object"
            self.problems.add(line, f"{found}; write {_PART}")
            return None
        what, text = part.get("type"), part.get("text")
        if isinstance(what, str) and what not in _TEXT_PARTS:
            found = f"message {number}: {quoted(what)} is not read"
            self.problems.add(part.key_lines["type"], f"{found}; only texts are")
            return None
        if what is None or not isinstance(text, str):
            self.problems.add(part.line, f"a part of message {number} is no text; write {_PART}")
            return None
        for name in part:
            if name not in ("type", "text"):
                self.passed_over[at + name] = None
        return text

    def _is_taught(self, entry: JsonObject, number: int, role: str) -> bool:
        """Return what ``weight`` says of a message: 0 for given, not taught."""
        weight = entry.get("weight")
        if weight is None or (role != "assistant" and weight == 0):
            return True
        line = entry.key_lines["weight"]
        if not isinstance(weight, int | float) or weight not in (0, 1):
            found = f'the "weight" of message {number} is {one_line(json.dumps(weight), 20)}'
            self.problems.add(line, f"{found}; write 0 or 1")
            return True
        if role not in ("assistant", ""):
            found = f'message {number} is "{role}" with "weight" {json.dumps(weight)}'
            self.problems.add(line, f"{found}, and only answers are taught; leave it out")
        return bool(weight)

    def _other_questions(self, name: str, asks_none: str) -> tuple[str, ...]:
        if name not in self.fields:
            return ()
        line, texts = self.fields.key_lines[name], self.fields[name]
        if asks_none:
            self.problems.add(line, f'"{name}" lists questions, and {asks_none}; remove it')
        if not isinstance(texts, list):
            self.problems.add(line, f'"{name}" is {kind(texts)}, not a list; write ["…", "…"]')
            return ()
        if not texts:
            self.problems.add(line, f'"{name}" is empty; write ["…", "…"], or leave it out')
        return tuple(
            self._string(text, f"{_ONE_OF[name]} {number}", line, leave_out="it")
            for number, text in enumerate(texts, start=1)
        )

    def _text(self, name: str) -> str:
        return self._string(self.fields[name], f'"{name}"', self.fields.key_lines[name])

    def _string(self, value: object, name: str, line: int, *, leave_out: str = "the row") -> str:
        if not isinstance(value, str):
            self.problems.add(line, f"{name} is {kind(value)}, not text; write it in quotes")
            return ""
        if not value.strip():
            self.problems.add(line, f"{name} is empty; write its text, or leave {leave_out} out")
        return value


def _line_of_tools(fields: JsonObject) -> int | None:
    """Return the line of the first that has to do with tools; None where nothing has."""
    chats = (fields.get(name) for name in PARTS["conversation"])
    entries = [entry for chat in chats if isinstance(chat, list) for entry in chat]
    for found in (fields, *(entry for entry in entries if isinstance(entry, JsonObject))):
        for name in _TOOL_FIELDS:
            if not (_is_nothing(found.get(name)) or found[name] in ({}, "[]")):
                return found.key_lines[name]
        for name in () if found is fields else _ROLE_FIELDS:
            if found.get(name) in _TOOL_ROLES:
                return found.key_lines[name]
    return None


def _is_nothing(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _is_in(value: object, text: str) -> bool:
    return isinstance(value, str) and value.strip() in text


def _ends_with_answer(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1].role == "assistant"


def _clash(name: str, other: str) -> bool:
    """Return whether no row has both fields."""
    parts = {PART_OF[name], PART_OF[other]}
    return len(parts) == 1 or not any(parts.issubset(shape) for shape in _TOGETHER)


def _other_half(name: str, names: Collection[str]) -> str:
    """Return the field that usually stands beside a question or an answer, and is missing."""
    if name == "instruction" and {"input", "history"}.intersection(names):
        return "output"  # as Alpaca has it
    if name == "question" and "system_prompt" in names:
        return "response"  # as OpenOrca has it
    return _USUAL_PAIRS[name]


@lru_cache(maxsize=1024)  # every row of a file has the same names
def _near(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name of which another is likely a misspelling.

    ``prompt_id`` is none of ``prompt``, nor is ``conversationId`` of ``conversations``: they are
    names of something else about it.
    """
    # difflib is quadratic, and no known name is longer than a dozen characters.
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])|[-.\s]+", "_", name[:40]).casefold()
    for near in difflib.get_close_matches(spelt, known, n=len(known), cutoff=_NEAR):
        stems = (near, near.removesuffix("s"))
        about = any(spelt.startswith(f"{one}_") or spelt.endswith(f"_{one}") for one in stems)
        if not (about or near.startswith(f"{spelt}_") or near.endswith(f"_{spelt}")):
            return near
    return None
