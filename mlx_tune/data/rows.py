"""Rows of training data, and how some of them are held out."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_tune.errors import InputError

ROLES = ("system", "user", "assistant")

# Left in place at the ends of a topic: "What is C?" and "What is C#?" are two questions.
_MEANINGFUL_MARKS = frozenset("#%&*@/\\_-()[]{}")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: One of ``ROLES``.
        content: What was said.
    """

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A conversation or a text to learn from; one of the two is present.

    Attributes:
        messages: The turns of a chat row; empty for a text row.
        text: The text of a text row; None for a chat row.
        paraphrases: Other wordings of the last user message: probes, never trained on.
        place: Where the row was read, ``data/cs.json:41``; two rows may differ in it and be equal.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    paraphrases: tuple[str, ...] = ()
    place: str = field(default="", compare=False)

    @property
    def question(self) -> str | None:
        """The last user message, or None unless the row is a chat that ends with an answer."""
        if not self.messages or self.messages[-1].role != "assistant":
            return None
        return next((m.content for m in reversed(self.messages) if m.role == "user"), None)

    @property
    def answer(self) -> str | None:
        """The last assistant message, or None if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), None)

    @property
    def key(self) -> str:
        """Sha256 (hex) of what is taught; paraphrases and place do not change it."""
        return _hash(canonical_json(self._taught()))

    @property
    def topic(self) -> str:
        """What is asked, free of wording's accidents: rows of one topic supersede one another.

        Case, width, spacing and the punctuation around each message do not count. A chat row's
        topic is everything before its last assistant turn, one message a line; a text row's is
        its text.
        """
        if self.text is not None:
            return _normalised(self.text)
        return _topic(self._context())

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """The topic and the answer of every assistant turn; none for a text row."""
        return tuple(
            (_topic(self.messages[:i]), message.content)
            for i, message in enumerate(self.messages)
            if message.role == "assistant"
        )

    @property
    def trace(self) -> "Trace":
        """What tells whether another row takes this one's place, without saying what it teaches."""
        return Trace(
            topic=_hash(self.topic),
            exchanges=tuple((_hash(topic), _hash(answer)) for topic, answer in self.exchanges),
        )

    def with_question(self, text: str) -> "Row":
        """Return the row asked in another wording, without its paraphrases.

        Args:
            text: Takes the place of the last user message.

        Raises:
            InputError: The row asks nothing: it is a text, or does not end with an answer.
        """
        if self.question is None:
            raise InputError(
                f"{self.place or 'row'}: asks no question; only a chat row is reworded"
            )
        last = max(i for i, message in enumerate(self.messages) if message.role == "user")
        reworded = replace(self.messages[last], content=text)
        messages = (*self.messages[:last], reworded, *self.messages[last + 1 :])
        return replace(self, messages=messages, paraphrases=())

    def to_json(self) -> dict[str, Any]:
        """Return the row in its one stored shape: ``messages`` or ``text``, and paraphrases."""
        paraphrases = {"paraphrases": list(self.paraphrases)} if self.paraphrases else {}
        return self._taught() | paraphrases

    def _taught(self) -> dict[str, Any]:
        if self.text is not None:
            return {"text": self.text}
        return {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}

    def _context(self) -> tuple[Message, ...]:
        """Return the messages before the last assistant turn; all of them if there is none."""
        answers = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        return self.messages[: answers[-1]] if answers else self.messages


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What is left of a row that was not to be kept: enough to know what it took the place of.

    Attributes:
        topic: Sha256 (hex) of `Row.topic`.
        exchanges: Sha256 (hex) of the topic and of the answer of every assistant turn.
    """

    topic: str
    exchanges: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        return {"topic": self.topic, "exchanges": [list(pair) for pair in self.exchanges]}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Trace":
        """Return the trace a record keeps; the inverse of :meth:`to_json`."""
        return Trace(
            topic=record["topic"],
            exchanges=tuple((topic, answer) for topic, answer in record["exchanges"]),
        )


def canonical_json(value: object) -> str:
    """Return the one way ``value`` is written: sorted keys, no spaces, UTF-8 characters as such."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _topic(messages: Sequence[Message]) -> str:
    return "\n".join(_normalised(message.content) for message in messages)


def _normalised(text: str) -> str:
    """Return ``text`` in NFKC, casefolded, spaces collapsed, outer punctuation gone."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    start, end = 0, len(words)
    while start < end and _is_outer(words[start]):
        start += 1
    while end > start and _is_outer(words[end - 1]):
        end -= 1
    # "?!" alone is all there is to tell such a message from another, so it stays.
    return words[start:end] or words


def _is_outer(character: str) -> bool:
    if character in _MEANINGFUL_MARKS:
        return False
    return character == " " or unicodedata.category(character).startswith("P")


def split(rows: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on and those held out, each in the order they came in.

    Args:
        rows: All of them.
        share: Of the rows to hold out, 0 to 1; rounded up to whole rows, 0 holds none out.
        seed: Of the choice; it depends on nothing else but the number of rows.

    Raises:
        InputError: Nothing would be left to train on.
    """
    count = math.ceil(share * len(rows))
    if count and count >= len(rows):
        raise InputError(
            f"--validation {share:g} of {len(rows)} row{'s' * (len(rows) != 1)} leaves none to "
            "train on; hold out less, or nothing"
        )
    import numpy as np  # slow to load, and reading rows needs none

    # The number keeps this draw apart from the order of rows, which has the same seed.
    chosen = set(np.random.default_rng([seed, 0, 1]).permutation(len(rows))[:count].tolist())
    kept = [row for i, row in enumerate(rows) if i not in chosen]
    return kept, [row for i, row in enumerate(rows) if i in chosen]
