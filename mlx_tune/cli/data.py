"""The group data: what can be done with a data file before it is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune import Store
from mlx_tune.cli.console import (
    Waiting,
    console,
    counted,
    print_json,
    print_labelled,
    print_wrapped,
    say,
    warn_of_slow_blas,
)
from mlx_tune.cli.options import (
    STORE,
    BaseOption,
    DataArgument,
    JsonOption,
    OutOption,
    StoreOption,
    home,
)
from mlx_tune.text import quoted

if TYPE_CHECKING:
    from mlx_tune.workflows.data_check import DataCheck
    from mlx_tune.workflows.reword import RewordedFile

_BAR = 30  # characters of the longest

data_app = typer.Typer(no_args_is_help=True, help="Prepare a data file before it is trained on.")


@data_app.command()
def check(
    data: DataArgument,
    *,
    row: Annotated[int, typer.Option(help="Which row to show as it is trained.")] = 1,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a training would make of data: counts, lengths, problems, and one row as trained.

    Rows are compared with each other and with what the store was taught: which stand twice,
    contradict each other, replace an earlier answer, or are left out. Nothing is written.
    """
    from mlx_tune.cli.plan_view import plan_json, remarks

    with Waiting() as waiting:
        found = Store(store, base=base, say=waiting.say).check_data(*data, row=row)
    if json:
        print_json({**found.to_json(), "plan": plan_json(found.plan)})
        return
    printer = console()
    print_labelled(printer, _counts(found), width=10)
    for line in remarks(found.plan):
        print_wrapped(printer, line)
    printer.print()
    print_labelled(printer, _as_trained(found, row), width=10)


def _counts(found: DataCheck) -> list[tuple[str, str]]:
    rows = counted(len(found.plan.new), "row")
    wordings = counted(found.wordings, "other wording")
    probes = counted(found.paraphrases, "paraphrase")
    lengths = (
        f"{min(found.lengths)} to {max(found.lengths)} a row, median {median(found.lengths):g}"
    )
    lines = [
        ("rows", f"{rows}, {wordings} to train on, {probes} to ask in"),
        ("tokens", lengths),
    ]
    most = max(count for _, _, count in found.histogram())
    for start, end, count in found.histogram():
        bar = "█" * math.ceil(_BAR * count / most)
        lines.append(("", f"{f'{start}–{end}':>11}  {bar} {count}"))
    return lines


def _as_trained(found: DataCheck, row: int) -> list[tuple[str, str]]:
    lines = [(f"row {row}", found.row.place)]
    for segment in found.segments:
        label = "taught" if segment.is_taught else "given"
        lines.append((label, segment.text.replace("\n", "↵")))
    return lines


@data_app.command()
def convert(
    data: DataArgument,
    *,
    out: Annotated[
        Path, typer.Option(help="A .json or .jsonl file that does not exist yet.", callback=home)
    ],
    json: JsonOption = False,
) -> None:
    """Write data of any shape that is read as JSON that you can edit, every row in its order."""
    from mlx_tune.workflows.data_files import convert_data

    made = convert_data(data, out)
    if json:
        print_json(made.to_json())
        return
    print(f"✓ {made.out}: {counted(made.rows, 'row')}")
    _print_passed_over(made.passed_over)


@data_app.command()
def split(
    data: DataArgument,
    *,
    out: OutOption,
    valid: Annotated[float, typer.Option(help="Share of the rows to hold out.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the rows to leave alone.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another choice.")] = 0,
    json: JsonOption = False,
) -> None:
    """Part data into a folder of train, valid and test files, which a training tells apart.

    Rows that ask alike stay together: else the answer to a question that is held out were taught.
    """
    from mlx_tune.workflows.data_files import split_data

    made = split_data(data, out, valid=valid, test=test, seed=seed)
    if json:
        print_json(made.to_json())
        return
    parts = ", ".join(f"{name} {counted(count, 'row')}" for name, count in made.rows.items())
    print(f"✓ {made.out}: {parts}")
    _print_passed_over(made.passed_over)


def _print_passed_over(fields: Mapping[str, int]) -> None:
    if fields:
        named = ", ".join(f"{quoted(name)} in {counted(n, 'row')}" for name, n in fields.items())
        print(f"left out, because they teach nothing: {named}")


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
