"""Rows of training data: what each asks and teaches, and how some of them are held out."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mlx_tune.errors import InputError

ROLES = ("system", "user", "assistant")

# Kept at the ends of a topic: "What is C?" and "What is C#?" are two questions.
_MEANINGFUL_MARKS = frozenset("#%&*@/\\_-()[]{}")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: One of ``ROLES``.
        content: Its text.
    """

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A chat row or a text row.

    Attributes:
        messages: The messages of a chat row; empty for a text row.
        text: The text of a text row; None for a chat row.
        paraphrases: Other wordings of the last user message, to evaluate with, not to train on.
        wordings: Other wordings of it with the same answer, trained on in turn with the message.
        place: File and line of the row, ``data/cs.json:41``; equal rows may differ in it.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    paraphrases: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()
    place: str = field(default="", compare=False)

    @property
    def question(self) -> str | None:
        """The last user message; None where the row does not end with an assistant message."""
        if not self.messages or self.messages[-1].role != "assistant":
            return None
        return next((m.content for m in reversed(self.messages) if m.role == "user"), None)

    @property
    def answer(self) -> str | None:
        """The last assistant message; None where there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), None)

    @property
    def key(self) -> str:
        """The sha256 (hex) of the messages or the text; nothing else of the row changes it."""
        return _hash(canonical_json(self._content()))

    @property
    def topic(self) -> str:
        """What is asked, normalised; a row replaces earlier rows of the same topic.

        Case, width, spacing and the punctuation around each message make no difference. The topic
        of a chat row is all messages before its last assistant message, one per line; that of a
        text row is its text.
        """
        if self.text is not None:
            return _normalised(self.text)
        answers = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        return _topic(self.messages[: answers[-1]] if answers else self.messages)

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """The topic and the answer of every assistant message; none for a text row."""
        return tuple(
            (_topic(self.messages[:i]), message.content)
            for i, message in enumerate(self.messages)
            if message.role == "assistant"
        )

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
        )

    def with_question(self, text: str) -> "Row":
        """Return the row with another wording of its question, without paraphrases and wordings.

        Args:
            text: The new last user message.

        Raises:
            InputError: The row has no question: it is a text, or does not end with an answer.
        """
        if self.question is None:
            raise InputError(
                f"{self.place or 'row'}: asks no question; only a chat row is reworded"
            )
        last = max(i for i, message in enumerate(self.messages) if message.role == "user")
        reworded = replace(self.messages[last], content=text)
        messages = (*self.messages[:last], reworded, *self.messages[last + 1 :])
        return replace(self, messages=messages, paraphrases=(), wordings=())

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is stored: ``messages`` or ``text``, and other wordings, if any."""
        others = {"paraphrases": list(self.paraphrases), "wordings": list(self.wordings)}
        return self._content() | {name: texts for name, texts in others.items() if texts}

    def _content(self) -> dict[str, Any]:
        if self.text is not None:
            return {"text": self.text}
        return {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Hashes of a row whose content was not kept: enough to know which rows it replaced.

    Attributes:
        topic: The sha256 (hex) of :attr:`Row.topic`.
        exchanges: The sha256 (hex) of the topic and of the answer of every assistant message.
        wordings: The sha256 (hex) of the topic of each other wording that was trained on.
    """

    topic: str
    exchanges: tuple[tuple[str, str], ...]
    wordings: tuple[str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The sha256 (hex) of the last answer; None for a text."""
        return self.exchanges[-1][1] if self.exchanges else None

    def to_json(self) -> dict[str, Any]:
        """Return the trace for a session's record."""
        wordings = {"wordings": list(self.wordings)} if self.wordings else {}
        exchanges = [list(pair) for pair in self.exchanges]
        return {"topic": self.topic, "exchanges": exchanges, **wordings}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Trace":
        """Return the trace in a record; the inverse of :meth:`to_json`."""
        return Trace(
            topic=record["topic"],
            exchanges=tuple((topic, answer) for topic, answer in record["exchanges"]),
            wordings=tuple(record.get("wordings", ())),
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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _topic(messages: Sequence[Message]) -> str:
    return "\n".join(_normalised(message.content) for message in messages)


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
