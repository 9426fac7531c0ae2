"""Rows of training data: what each asks and teaches, and how some of them are held out."""

import hashlib
import itertools
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mlx_tune.data.calls import ToolCall
from mlx_tune.errors import InputError

ROLES = ("system", "user", "assistant", "tool")
OTHER_QUESTIONS = ("paraphrases", "wordings", "replaces")
"""Fields of a chat row that list questions beside its own."""

# Kept at the ends of a topic: "What is C?" and "What is C#?" are two questions.
_MEANINGFUL_MARKS = frozenset("#%&*@/\\_-()[]{}")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: One of ``ROLES``.
        content: Its text; may be empty beside calls, and where a tool returned nothing.
        is_taught: False for an answer that is given, as what was said before, and not trained on.
        tool_calls: What an answer calls.
        tool_call_id: Of a tool's message: the call whose result it is; empty for others.
    """

    role: str
    content: str
    is_taught: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """Its content, and each call on a line of its own: see :attr:`ToolCall.text`."""
        lines = [self.content] if self.content or not self.tool_calls else []
        return "\n".join([*lines, *(call.text for call in self.tool_calls)])

    def to_json(self) -> dict[str, Any]:
        """Return the message as it is stored; a ``weight`` of 0 says that it is not taught."""
        own = self._shaped([call.to_json() for call in self.tool_calls])
        return own if self.is_taught else {**own, "weight": 0}

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates take it."""
        return self._shaped([call.for_template() for call in self.tool_calls])

    def _shaped(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        # Llama's template asks whether a message has the field, not whether there is a call in it.
        return {
            "role": self.role,
            "content": self.content,
            **({"tool_calls": calls} if calls else {}),
            **({"tool_call_id": self.tool_call_id} if self.tool_call_id else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Row:
    """A chat row or a text row.

    Attributes:
        messages: The messages of a chat row; empty for a text row.
        text: The text of a text row; None for a chat row.
        tools: What the answers may call, as the JSON text of a list in OpenAI's shape; empty for
            nothing.
        paraphrases: Other wordings of the last user message, to evaluate with, not to train on.
        wordings: Other wordings of it with the same answer, trained on in turn with the message.
        replaces: Questions of earlier rows that this row takes the place of, besides its own.
        place: File and line of the row, ``data/cs.json:41``; equal rows may differ in it.
        replaces_alike: Whether it takes the place of every earlier row that is alike, as all rows
            did that were taught before topics were exact; equal rows may differ in it.
        passed_over: Names of the fields that it came with and that teach nothing; equal rows may
            differ in them.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str = ""
    paraphrases: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    place: str = field(default="", compare=False)
    replaces_alike: bool = field(default=False, compare=False, repr=False)
    passed_over: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def question(self) -> str | None:
        """The last user message; None where the row does not end with an answer that is taught."""
        if not self.messages or not _is_answer(self.messages[-1]):
            return None
        return next((m.content for m in reversed(self.messages) if m.role == "user"), None)

    @property
    def answer(self) -> str | None:
        """The last assistant message that is taught, calls as JSON; None where there is none."""
        return next((m.text for m in reversed(self.messages) if _is_answer(m)), None)

    @property
    def has_tools(self) -> bool:
        """Whether tools may be called in it, or were."""
        return bool(self.tools) or any(message.tool_calls for message in self.messages)

    def tools_for_template(self) -> list[dict[str, Any]]:
        """Return its tools as chat templates take them, in OpenAI's format."""
        tools: list[dict[str, Any]] = json.loads(self.tools or "[]")
        return tools

    @property
    def key(self) -> str:
        """The sha256 (hex) of messages and tools, or the text; nothing else of it changes that."""
        return _hash(canonical_json(self._content()))

    @property
    def topic(self) -> str:
        """What is asked; a row replaces earlier rows of the same topic.

        White space makes no difference, nor does another encoding of the same characters (NFC);
        all else does. The topic of a chat row is its tools and all messages before the last answer
        it teaches, with their calls; a text row asks nothing, so its topic is its text as it
        stands, and a conversation without a user's message asks nothing either, so its topic is all
        of it.
        """
        return self._topic(self._asked()) if self.text is None else f"text: {self.text}"

    @property
    def likeness(self) -> str:
        """What is asked, without case, width and outer punctuation: rows alike in it may differ.

        "What is C?" and "what is c" are alike, and so are ``git branch -d`` and ``git branch -D``.
        """
        return self._likeness(self._asked()) if self.text is None else _normalised(self.text)

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """The topic and the text of every answer that is taught; none for a text row."""
        return tuple((self._topic(asked), answer) for asked, answer in self._exchanges())

    def turn(self, number: int) -> "Row":
        """Return the row up to one of its :attr:`exchanges`, counted from 0."""
        end = self._answered[number] + 1
        cut = self.messages[:end]
        return replace(self, messages=cut, paraphrases=(), wordings=(), replaces=())

    def without_answers(self, given: Sequence[bool]) -> "Row":
        """Return the row with some answers given as what was said, and no longer taught.

        Args:
            given: Of each of its :attr:`exchanges`, whether it is given.
        """
        left = {*itertools.compress(self._answered, given)}
        return replace(
            self,
            messages=tuple(
                replace(message, is_taught=False) if i in left else message
                for i, message in enumerate(self.messages)
            ),
        )

    def _asked(self) -> Sequence[Message]:
        """Return the messages before the last answer, or all of them where nobody asked."""
        answers = [i for i, message in enumerate(self.messages) if _is_answer(message)]
        before = self.messages[: answers[-1]] if answers else self.messages
        return before if _has_question(before) else self.messages

    def _exchanges(self) -> Iterator[tuple[Sequence[Message], str]]:
        """Yield every answer to somebody with the messages before it.

        A greeting is none: rows that begin with different ones would contradict each other.
        """
        for i in self._answered:
            yield self.messages[:i], self.messages[i].text

    @property
    def _answered(self) -> list[int]:
        """The indices of every answer that is taught and that somebody asked for."""
        first = next((i for i, one in enumerate(self.messages) if one.role == "user"), None)
        if first is None:
            return []
        return [i for i, one in enumerate(self.messages) if i > first and _is_answer(one)]

    def _topic(self, messages: Sequence[Message]) -> str:
        """Return tools and messages, one a line, each message with its role."""
        tools = [f"tools: {_one_spaced(self.tools)}"] if self.tools else []
        return "\n".join([*tools, *(f"{m.role}: {_one_spaced(m.text)}" for m in messages)])

    def _likeness(self, messages: Sequence[Message]) -> str:
        tools = [_normalised(self.tools)] if self.tools else []
        return "\n".join([*tools, *(_normalised(message.text) for message in messages)])

    @property
    def variants(self) -> tuple["Row", ...]:
        """What is trained on in turn: the row as taught, then the row in each of its wordings."""
        return (self, *map(self.with_question, self.wordings))

    @cached_property
    def trace(self) -> "Trace":
        """Hashes that show whether another row replaces this one, without its content."""
        return Trace(
            topic=_hash(self.topic),
            exchanges=tuple((_hash(topic), _hash(answer)) for topic, answer in self.exchanges),
            wordings=tuple(_hash(reworded.topic) for reworded in self.variants[1:]),
            replaces=tuple(self.with_question(text).replaced_as for text in self.replaces),
        )

    @cached_property
    def loose_trace(self) -> "Trace":
        """The same by likeness, as it was recorded before topics were exact."""
        return Trace(
            topic=_hash(self.likeness),
            exchanges=tuple(
                (_hash(self._likeness(asked)), _hash(answer)) for asked, answer in self._exchanges()
            ),
            wordings=tuple(_hash(reworded.likeness) for reworded in self.variants[1:]),
            is_loose=True,
        )

    @cached_property
    def paraphrase_topics(self) -> tuple[str, ...]:
        """The sha256 (hex) of the topic of each of its paraphrases."""
        return tuple(_hash(self.with_question(text).topic) for text in self.paraphrases)

    @property
    def replaced_as(self) -> str:
        """The sha256 (hex) by which a later row's ``replaces`` names this one.

        It covers the question exactly, and what was said before it by likeness.
        """
        return _hash(f"{_one_spaced(self.question or '')}\n{self.likeness}")

    def with_question(self, text: str) -> "Row":
        """Return the row with another wording of its question, and nothing besides the answer.

        Args:
            text: The new last user message.

        Raises:
            InputError: The row has no question: it is a text, or does not end with an answer that
                is taught.
        """
        if self.question is None:
            raise InputError(
                f"{self.place or 'row'}: asks no question; only a chat row is reworded"
            )
        last = max(i for i, message in enumerate(self.messages) if message.role == "user")
        reworded = replace(self.messages[last], content=text)
        messages = (*self.messages[:last], reworded, *self.messages[last + 1 :])
        return replace(self, messages=messages, paraphrases=(), wordings=(), replaces=())

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is stored: ``messages`` or ``text``, and what else it has."""
        others = {name: list(getattr(self, name)) for name in OTHER_QUESTIONS}
        return self._content() | {name: texts for name, texts in others.items() if texts}

    def _content(self) -> dict[str, Any]:
        if self.text is not None:
            return {"text": self.text}
        tools = {"tools": self.tools} if self.tools else {}
        return {"messages": [message.to_json() for message in self.messages], **tools}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Hashes of a row whose content was not kept: enough to know which rows it replaced.

    Attributes:
        topic: The sha256 (hex) of :attr:`Row.topic`.
        exchanges: The sha256 (hex) of each of :attr:`Row.exchanges`.
        wordings: The sha256 (hex) of the topic of each other wording that was trained on.
        replaces: :attr:`Row.replaced_as` of each row that it takes the place of.
        is_loose: Whether its topics are likenesses, as they were recorded first.
    """

    topic: str
    exchanges: tuple[tuple[str, str], ...]
    wordings: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    is_loose: bool = False

    @property
    def answer(self) -> str | None:
        """The sha256 (hex) of the last answer; None for a text."""
        return self.exchanges[-1][1] if self.exchanges else None

    def to_json(self) -> dict[str, Any]:
        """Return the trace for a session's record."""
        others = {"wordings": list(self.wordings), "replaces": list(self.replaces)}
        return {
            "topic": self.topic,
            "exchanges": [list(pair) for pair in self.exchanges],
            **{name: hashes for name, hashes in others.items() if hashes},
            **({} if self.is_loose else {"exact": True}),
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Trace":
        """Return the trace in a record; the inverse of :meth:`to_json`."""
        return Trace(
            topic=record["topic"],
            exchanges=tuple((topic, answer) for topic, answer in record["exchanges"]),
            wordings=tuple(record.get("wordings", ())),
            replaces=tuple(record.get("replaces", ())),
            is_loose=not record.get("exact", False),
        )


def split(rows: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those to train on and those to hold out, both in their order.

    Args:
        rows: All rows.
        share: Fraction of the rows to hold out, 0 to 1, rounded up to whole rows.
        seed: Seed of the choice, which otherwise depends only on the number of rows.

    Raises:
        InputError: No row would be left to train on.
    """
    count = math.ceil(share * len(rows))
    if count and count >= len(rows):
        raise InputError(
            f"--validation {share:g} of {len(rows)} row{'s' * (len(rows) != 1)} leaves none to "
            "train on; hold out less, or nothing"
        )
    import numpy as np  # slow to import, and not needed to read rows

    # With [seed, 0, 1] the draw differs from that of the order of rows, which has the same seed.
    chosen = set(np.random.default_rng([seed, 0, 1]).permutation(len(rows))[:count].tolist())
    kept = [row for i, row in enumerate(rows) if i not in chosen]
    return kept, [row for i, row in enumerate(rows) if i in chosen]


def canonical_json(value: object) -> str:
    """Return the canonical JSON of a value: sorted keys, no spaces, no escaped characters."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _is_answer(message: Message) -> bool:
    """Tell whether a message is an answer that is taught."""
    return message.role == "assistant" and message.is_taught


def _has_question(messages: Sequence[Message]) -> bool:
    return any(message.role == "user" for message in messages)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _one_spaced(text: str) -> str:
    """Return ``text`` in NFC, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _normalised(text: str) -> str:
    """Return ``text`` in NFKC, casefolded, with single spaces and without outer punctuation."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    start, end = 0, len(words)
    while start < end and _is_outer(words[start]):
        start += 1
    while end > start and _is_outer(words[end - 1]):
        end -= 1
    # A message of punctuation only, such as "?!", is kept as it is.
    return words[start:end] or words


def _is_outer(character: str) -> bool:
    if character in _MEANINGFUL_MARKS:
        return False
    return character == " " or unicodedata.category(character).startswith("P")
