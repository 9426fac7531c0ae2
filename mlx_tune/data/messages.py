"""The messages of a conversation, in the shapes that OpenAI, ShareGPT and others have them in."""

import json
from collections.abc import Sequence

from mlx_tune.data.fields import FieldReader, nearest
from mlx_tune.data.rows import ROLES, Message
from mlx_tune.files.strict_json import JsonObject, kind
from mlx_tune.text import one_line, quoted

_ROLE_OF = {
    **{role: role for role in ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot"), "assistant"),
}
_ROLE_FIELDS, _CONTENT_FIELDS = ("role", "from"), ("content", "value")
_MESSAGE_FIELDS = (*_ROLE_FIELDS, *_CONTENT_FIELDS, "weight")
_TEXT_PARTS = ("text", "input_text", "output_text")
_MESSAGE = '{"role": "user", "content": "…"}'
_PART = '{"type": "text", "text": "…"}'


class ConversationReader(FieldReader):
    """Reads the messages of one row."""

    def read(self, fields: JsonObject, name: str) -> tuple[Message, ...]:
        """Return the messages of a row.

        Args:
            fields: The row.
            name: The field that holds them.
        """
        line, entries = fields.key_lines[name], fields[name]
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
        is_known = self.has_known_fields(entry, _MESSAGE_FIELDS, at)
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
