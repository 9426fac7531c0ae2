"""The messages of a conversation, in the shapes that OpenAI, ShareGPT and others have them in."""

import json
from collections.abc import Sequence
from dataclasses import replace

from mlx_tune.data.calls import (
    CALL_FIELDS,
    TOOL_FIELDS,
    CallError,
    CallReader,
    ToolCall,
    has_none,
)
from mlx_tune.data.fields import FieldReader, Problems, is_nothing, nearest, stripped
from mlx_tune.data.rows import ROLES, Message
from mlx_tune.files.strict_json import JsonObject, kind
from mlx_tune.text import one_line, quoted

_ROLE_OF = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation"), "tool"),
}
_ROLE_FIELDS, _CONTENT_FIELDS = ("role", "from"), ("content", "value")
_TAUGHT_FIELDS = ("weight", "train", "training", "loss")
"""Whether an answer is taught, as OpenAI, Axolotl (two names) and ms-swift have it."""

_MESSAGE_FIELDS = (*_ROLE_FIELDS, *_CONTENT_FIELDS, "weight", *CALL_FIELDS, "tool_call_id")
_TEXT_PARTS = ("text", "input_text", "output_text")
_MESSAGE = '{"role": "user", "content": "…"}'
_PART = '{"type": "text", "text": "…"}'


