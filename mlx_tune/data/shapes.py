"""One row from one object, in any of the shapes that instruction data comes in.

Nothing is dropped without a word: a field that teaches nothing is named in `Row.passed_over`, and
one that is spelt nearly as a known one, or that would change what is taught, is refused.
"""

from collections.abc import Collection, Iterator, Sequence

from mlx_tune.data.calls import CALL_FIELDS, TOOL_FIELDS, CallError, has_none, read_tools
from mlx_tune.data.fields import FieldReader, Problems, is_nothing, stripped
from mlx_tune.data.messages import ConversationReader
from mlx_tune.data.rows import OTHER_QUESTIONS, Message, Row
from mlx_tune.files.strict_json import Item, JsonObject, kind

EXAMPLE = '{"instruction": "…", "response": "…"}'
PARTS = {
    "question": ("instruction", "prompt", "question", "query", "inputs"),
    "answer": ("response", "output", "completion", "answer", "targets"),
    "context": ("input", "context"),
    "system": ("system", "system_prompt", "system_message", "system_instruction"),
    "history": ("history", "chat_history"),
    "conversation": ("messages", "conversations"),
    "text": ("text",),
    "tools": TOOL_FIELDS,
}
"""What rows are made of, and the fields that may be each part: of one part a row has one."""

PART_OF = {name: part for part, names in PARTS.items() for name in names}
_LESS_USUAL = ("system_message", "system_instruction", "chat_history")
FIELDS = (*(name for name in PART_OF if name not in _LESS_USUAL), *OTHER_QUESTIONS)

_OPTIONAL = ("context", "system", "history", "tools")
_TOGETHER = (
    ("question", "answer", "context", "system", "history", "tools"),
    ("conversation", "system", "tools"),
)
_USUAL_PAIRS = {
    "instruction": "response", "response": "instruction", "output": "instruction",
    "prompt": "completion", "completion": "prompt", "question": "answer", "answer": "question",
    "query": "response", "inputs": "targets", "targets": "inputs",
}  # fmt: skip
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_ASKED_ABOUT = ("options", "choices", "article", "passage")
"""What a question is not to be answered without, where a set has it."""

_ONE_OF = {
    "paraphrases": "paraphrase", "wordings": "wording", "replaces": "replaced question",
}  # fmt: skip


def read_row(item: Item, problems: Problems) -> Row:
    """Return the row that a JSON value stands for.

    It has a question and an answer, by the names in ``PARTS``, perhaps with ``input`` or
    ``context``, a name of ``system``, and ``history``; both may be lists of messages, as
    TRL has them. Or it has ``messages`` or ``conversations``, perhaps with a ``system``; or
    ``text``. Chat rows may have ``tools`` or ``functions``, ``paraphrases``, ``wordings`` and
    ``replaces``.

    Args:
        item: The value, with its line.
        problems: What is wrong with it is added here, and the row is then of no use.
    """
    if isinstance(item.value, JsonObject):
        return _RowReader(_in_usual_shape(item.value), problems).read(
            f"{problems.path}:{item.line}"
        )
    problem = f"a row is an object, not {kind(item.value)}; write {EXAMPLE}"
    problems.add(item.line, problem)
    return Row()


def _in_usual_shape(found: JsonObject) -> JsonObject:
    """Return a row with what SQuAD and Capybara have in shapes of their own as others have it."""
    row = stripped(found)
    answer, turns = _first_answer(row.get("answers")), _messages_of(row.get("conversation"))
    usual = {
        **({"answers": ("answer", answer)} if answer is not None else {}),
        **({"conversation": ("conversations", turns)} if turns else {}),
    }
    if not usual or any(name in row for name, _ in usual.values()):
        return row
    pairs = [(name, *usual.get(name, (name, value))) for name, value in row.items()]
    made = JsonObject(row.line, ((name, value) for _, name, value in pairs))
    made.key_lines = {name: row.key_lines[old] for old, name, _ in pairs}
    return made


