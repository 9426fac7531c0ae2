"""Asks a model the questions that sessions taught, and looks for the key facts of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlx_tune.continual.key_facts import key_facts, present_facts
from mlx_tune.continual.recall import Recall, score
from mlx_tune.continual.retention import KINDS, Kind
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference import MARGIN_TOKENS, batch_generate
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.workspace import FoldedModel


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
        recall = {kind: _read_recall(record[kind]) for kind in KINDS}
        return SessionRecall(number=record["number"], name=record["name"], **recall)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        recall: dict[str, Any] = {kind: _recall_json(getattr(self, kind)) for kind in KINDS}
        return {"number": self.number, "name": self.name, **recall}


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


def prepare_questions(
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
    reworded = iter(tokenise.encode_paraphrases(everything, tokenizer))
    return [
        Questions(
            number=number,
            name=name,
            verbatim=tuple(islice(verbatim, len(several))),
            paraphrases=tuple(islice(reworded, sum(len(row.paraphrases) for row in several))),
        )
        for (number, name), several in zip(labels, rows, strict=True)
    ]


def ask_questions(folded: FoldedModel, questions: Questions) -> SessionRecall:
    """Score one session's questions and their paraphrases."""
    examples = {kind: getattr(questions, kind) for kind in KINDS}
    recall = {kind: score(folded.model, each) if each else None for kind, each in examples.items()}
    return SessionRecall(number=questions.number, name=questions.name, **recall)


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


@dataclass(frozen=True, kw_only=True)
class MissingFacts:
    """An answer that lacks a key fact.

    Attributes:
        question: The question.
        answer: The whole answer.
        facts: What it lacks, as taught.
    """

    question: str
    answer: str
    facts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FactScore:
    """The key facts of a set of questions.

    Attributes:
        found: How many stand in the answers.
        asked: How many there are; answers without any count nothing.
        missing: The answers that lack some.
    """

    found: int
    asked: int
    missing: tuple[MissingFacts, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what an evaluation's file keeps."""
        missing = [
            {"question": one.question, "said": one.answer, "facts": list(one.facts)}
            for one in self.missing
        ]
        return {"found": self.found, "asked": self.asked, "missing": missing}


def score_facts(
    folded: FoldedModel, rows: Sequence[Row], questions: Questions, recall: SessionRecall
) -> dict[Kind, FactScore]:
    """Look for the key facts of a session's answers in the model's.

    A question that is known verbatim is answered as taught, so only the others are generated.

    Args:
        folded: The model that answers.
        rows: The session's questions.
        questions: The same in tokens.
        recall: How they, and their paraphrases, came out.
    """
    reworded = [row.with_question(text) for row in rows for text in row.paraphrases]
    return {
        "verbatim": _find_facts(folded, rows, questions.verbatim, recall.verbatim),
        "paraphrases": _find_facts(folded, reworded, questions.paraphrases, recall.paraphrases),
    }


def _find_facts(
    folded: FoldedModel, rows: Sequence[Row], examples: Sequence[Example], recall: Recall | None
) -> FactScore:
    facts = [key_facts(str(row.answer)) for row in rows]
    flags = recall.verbatim if recall else ()
    wrong = [i for i, is_right in enumerate(flags) if facts[i] and not is_right]
    answers = _generate_answers(folded, [examples[i] for i in wrong])
    missing = []
    for i, answer in zip(wrong, answers, strict=True):
        present = zip(facts[i], present_facts(facts[i], answer), strict=True)
        if lacks := tuple(fact.text for fact, is_present in present if not is_present):
            question = str(rows[i].question)
            missing.append(MissingFacts(question=question, answer=answer, facts=lacks))
    total = sum(map(len, facts))
    found = total - sum(len(one.facts) for one in missing)
    return FactScore(found=found, asked=total, missing=tuple(missing))


def _generate_answers(folded: FoldedModel, examples: Sequence[Example]) -> list[str]:
    """Generate the greedy answer to each question."""
    if not examples:
        return []
    limit = MARGIN_TOKENS + max(sum(example.supervised) for example in examples)
    prompts = [example.tokens[: example.last_answer] for example in examples]
    answers = batch_generate(folded.model, folded.tokenizer, prompts, max_tokens=limit)
    ends = folded.tokenizer.end_ids
    return [folded.tokenizer.decode([t for t in answer if t not in ends]) for answer in answers]
