"""`mlx-tune fuse`: the folded model as a folder."""

import sys
from typing import Annotated

import typer

from mlx_tune.cli.options import (
    STORE,
    BaseOption,
    JsonOption,
    OutOption,
    SessionOption,
    StoreOption,
)


def fuse(
    *,
    out: OutOption,
    session: SessionOption = None,
    quantise: Annotated[
        str | None,
        typer.Option(
            "--quantise",
            metavar="BITS[:GROUP]",
            help="Quantise it, if it still knows what it was taught; default: no.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write it even if quantising made it forget.")
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write base and sessions as one model that mlx-lm loads, and say what its type kept."""
    from mlx_tune.cli.console import print_json, say, warn_of_slow_blas
    from mlx_tune.cli.fidelity_view import fidelity_lines
    from mlx_tune.models.load import Quantisation
    from mlx_tune.workflows.fuse import fuse as carry_out

    form = None if quantise is None else Quantisation.parse(quantise)
    if form is not None:
        warn_of_slow_blas()
    written = carry_out(
        store,
        out=out,
        session=session,
        base=base,
        say=say,
        quantise=form,
        anyway=anyway,
        ask=_confirmed,
    )
    record = written.to_json()
    if json:
        print_json({"out": str(out), **record})
        return
    print(
        f"✓ {written.session.folder_name if written.session else 'the bare base'} written to {out}"
    )
    for label, text in fidelity_lines(record["fidelity"]) if record["fidelity"] else []:
        print(f"{label:<11}{text}")
    if written.requantised is not None:
        print(f"{'knows':<11}{written.requantised.words}")
    print(f"try it with: mlx_lm.generate --model {out} --prompt '…'")


def _confirmed(question: str) -> bool:
    """Ask on a terminal; nobody elsewhere says yes."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(question, default=False, err=True)
