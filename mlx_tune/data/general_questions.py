"""The general questions that ship with the package: some to evaluate with, others to train on.

They ask for everyday knowledge and sums, to follow an instruction, and about things that do not
exist. They have no answers: the base model's own answers are those to keep.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

from mlx_tune.data.rows import Message, Row

KINDS = ("everyday", "arithmetic", "instruction", "unknown")
"""The kinds of question; the last is about people, places and things that do not exist."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A general question.

    Attributes:
        kind: One of ``KINDS``.
        text: The question.
    """

    kind: str
    text: str

    @property
    def row(self) -> Row:
        """The question as a chat row without an answer."""
        return Row(messages=(Message(role="user", content=self.text),))


def probes() -> tuple[Question, ...]:
    """Return the 120 questions to evaluate with, 30 of each kind; they are never trained on."""
    return _read("probes.json")


def replay_questions() -> tuple[Question, ...]:
    """Return the 80 questions to train on, 20 of each kind; none has the topic of a probe."""
    return _read("replay.json")


def evenly(questions: tuple[Question, ...], count: int | None) -> tuple[Question, ...]:
    """Return ``count`` questions, at even distances in the list; all where ``count`` is None."""
    if count is None or count >= len(questions):
        return questions
    return tuple(questions[i * len(questions) // count] for i in range(count))


def fingerprint(*lists: tuple[Question, ...]) -> str:
    """Return the sha256 (hex) of the texts of lists of questions, in their order."""
    texts = [[question.text for question in questions] for questions in lists]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _read(name: str) -> tuple[Question, ...]:
    data = (files("mlx_tune.data") / "questions" / name).read_text(encoding="utf-8")
    return tuple(Question(kind=q["kind"], text=q["question"]) for q in json.loads(data))