class ConversationReader(FieldReader):
    """Reads the messages of one row.

    Args:
        problems: As for :class:`FieldReader`.
        passed_over: Likewise.
    """

    def __init__(self, problems: Problems, passed_over: dict[str, None]) -> None:
        super().__init__(problems, passed_over)
        self._reader = CallReader(lambda name: passed_over.update({name: None}))
        self._has_bad_call = False  # then nobody knows which results are of none

    def read(self, fields: JsonObject, names: Sequence[str]) -> tuple[Message, ...]:
        """Return the messages of a row.

        Args:
            fields: The row.
            names: The fields that hold them, one after another. What is answered in any but the
                last is given, not taught.
        """
        messages: list[Message] = []
        lines: list[int] = []
        for name in names:
            line, entries = fields.key_lines[name], fields[name]
            if not isinstance(entries, list) or not entries:
                is_list = isinstance(entries, list)
                found = "is empty" if is_list else f"is {kind(entries)}, not a list"
                example = f'[{_MESSAGE}, {{"role": "assistant", "content": "…"}}]'
                self.problems.add(line, f'"{name}" {found}; write {example}')
                return ()
            for entry in entries:
                lines.append(entry.line if isinstance(entry, JsonObject) else line)
                number = len(messages) + 1
                message = self._message(entry, number, lines[-1], at=f"{name}[].")
                is_given = name != names[-1] and message.role == "assistant"
                messages.append(replace(message, is_taught=False) if is_given else message)
        if all(message.role in ROLES for message in messages):
            self._check_turns(messages, lines)
        return tuple(messages)

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
            found = "every answer is marked as given, so none is taught"
            self.problems.add(lines[-1], f"{found}; mark one otherwise, or leave the row out")

    def _message(self, entry: object, number: int, line: int, *, at: str) -> Message:
        if not isinstance(entry, JsonObject):
            found = f"message {number} is {kind(entry)}, not an object"
            self.problems.add(line, f"{found}; write {_MESSAGE}")
            return Message(role="", content="")
        entry = stripped(entry)
        role_field = self._one_field(entry, _ROLE_FIELDS)
        role = self._role(entry, role_field) if role_field else ""
        # The name of the tool says which call a result is of, where no id does.
        own = ("name",) if role == "tool" and not entry.get("tool_call_id") else ()
        is_known = self.has_known_fields(entry, (*_MESSAGE_FIELDS, *own), at, exact=_TAUGHT_FIELDS)
        self.check_place(entry, TOOL_FIELDS, f"message {number}", "put it beside the messages")
        content_field = self._one_field(entry, _CONTENT_FIELDS)
        is_call = role_field is not None and entry[role_field] == "function_call"
        called = self._calls(entry, number, role, content_field if is_call else None, at)
        is_sharegpt = "from" in entry or "value" in entry
        needed = [(role_field, _ROLE_FIELDS)]
        needed += [(content_field, _CONTENT_FIELDS)] if called is None else []
        for name, names in needed:
            if name is None and is_known:
                missing = f'message {number} has no "{names[is_sharegpt]}"'
                self.problems.add(line, f"{missing}; add it")
        content = ""
        if content_field and not is_call:
            is_silent = called is not None and is_nothing(entry[content_field])
            content = "" if is_silent else self._content(entry, content_field, number, role, at)
        named = (name for name in _TAUGHT_FIELDS if name in entry)
        taught = [self._is_taught(entry, name, number, role) for name in named]
        return Message(
            role=role,
            content=content,
            is_taught=all(taught),
            tool_calls=called or (),
            tool_call_id=self._answered(entry, number, role, line),
        )

    def _calls(
        self, entry: JsonObject, number: int, role: str, content_field: str | None, at: str
    ) -> tuple[ToolCall, ...] | None:
        """Return what a message calls; None where it has no calls.

        ``content_field`` is where a message has them whose role says that it is a call.
        """
        found = [name for name in CALL_FIELDS if not has_none(entry.get(name))]
        found += [content_field] if content_field else []
        if not found:
            return None
        name, line = found[0], entry.key_lines[found[0]]
        if len(found) > 1:
            both = f'"{name}" and "{found[1]}" in one message'
            self.problems.add(entry.key_lines[found[1]], f"{both}; keep one")
        elif role not in ("assistant", ""):
            problem = f'message {number} is "{role}" with "{name}", and only the assistant calls'
            self.problems.add(line, f"{problem}; leave it out")
        else:
            try:
                return self._reader.read(entry[name], name, at=f"{at}{name}")
            except CallError as error:
                self.problems.add(line, f"message {number}: {error}")
        self._has_bad_call = True
        return ()

    def _answered(self, entry: JsonObject, number: int, role: str, line: int) -> str:
        """Return the id of the call whose result a message is; empty for no result."""
        field = next((name for name in ("tool_call_id", "name") if entry.get(name)), None)
        if role == "tool":
            named: dict[str, str] = {}
            if field:
                named[field] = self.string(entry[field], f'"{field}"', entry.key_lines[field])
            try:
                return self._reader.answer(named.get("tool_call_id"), named.get("name"))
            except CallError as error:
                if not self._has_bad_call:
                    self.problems.add(line, f"message {number} {error}")
        elif field == "tool_call_id" and role:
            found = f'message {number} is "{role}" with "tool_call_id"'
            problem = f"{found}, and only a call's result has one; leave it out"
            self.problems.add(entry.key_lines["tool_call_id"], problem)
        return ""

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
            near = nearest(role, tuple(_ROLE_OF))
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
        if role == "tool" and content == "":
            return ""  # a tool may return nothing
        leave_out = "the message" if role == "system" else "the row"
        return self.string(content, f'"{name}"', line, leave_out=leave_out)

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

    def _is_taught(self, entry: JsonObject, name: str, number: int, role: str) -> bool:
        """Return what a field such as ``weight`` says of a message: 0 for given, not taught."""
        weight = entry[name]
        if weight is None or (role != "assistant" and weight == 0):
            return True
        line = entry.key_lines[name]
        if not isinstance(weight, int | float) or weight not in (0, 1):
            found = f'the "{name}" of message {number} is {one_line(json.dumps(weight), 20)}'
            fix = "0 or 1" if name == "weight" else "true or false"
            self.problems.add(line, f"{found}; write {fix}")
            return True
        if role not in ("assistant", ""):
            found = f'message {number} is "{role}" with "{name}" {json.dumps(weight)}'
            self.problems.add(line, f"{found}, and only answers are taught; leave it out")
        return bool(weight)
