"""How well the model knows what each session taught it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.recall import Recall, score
from mlx_tune.continual.rehearse import current
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import Say
from mlx_tune.workflows.folded import (
    FoldedModel,
    choose_base,
    find_session,
    load_folded,
    locate_base,
    need_sessions,
    read_history,
)


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


def evaluate(
    store_root: Path, *, session: str | None, base: str | None, on: str | None, say: Say
) -> tuple[Session | None, list[SessionRecall]]:
    """Ask a place in the lineage the questions of a chain of sessions.

    Args:
        store_root: The store's folder.
        session: Whose model answers: a session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        on: Whose chain of sessions is asked about; None for the answering one's, or, when that
            is the base, for HEAD's.
        say: Told, in a line, what takes long.

    Returns:
        The answering session (None: the base) and the recall of each session asked about.
    """
    store = Store.open(store_root)
    need_sessions(store)
    info = locate_base(store, choose_base(store, base), say)
    answering = find_session(store, session)
    asked = store.chain(find_session(store, on) if on else answering or store.head())
    for note in store.notes:
        say(note)
    say("asking…")
    folded = load_folded(info, store.chain(answering))
    return answering, score_sessions(
        folded, [(s.number, s.name) for s in asked], read_history(asked)
    )


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
    scored = []
    for (number, name), rows in zip(labels, current(history), strict=True):
        asking = [row for row in rows if row.question is not None]
        scored.append(
            SessionRecall(
                number=number,
                name=name,
                verbatim=_score(folded, tokenise.encode(asking, folded.tokenizer)),
                paraphrases=_score(folded, tokenise.probes(asking, folded.tokenizer)),
            )
        )
    return scored


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
