"""Asks a model the questions that sessions taught, and grades its answers.

One forward pass says which answers the model recites word for word. The others are generated, each
from where it leaves the taught one, and graded; of many questions a sample is.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mlx_tune.continual.answers import AnswerKey, AnswerScore, GradedAnswer, WrongAnswer
from mlx_tune.continual.recall import Miss, Recall, score
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference import MARGIN_TOKENS, batch_generate, context_tokens
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.workspace import FoldedModel

SAMPLED = 64
"""How many questions of a session are answered at most, as taught, and in other words as many."""
SAMPLED_ALL, SAMPLED_LEAST = 512, 8
"""So many of all sessions together; but of each no fewer than the least, if it has them."""


@dataclass(frozen=True, kw_only=True)
class SessionRecall:
    """One session's questions, asked of a model.

    Attributes:
        number: The session's place in the chain.
        name: The session.
        verbatim: The taught questions, word for word; None when it taught none (``text`` rows).
        paraphrases: Other wordings of them, never trained on; None when it has none.
        as_taught: The graded answers to the taught questions; None where none were graded.
        other_words: Those to the other wordings; likewise.
    """

    number: int
    name: str
    verbatim: Recall | None
    paraphrases: Recall | None
    as_taught: AnswerScore | None = None
    other_words: AnswerScore | None = None

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "SessionRecall":
        """Return what a record keeps; the inverse of :meth:`to_json`."""
        return SessionRecall(
            number=record["number"],
            name=record["name"],
            verbatim=_read_recall(record["verbatim"]),
            paraphrases=_read_recall(record["paraphrases"]),
            as_taught=AnswerScore.from_json(record.get("as_taught")),
            other_words=AnswerScore.from_json(record.get("other_words")),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        return {
            "number": self.number,
            "name": self.name,
            "verbatim": _recall_json(self.verbatim),
            "paraphrases": _recall_json(self.paraphrases),
            "as_taught": self.as_taught and self.as_taught.to_json(),
            "other_words": self.other_words and self.other_words.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A session's questions as a model meets them.

    Attributes:
        number: The session's place in the chain.
        name: The session.
        rows: What was taught.
        verbatim: As taught, with the taught answers.
        paraphrases: Reworded, with the same answers.
    """

    number: int
    name: str
    rows: tuple[Row, ...]
    verbatim: tuple[Example, ...]
    paraphrases: tuple[Example, ...]

    @property
    def taught_wordings(self) -> list[tuple[Row, str]]:
        """The taught questions, each with its row."""
        return [(row, str(row.question)) for row in self.rows]

    @property
    def other_wordings(self) -> list[tuple[Row, str]]:
        """The paraphrases, likewise."""
        return [(row, text) for row in self.rows for text in row.paraphrases]


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
            rows=tuple(several),
            verbatim=tuple(islice(verbatim, len(several))),
            paraphrases=tuple(islice(reworded, sum(len(row.paraphrases) for row in several))),
        )
        for (number, name), several in zip(labels, rows, strict=True)
    ]


def ask_questions(folded: FoldedModel, questions: Questions) -> SessionRecall:
    """Score which answers of a session the model recites word for word, without generating any."""
    verbatim, paraphrases = (
        score(folded.model, examples) if examples else None
        for examples in (questions.verbatim, questions.paraphrases)
    )
    return SessionRecall(
        number=questions.number, name=questions.name, verbatim=verbatim, paraphrases=paraphrases
    )


def grade_answers(
    folded: FoldedModel,
    questions: Sequence[Questions],
    recall: Sequence[SessionRecall],
    key: AnswerKey,
    *,
    most: int,
) -> list[SessionRecall]:
    """Generate a model's answers to the questions of sessions, all in one go, and grade them.

    Args:
        folded: The model.
        questions: Of each session.
        recall: What :func:`ask_questions` found of the same sessions.
        key: Of all rows in force.
        most: How many questions of a session are answered of either kind; see
            :func:`sample_size`.

    Returns:
        The same recall with the graded answers.
    """
    groups: list[list[_Asked | None]] = []
    for each, known in zip(questions, recall, strict=True):
        groups.append(_ask(each.taught_wordings, each.verbatim, known.verbatim, most))
        groups.append(_ask(each.other_wordings, each.paraphrases, known.paraphrases, most))
    said = iter(_answers(folded, [one for group in groups for one in group if one]))
    scores = [_grade(group, said, key) if group else None for group in groups]
    return [
        replace(known, as_taught=as_taught, other_words=other_words)
        for known, as_taught, other_words in zip(recall, scores[::2], scores[1::2], strict=True)
    ]


