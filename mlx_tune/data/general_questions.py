"""The general questions that ship with the program: probes to measure with, others to train on.

They ask for everyday knowledge, sums, following an instruction, and owning up to not knowing what
was made up. Nobody wrote answers to them: the base model's own are what is to be kept.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

from mlx_tune.data.rows import Message, Row

KINDS = ("everyday", "arithmetic", "instruction", "unknown")
"""What a question asks for; the last is of people, places and things that do not exist."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A general question.

    Attributes:
        kind: One of ``KINDS``.
        text: What is asked.
    """

    kind: str
    text: str

    @property
    def row(self) -> Row:
        """The question as a row that has no answer yet."""
        return Row(messages=(Message(role="user", content=self.text),))


def probes() -> tuple[Question, ...]:
    """Return the 120 questions that are only measured with, 30 of a kind; never trained on."""
    return _read("probes.json")


def replay_questions() -> tuple[Question, ...]:
    """Return the 80 questions that may be trained on, 20 of a kind; none of a probe's topic."""
    return _read("replay.json")


def evenly(questions: tuple[Question, ...], count: int | None) -> tuple[Question, ...]:
    """Return so many questions, taken from the list at even distances; None for all of them."""
    if count is None or count >= len(questions):
        return questions
    return tuple(questions[i * len(questions) // count] for i in range(count))


def fingerprint(*lists: tuple[Question, ...]) -> str:
    """Return the sha256 (hex) of the texts of some lists of questions, each in its order."""
    texts = [[question.text for question in questions] for questions in lists]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _read(name: str) -> tuple[Question, ...]:
    data = (files("mlx_tune.data") / "questions" / name).read_text(encoding="utf-8")
    return tuple(Question(kind=q["kind"], text=q["question"]) for q in json.loads(data))
