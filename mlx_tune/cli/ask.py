"""`mlx-tune ask`: a list of questions, answered."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.options import STORE, BaseOption, JsonOption, SessionOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.data.rows import Row
    from mlx_tune.workflows.ask import AnswerRecord


def ask(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Questions, one a line; or a data file; - for standard input."
        ),
    ],
    *,
    session: SessionOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
    ] = 512,
    json: JsonOption = False,
) -> None:
    """Ask the model a list of questions and print its answers.

    Blank lines and lines that begin with # are skipped. The answers of a data file (.json, .jsonl)
    are compared with the model's: ✓ is word for word the same.
    """
    from mlx_tune.cli.console import percent, print_json, say, warn_of_slow_blas
    from mlx_tune.workflows.ask import ask as carry_out
    from mlx_tune.workflows.ask import load_model

    rows = _read(file)
    warn_of_slow_blas()
    folded = load_model(store, session=session, base=base, say=say)
    answers = carry_out(folded, rows, max_tokens=max_tokens, say=say)
    if json:
        who = folded.chain[-1].folder_name if folded.chain else "base"
        print_json({"session": who, "answers": [vars(asked) for asked in answers]})
        return
    marks = [_printed(asked) for asked in answers]
    if compared := [mark for mark in marks if mark is not None]:
        print(f"{percent(sum(compared), len(compared))} word for word")


def _read(file: Path) -> "list[Row]":
    from mlx_tune.data import read

    if str(file) != "-":
        return read.read_questions(file.expanduser())
    data = sys.stdin.buffer.read(read.MAX_BYTES + 1)
    return read.parse_questions(data, "standard input")


def _printed(asked: "AnswerRecord") -> bool | None:
    """Print a question and its answer, and return whether it is the expected one.

    The answer is printed as the model says it, with no wrapping of ours, so that URLs stay whole.
    """
    from mlx_tune.text import one_line

    mark = {True: "✓ ", False: "✗ ", None: ""}[asked.verbatim]
    print(f"› {one_line(asked.question)}")
    print(f"{mark}{asked.answer}{' …cut' if asked.is_cut else ''}")
    if asked.verbatim is False:
        print(f"  expected: {asked.expected}")
    print(flush=True)
    return asked.verbatim
