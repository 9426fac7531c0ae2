"""The group data: what can be done with a data file before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.console import counted, print_json, say, warn_of_slow_blas
from mlx_tune.cli.options import JsonOption, home

if TYPE_CHECKING:
    from mlx_tune.workflows.reword import RewordedFile

data_app = typer.Typer(no_args_is_help=True, help="Prepare a data file before it is trained on.")


@data_app.command()
def reword(
    file: Annotated[
        Path, typer.Argument(help="A JSON, JSONL, CSV or Parquet file.", callback=home)
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="The model that writes: a short name, a Hugging Face id or a folder; "
            "default: the default base. A small one writes little of use.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .json or .jsonl file that does not exist yet; default: FILE with .reworded in "
            "its name, .jsonl where it is a table.",
            callback=home,
        ),
    ] = None,
    wordings: Annotated[
        int, typer.Option(min=1, max=16, help="How many wordings each row is to have.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other wordings.")] = 0,
    json: JsonOption = False,
) -> None:
    """Let a model write other wordings of each question into a new file, for you to review.

    A wording is kept where it has every name, number, code and address of the question, is no other
    question of the file and no paraphrase, and is mapped back to its row by the model. Beside the
    new file, a review says what was thrown away and why. An interrupted run goes on where it
    stopped when the same command is given again.
    """
    from mlx_tune.workflows.reword import reword_file

    warn_of_slow_blas()
    made = reword_file(file, model=model, out=out, wanted=wordings, seed=seed, say=say)
    if json:
        print_json(made.to_json())
    else:
        print("\n".join(_lines(made)))


def _lines(made: RewordedFile) -> list[str]:
    rows = sum(bool(row.kept) for row in made.reworded)
    new = counted(made.kept, "new wording")
    lines = [f"✓ {made.out}: {new} for {rows} of {counted(made.rows, 'row')}", made.summary]
    if made.complete:
        lines.append(f"{counted(made.complete, 'row')} had {made.wanted} or more already")
    if made.without_question:
        lines.append(
            f"{counted(made.without_question, 'row')} without a question, left as they are"
        )
    short = sum(len(row.kept) < made.wanted for row in made.reworded)
    if 2 * short > len(made.reworded):
        lines.append(
            f"most rows got fewer than {made.wanted}: a larger model writes more, --with MODEL"
        )
    return [
        *lines,
        f"what was thrown away and why: {made.review}",
        "read the new wordings before you train on them: no rule sees every change of meaning",
    ]
