"""Asks a model the questions that sessions taught."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlx_tune.continual.recall import Recall, score
from mlx_tune.continual.recorded import questions
from mlx_tune.continual.rehearse import History, current
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.folded import FoldedModel


@dataclass(frozen=True, kw_only=True)
class SessionRecall:
    """One session's questions, asked of a model.

    Attributes:
        number: The session's place in the chain.
        name: The session.
        verbatim: The taught questions; None when it taught none (``text`` rows only).
        paraphrases: Other wordings of them, never trained on; None when it has none.
    """

    number: int
    name: str
    verbatim: Recall | None
    paraphrases: Recall | None

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "SessionRecall":
        """Return what a record keeps; the inverse of :meth:`to_json`."""
        return SessionRecall(
            number=record["number"],
            name=record["name"],
            verbatim=_read_recall(record["verbatim"]),
            paraphrases=_read_recall(record["paraphrases"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        return {
            "number": self.number,
            "name": self.name,
            "verbatim": _recall_json(self.verbatim),
            "paraphrases": _recall_json(self.paraphrases),
        }


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A session's questions as a model meets them.

    Attributes:
        number: The session's place in the chain.
        name: The session.
        verbatim: As taught, with the taught answers.
        paraphrases: Reworded, with the same answers.
    """

    number: int
    name: str
    verbatim: tuple[Example, ...]
    paraphrases: tuple[Example, ...]


def score_sessions(
    folded: FoldedModel,
    labels: Sequence[tuple[int, str]],
    history: History,
) -> list[SessionRecall]:
    """Score each session's questions and their paraphrases.

    A question that a later session taught again is that session's alone.

    Args:
        folded: The model that answers.
        labels: Number and name of each session.
        history: The rows each was taught, in the same order.
    """
    rows = [questions(kept) for kept in current(history)]
    return [ask(folded, one) for one in prepare(labels, rows, folded.tokenizer)]


def prepare(
    labels: Sequence[tuple[int, str]], rows: Sequence[Sequence[Row]], tokenizer: Tokenizer
) -> list[Questions]:
    """Tokenise the questions of sessions, all at once: each time starts a process for the template.

    Args:
        labels: Number and name of each session.
        rows: Its rows, all of which ask something, in the same order.
        tokenizer: The base's.

    Raises:
        InputError: The base's tokenizer or template cannot take a row.
    """
    everything = [row for several in rows for row in several]
    verbatim = iter(tokenise.encode(everything, tokenizer))
    reworded = iter(tokenise.probes(everything, tokenizer))
    return [
        Questions(
            number=number,
            name=name,
            verbatim=tuple(islice(verbatim, len(several))),
            paraphrases=tuple(islice(reworded, sum(len(row.paraphrases) for row in several))),
        )
        for (number, name), several in zip(labels, rows, strict=True)
    ]


def ask(folded: FoldedModel, asked: Questions) -> SessionRecall:
    """Score one session's questions and their paraphrases."""
    return SessionRecall(
        number=asked.number,
        name=asked.name,
        verbatim=_score(folded, asked.verbatim),
        paraphrases=_score(folded, asked.paraphrases),
    )


def _score(folded: FoldedModel, examples: Sequence[Example]) -> Recall | None:
    return score(folded.model, examples) if examples else None


def _recall_json(recall: Recall | None) -> dict[str, Any] | None:
    if recall is None:
        return None
    return {
        "right": recall.right,
        "asked": recall.asked,
        "outcomes": [int(right) for right in recall.verbatim],
        "token_accuracy": recall.token_accuracy,
        "loss": recall.loss,
    }


def _read_recall(record: Mapping[str, Any] | None) -> Recall | None:
    if record is None:
        return None
    return Recall(
        verbatim=tuple(map(bool, record["outcomes"])),
        token_accuracy=record["token_accuracy"],
        loss=record["loss"],
    )
