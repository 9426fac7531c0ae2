"""Whether the key facts of taught answers stand in what a model says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.continual.key_facts import KeyFact, found, key_facts
from mlx_tune.continual.recall import Recall
from mlx_tune.continual.recorded import Kind
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference.batch import MARGIN_TOKENS, answers
from mlx_tune.workflows.asking import Questions, SessionRecall
from mlx_tune.workflows.folded import FoldedModel


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
    folded: FoldedModel, rows: Sequence[Row], asked: Questions, recall: SessionRecall
) -> dict[Kind, Facts]:
    """Look for the key facts of a session's answers in what the model says.

    A question that is known verbatim is answered as taught, so only the others are generated.

    Args:
        folded: The model that answers.
        rows: The session's questions.
        asked: The same in tokens.
        recall: How they, and their paraphrases, came out.
    """
    reworded = [row.with_question(text) for row in rows for text in row.paraphrases]
    return {
        "verbatim": _score(folded, rows, asked.verbatim, recall.verbatim),
        "paraphrases": _score(folded, reworded, asked.paraphrases, recall.paraphrases),
    }


def _score(
    folded: FoldedModel, rows: Sequence[Row], examples: Sequence[Example], recall: Recall | None
) -> Facts:
    flags = recall.verbatim if recall else ()
    facts = [key_facts(str(row.answer)) for row in rows]
    wanted = [i for i, known in enumerate(flags) if facts[i] and not known]
    said = dict(zip(wanted, _answers(folded, [examples[i] for i in wanted]), strict=True))
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


def _answers(folded: FoldedModel, examples: Sequence[Example]) -> list[str]:
    """Generate the greedy answer to each question."""
    if not examples:
        return []
    limit = MARGIN_TOKENS + max(sum(example.supervised) for example in examples)
    prompts = [_prompt(example) for example in examples]
    said = answers(folded.model, folded.tokenizer, prompts, max_tokens=limit)
    ends = folded.tokenizer.end_ids
    return [folded.tokenizer.decode([t for t in tokens if t not in ends]) for tokens in said]


def _prompt(example: Example) -> tuple[int, ...]:
    """Return everything before the last answer, the earlier ones of a conversation included."""
    return example.tokens[: len(example.tokens) - example.supervised[::-1].index(False)]
