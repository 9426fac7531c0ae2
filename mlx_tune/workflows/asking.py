"""Asks a model the questions that sessions taught."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.continual.recall import Recall, score
from mlx_tune.continual.recorded import questions
from mlx_tune.continual.rehearse import current
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
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


def score_sessions(
    folded: FoldedModel,
    labels: Sequence[tuple[int, str]],
    history: Sequence[Sequence[Row]],
) -> list[SessionRecall]:
    """Score each session's questions and their paraphrases.

    A question that a later session taught again is that session's alone.

    Args:
        folded: The model that answers.
        labels: Number and name of each session.
        history: The rows each was taught, in the same order.
    """
    return [
        score_session(folded, label, questions(rows))
        for label, rows in zip(labels, current(history), strict=True)
    ]


def score_session(
    folded: FoldedModel, label: tuple[int, str], rows: Sequence[Row]
) -> SessionRecall:
    """Score the questions of one session and their paraphrases.

    Args:
        folded: The model that answers.
        label: Number and name of the session.
        rows: Those that ask something.
    """
    number, name = label
    return SessionRecall(
        number=number,
        name=name,
        verbatim=_score(folded, tokenise.encode(rows, folded.tokenizer)),
        paraphrases=_score(folded, tokenise.probes(rows, folded.tokenizer)),
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
