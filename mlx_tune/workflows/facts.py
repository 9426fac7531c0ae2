"""Whether the key facts of taught answers stand in what a model says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.continual.key_facts import KeyFact, found, key_facts
from mlx_tune.continual.recall import Recall
from mlx_tune.continual.recorded import KINDS, Kind
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference.generate import stream
from mlx_tune.workflows.asking import SessionRecall
from mlx_tune.workflows.folded import FoldedModel

MARGIN_TOKENS = 16
"""How much longer than the longest taught answer a generated one may get."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """An answer that lacks a key fact.

    Attributes:
        question: What was asked.
        said: The whole answer.
        facts: What it lacks, as taught.
    """

    question: str
    said: str
    facts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The key facts of a set of questions.

    Attributes:
        found: How many stand in the answers.
        asked: How many there are; answers without any count nothing.
        missing: The answers that lack some.
    """

    found: int
    asked: int
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what an evaluation's file keeps."""
        missing = [{**vars(one), "facts": list(one.facts)} for one in self.missing]
        return {"found": self.found, "asked": self.asked, "missing": missing}


def score_facts(
    folded: FoldedModel, rows: Sequence[Row], recall: SessionRecall
) -> dict[Kind, Facts]:
    """Look for the key facts of a session's answers in what the model says.

    A question that is known verbatim is answered as taught, so only the others are generated.

    Args:
        folded: The model that answers.
        rows: The session's questions.
        recall: How they, and their paraphrases, came out.
    """
    reworded = [row.with_question(text) for row in rows for text in row.paraphrases]
    asked: dict[Kind, Sequence[Row]] = {"verbatim": rows, "paraphrases": reworded}
    scores: dict[Kind, Recall | None] = {
        "verbatim": recall.verbatim,
        "paraphrases": recall.paraphrases,
    }
    return {kind: _score(folded, asked[kind], scores[kind]) for kind in KINDS}


def _score(folded: FoldedModel, rows: Sequence[Row], recall: Recall | None) -> Facts:
    flags = recall.verbatim if recall else ()
    facts = [key_facts(str(row.answer)) for row in rows]
    wanted = [i for i, known in enumerate(flags) if facts[i] and not known]
    said = dict(zip(wanted, _answers(folded, [rows[i] for i in wanted]), strict=True))
    missing = [_missing(rows[i], facts[i], said[i]) for i in wanted]
    total = sum(map(len, facts))
    return Facts(
        found=total - sum(len(one.facts) for one in missing),
        asked=total,
        missing=tuple(one for one in missing if one.facts),
    )


def _missing(row: Row, facts: Sequence[KeyFact], said: str) -> Missing:
    lacks = [fact.text for fact, there in zip(facts, found(facts, said), strict=True) if not there]
    return Missing(question=str(row.question), said=said, facts=tuple(lacks))


def _answers(folded: FoldedModel, rows: Sequence[Row]) -> list[str]:
    """Generate the greedy answer to each row's question."""
    examples = tokenise.encode(rows, folded.tokenizer)
    limit = MARGIN_TOKENS + max((sum(e.supervised) for e in examples), default=0)
    prompts = [_prompt(example) for example in examples]
    return [
        "".join(
            piece.text for piece in stream(folded.model, folded.tokenizer, prompt, max_tokens=limit)
        )
        for prompt in prompts
    ]


def _prompt(example: Example) -> tuple[int, ...]:
    """Return everything before the last answer, the earlier ones of a conversation included."""
    return example.tokens[: len(example.tokens) - example.supervised[::-1].index(False)]