def _first_answer(answers: object) -> object:
    """Return the answer that SQuAD has first, "" for none; None where it is no such field."""
    texts = answers.get("text") if isinstance(answers, JsonObject) else None
    return next(iter(texts), "") if isinstance(texts, list) else None


def _messages_of(turns: object) -> list[JsonObject]:
    """Return the messages of Capybara's turns; none where they are no such turns."""
    messages: list[JsonObject] = []
    for turn in turns if isinstance(turns, list) else ():
        if not isinstance(turn, JsonObject) or turn.keys() != {"input", "output"}:
            return []
        for role, half in (("user", "input"), ("assistant", "output")):
            made = JsonObject(turn.line, {"role": role, "content": turn[half]}.items())
            made.key_lines = dict.fromkeys(made, turn.key_lines[half])
            messages.append(made)
    return messages


class _RowReader(FieldReader):
    def __init__(self, fields: JsonObject, problems: Problems) -> None:
        super().__init__(problems, {})
        self.fields = fields

    def read(self, place: str) -> Row:
        self.check_place(self.fields, CALL_FIELDS, "no message", "put it into the assistant's")
        names = self._names()
        self._check_is_wanted(names)
        self._check_is_all(names)
        is_known = self.has_known_fields(self.fields, FIELDS, exact=_LESS_USUAL)
        if self._has_chosen(names):
            return Row()
        messages: tuple[Message, ...] = ()
        if chat := self._lists_of_messages(names):
            messages = ConversationReader(self.problems, self.passed_over).read(self.fields, chat)
        names = self._without_repeated(names, messages)
        if is_known:
            self._check_shape(names)
        part = {PART_OF[name]: name for name in reversed(names)}
        if "text" not in part:
            messages = self._messages(part, chat, messages)
        asks_none = '"text" asks none' if "text" in part else ""
        if chat and _ends_with_answer(messages) and Row(messages=messages).question is None:
            asks_none = "the row ends with no taught answer to one"
        return Row(
            messages=messages,
            text=self._text("text") if "text" in part else None,
            tools=self._tools(part["tools"]) if "tools" in part else "",
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
        filled = [name for name in names if not _is_empty(name, self.fields[name])]
        return [
            name
            for name in names
            if name in filled
            or not (PART_OF[name] in _OPTIONAL or any(_clash(name, other) for other in filled))
        ]

    def _lists_of_messages(self, names: Sequence[str]) -> list[str]:
        """Return the fields whose messages make the row: one, or a question's and an answer's."""
        halves = [n for half in ("question", "answer") for n in names if PART_OF[n] == half]
        if len(halves) == 2 and all(isinstance(self.fields[name], list) for name in halves):
            return halves
        return [name for name in names if PART_OF[name] == "conversation"][:1]

    def _check_is_wanted(self, names: Sequence[str]) -> None:
        """Report what sets of preferences say is not to be learned.

        A table has its label as text. A number is not told from that of a class.
        """
        label = self.fields.get("label")
        is_pair = {"question", "answer"} <= {PART_OF[name] for name in names}
        is_false = isinstance(label, str) and label.strip().casefold() == "false"
        if label is False or (is_false and is_pair):
            found = '"label" false marks an answer that nobody wants'
            self.problems.add(self.fields.key_lines["label"], f"{found}; leave the row out")

    def _has_chosen(self, names: Sequence[str]) -> bool:
        """Report an answer that was chosen before another, where nothing else is to learn."""
        part = {PART_OF[name]: name for name in names}
        chosen = self.fields.get("chosen")
        if is_nothing(chosen) or {"answer", "conversation"}.intersection(part):
            return False
        question = self.fields.get(part.get("question", ""))
        if isinstance(chosen, list) and not isinstance(question, list):
            fix = 'name it "messages" to have it taught'
        elif "question" in part:
            fix = 'name it "completion" to have it taught'
        else:
            fix = 'name it "text" to have all of it learned, or write its turns as "messages"'
        found = '"chosen" is an answer of a set of preferences, which are not trained on'
        self.problems.add(self.fields.key_lines["chosen"], f"{found}; {fix}")
        return True

    def _check_is_all(self, names: Sequence[str]) -> None:
        """Report fields that are not read and without which the row teaches something else."""
        for name in _MEDIA:
            if self.fields.get(name) and not has_none(self.fields[name]):
                found = f'"{name}" is not read, only texts are'
                fix = "leave the row out, or the field if the text says all"
                self.problems.add(self.fields.key_lines[name], f"{found}; {fix}")
        if "text" in names and {"role", "parent_id"} <= self.fields.keys():
            found = '"text" with "role" and "parent_id" is one message of a tree'
            fix = 'write each conversation as one row of "messages"'
            self.problems.add(self.fields.key_lines["text"], f"{found}; {fix}")
        part = {PART_OF[name]: name for name in reversed(names)}
        if "question" not in part or "conversation" in part:
            return
        asked = [name for name in names if PART_OF[name] not in ("answer", "text")]
        said = " ".join(_texts([self.fields[name] for name in asked]))
        for name in _ASKED_ABOUT:
            value = self.fields.get(name)
            if any(text.strip() not in said for text in _texts(value)):
                found = f'"{name}" is not read, and "{part["question"]}" may ask about it'
                is_context = isinstance(value, str) and "context" not in part
                fix = 'name it "context"' if is_context else "write it into the question"
                self.problems.add(
                    self.fields.key_lines[name], f"{found}; {fix}, or leave the field out"
                )

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

    def _messages(
        self, part: dict[str, str], chat: Sequence[str], listed: tuple[Message, ...]
    ) -> tuple[Message, ...]:
        """Return the conversation of a row that is no text.

        Args:
            part: Its fields, by part.
            chat: The fields that are lists of messages.
            listed: Those messages.
        """
        messages: list[Message] = []
        if "system" in part:
            messages.append(Message(role="system", content=self._text(part["system"])))
            if listed and listed[0].role == "system":
                line = self.fields.key_lines[part["system"]]
                found = f'"{part["system"]}" beside another system message'
                self.problems.add(line, f"{found}; keep one")
        if chat:
            around = ("context", "history") if "question" in part else ()
            for name in (part[one] for one in around if one in part):
                found = f'"{name}" beside a list of messages'
                self.problems.add(self.fields.key_lines[name], f"{found}; put it into a message")
            return (*messages, *listed)
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
                content = self.string(text, f'{said} {number} of "{name}"', line)
                messages.append(Message(role=role, content=content))
        return messages

    def _other_questions(self, name: str, asks_none: str) -> tuple[str, ...]:
        if is_nothing(self.fields.get(name)):
            return ()
        line, texts = self.fields.key_lines[name], self.fields[name]
        if asks_none:
            self.problems.add(line, f'"{name}" lists questions, and {asks_none}; remove it')
        if not isinstance(texts, list):
            self.problems.add(line, f'"{name}" is {kind(texts)}, not a list; write ["…", "…"]')
            return ()
        return tuple(
            self.string(text, f"{_ONE_OF[name]} {number}", line, leave_out="it")
            for number, text in enumerate(texts, start=1)
        )

    def _tools(self, name: str) -> str:
        try:
            return read_tools(self.fields[name], name)
        except CallError as error:
            self.problems.add(self.fields.key_lines[name], str(error))
            return ""

    def _text(self, name: str) -> str:
        return self.string(self.fields[name], f'"{name}"', self.fields.key_lines[name])


def _is_empty(name: str, value: object) -> bool:
    """Tell whether a field of a row says nothing."""
    return has_none(value) if name in TOOL_FIELDS else is_nothing(value)


def _is_in(value: object, text: str) -> bool:
    return isinstance(value, str) and value.strip() in text


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


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
