"""The untrained base with the nearest rows in its prompt: what `benchmarks.wordings` is held to.

`benchmarks.wordings` starts it in a process of its own: `python -m benchmarks.open_book TASK`, the
task as JSON; its last line is the result, the recall of every subject as a session's record has it.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
from benchmarks.retention_cell import Task
from mlx_tune.continual.answers import AnswerKey, AnswerScore, words
from mlx_tune.data import read
from mlx_tune.data.rows import Row
from mlx_tune.inference import batch_generate
from mlx_tune.models import bases
from mlx_tune.workflows.workspace import FoldedModel, load_folded

NEAREST = 3
"""How many rows are in a prompt."""
_MAX_TOKENS = 64


class Index:
    """Rows, found by the words of their questions and answers, a rare word counting more.

    Source:
        Robertson and Zaragoza 2009 (BM25), without its saturation: rows are a sentence or two.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._words = [{*words(f"{row.question} {row.answer}")} for row in rows]
        holders = Counter(word for own in self._words for word in own)
        self._weights = {word: math.log(len(rows) / count) for word, count in holders.items()}

    def nearest(self, question: str, count: int = NEAREST) -> list[Row]:
        """Return the rows that share the most with a question, the nearest first."""
        asked = {*words(question)}
        scores = [sum(self._weights[word] for word in own & asked) for own in self._words]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return [self._rows[i] for i in order[:count]]


def prompt(question: str, rows: Sequence[Row]) -> str:
    """Return a question with rows to answer it by."""
    known = "\n".join(f"- {row.question} {row.answer}" for row in rows)
    return f"{known}\n\nAnswer in one sentence, by what stands above: {question}"


def carry_out(task: Task) -> dict[str, Any]:
    """Answer the questions of every subject, as taught and in other words."""
    subjects = [read.read([Path(path)]) for path in task.subjects]
    every = [row for rows in subjects for row in rows]
    folded, index, key = load_folded(bases.locate(task.base), []), Index(every), AnswerKey(every)
    recall = []
    for number, rows in enumerate(subjects, 1):
        taught = [(row, str(row.question)) for row in rows]
        other = [(row, text) for row in rows for text in row.paraphrases]
        scores = [_score(folded, index, key, asked).to_json() for asked in (taught, other)]
        named = {"number": number, "name": Path(task.subjects[number - 1]).stem, "verbatim": None}
        recall.append({**named, "as_taught": scores[0], "other_words": scores[1]})
    return {"recall": recall}


def _score(
    folded: FoldedModel, index: Index, key: AnswerKey, asked: Sequence[tuple[Row, str]]
) -> AnswerScore:
    """Generate the answers to some wordings, and grade them."""
    chats = [[{"role": "user", "content": prompt(q, index.nearest(q))}] for _, q in asked]
    texts = folded.tokenizer.render(chats, add_generation_prompt=True)
    prompts = [folded.tokenizer.encode(text) for text in texts]
    ends = folded.tokenizer.end_ids
    answers = batch_generate(folded.model, folded.tokenizer, prompts, max_tokens=_MAX_TOKENS)
    graded = [
        key.grade(row, q, folded.tokenizer.decode([t for t in tokens if t not in ends]))
        for (row, q), tokens in zip(asked, answers, strict=True)
    ]
    return AnswerScore(
        grades=tuple(one.grade for one in graded),
        facts_found=sum(one.found for one in graded),
        facts_asked=sum(one.asked for one in graded),
    )


if __name__ == "__main__":
    print(json.dumps(carry_out(Task(**json.loads(sys.argv[1])))))