def sample_size(sessions: int) -> int:
    """Return how many questions of either kind are answered, at most, of each of some sessions."""
    return min(SAMPLED, max(SAMPLED_LEAST, SAMPLED_ALL // max(sessions, 1)))


def sample(wordings: Sequence[str], count: int) -> set[int]:
    """Return the indices of the wordings that are asked.

    Each has its place in one order, by its hash, whatever others there are: a smaller sample is a
    part of a larger one, so two of the same questions can be compared question by question.
    """
    hashes = [hashlib.sha256(wording.encode()).digest() for wording in wordings]
    return set(sorted(range(len(wordings)), key=hashes.__getitem__)[:count])


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question that is answered.

    Attributes:
        row: What was taught.
        wording: The question as it is asked.
        example: The same in tokens, with the taught answer.
        miss: Where the model's answer leaves that one; None where it does not.
    """

    row: Row
    wording: str
    example: Example
    miss: Miss | None


def _ask(
    wordings: Sequence[tuple[Row, str]],
    examples: Sequence[Example],
    recall: Recall | None,
    count: int,
) -> list[_Asked | None]:
    """Return each question that belongs to the sample, None in the place of another."""
    asked = sample([wording for _, wording in wordings], count)
    misses = recall.misses if recall else ()
    everything = zip(wordings, examples, misses, strict=True)
    return [
        _Asked(row=row, wording=wording, example=example, miss=miss) if i in asked else None
        for i, ((row, wording), example, miss) in enumerate(everything)
    ]


def _answers(folded: FoldedModel, asked: Sequence[_Asked]) -> list[str]:
    """Return the greedy answers; those without a miss are the taught ones."""
    missed = [(one.example, one.miss) for one in asked if one.miss is not None]
    generated = iter(complete_answers(folded, missed))
    return [str(one.row.answer) if one.miss is None else next(generated) for one in asked]


def complete_answers(folded: FoldedModel, missed: Sequence[tuple[Example, Miss]]) -> list[str]:
    """Generate greedy answers from where each leaves the taught one.

    Until there the greedy answer is the taught one, and the token there is known: both came from
    the forward pass of :func:`mlx_tune.continual.recall.score`. An answer is at most
    ``MARGIN_TOKENS`` longer than its own taught one.
    """
    ends, context = folded.tokenizer.end_ids, context_tokens(folded.model)
    answers = [[*example.tokens[: miss.at], miss.token] for example, miss in missed]
    longest = [len(example.tokens) + MARGIN_TOKENS for example, _ in missed]
    left = [
        min(most, context or most) - len(tokens)
        for most, tokens in zip(longest, answers, strict=True)
    ]
    unfinished = [i for i, tokens in enumerate(answers) if tokens[-1] not in ends and left[i] > 0]
    further = batch_generate(
        folded.model,
        folded.tokenizer,
        [answers[i] for i in unfinished],
        max_tokens=[left[i] for i in unfinished],
    )
    for i, tokens in zip(unfinished, further, strict=True):
        answers[i] += tokens
    return [
        folded.tokenizer.decode([t for t in tokens[example.last_answer :] if t not in ends])
        for tokens, (example, _) in zip(answers, missed, strict=True)
    ]


def _grade(group: Sequence[_Asked | None], said: Iterator[str], key: AnswerKey) -> AnswerScore:
    """Grade the next answers, one to each question that was asked."""
    answers: list[GradedAnswer | None] = []
    wrong = []
    for one in group:
        if one is None:
            answers.append(None)
            continue
        answer = next(said)
        graded = key.grade(one.row, one.wording, answer)
        answers.append(graded)
        if graded.grade != "right":
            wrong.append(WrongAnswer(question=one.wording, said=answer, graded=graded))
    return AnswerScore(
        grades=tuple(answer.grade if answer else None for answer in answers),
        facts_found=sum(answer.found for answer in answers if answer),
        facts_asked=sum(answer.asked for answer in answers if answer),
        wrong=tuple(wrong),
    )


def _recall_json(recall: Recall | None) -> dict[str, Any] | None:
    if recall is None:
        return None
    return {
        "right": recall.right,
        "asked": recall.asked,
        "outcomes": [int(right) for right in recall.verbatim],
        "token_accuracy": recall.token_accuracy,
        "loss": recall.loss,
        **({"losses": [round(nats, 4) for nats in recall.losses]} if recall.losses else {}),
    }


def _read_recall(record: Mapping[str, Any] | None) -> Recall | None:
    if record is None:
        return None
    return Recall(
        verbatim=tuple(map(bool, record["outcomes"])),
        token_accuracy=record["token_accuracy"],
        loss=record["loss"],
        losses=tuple(record.get("losses", ())),
    )
