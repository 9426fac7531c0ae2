"""The commands that exchange adapters with other programs: the group export, and import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_tune import Store
from mlx_tune.cli.console import Waiting, print_json
from mlx_tune.cli.options import (
    STORE,
    BaseOption,
    JsonOption,
    OutOption,
    SessionOption,
    StoreOption,
    home,
    homes,
    session_option,
)
from mlx_tune.cli.training import follow

export_app = typer.Typer(
    no_args_is_help=True, help="Write what was learned in the formats of other programs."
)


@export_app.command()
def peft(
    *,
    out: OutOption,
    session: SessionOption = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="A folder for each session of the chain.")
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write the chain as one LoRA adapter for PEFT, transformers or vLLM, on the same base."""
    with Waiting() as waiting:
        kept = Store(store, base=base, say=waiting.say)
        written = kept.export_peft(out, session=session, separate=separate)
    if json:
        print_json([one.to_json() for one in written])
        return
    for one in written:
        names = ", ".join(each.folder_name for each in one.sessions)
        print(f"✓ {names} written to {one.folder} · rank {one.rank} · base {one.base}")
    if separate and len(written) > 1:
        print("they belong together: make all of them active, or leave --separate out")


def import_(
    folder: Annotated[
        Path, typer.Argument(help="A folder that PEFT wrote.", callback=home, show_default=False)
    ],
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="What it was taught, to measure and rehearse it by; may be repeated.",
            callback=homes,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the session; default: the folder's.")] = None,
    onto: Annotated[
        str | None,
        session_option("A session to put it on top of; default: the bare base."),
    ] = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Take a LoRA adapter that PEFT trained into the store, as a session like any other."""
    kept = Store(store, base=base)
    follow(
        lambda view: kept.import_peft(folder, data=data or (), name=name, onto=onto, observer=view),
        as_json=json,
    )
