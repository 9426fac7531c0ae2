"""One cell of a public benchmark: trains one session as the command does, and lets it answer.

`benchmarks.reversal` and `benchmarks.squad` start it in a process of its own:
`python -m benchmarks.asked_cell TASK`, the task as JSON; its last line is the result. The answers
are kept as they are: the reports score them, so that a score may be mended without new training.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
from benchmarks.retention_cell import Follows, Task, of_session, taught_chain
from mlx_tune.data import read
from mlx_tune.models import bases, runtime
from mlx_tune.workflows.ask import ask
from mlx_tune.workflows.workspace import FoldedModel, load_folded


@dataclass(frozen=True, kw_only=True)
class AskingTask(Task):
    """What a cell is to do.

    Attributes:
        asked: By name, files of questions with their expected answers, rows as of a data file.
        max_tokens: The longest answer.
    """

    asked: dict[str, str]
    max_tokens: int


def carry_out(task: AskingTask) -> dict[str, Any]:
    """Train the cell's session, unless an earlier attempt did, and ask it; no session: the base.

    Raises:
        MlxTuneError: As for `workflows.train` and `workflows.ask`.
    """
    chain = taught_chain(task)
    began = time.monotonic()
    folded = load_folded(bases.locate(task.base), chain)
    return {
        "answers": {name: _answers(task, folded, Path(path)) for name, path in task.asked.items()},
        "versions": runtime.versions(),
        "answer_seconds": time.monotonic() - began,
        **(of_session(chain[-1]) if chain else {}),
    }


def _answers(task: AskingTask, folded: FoldedModel, path: Path) -> list[dict[str, Any]]:
    """Return a file's questions, their expected answers, and what the model said greedily.

    A question is a chat message with nothing before it, tokenised as a row is to be trained on.
    """
    say = Follows(task.label).say
    records = ask(folded, read.read([path]), max_tokens=task.max_tokens, say=say)
    return [
        {"question": one.question, "answer": one.expected, "said": one.answer} for one in records
    ]


if __name__ == "__main__":
    print(json.dumps(carry_out(AskingTask(**json.loads(sys.argv[1])))))
