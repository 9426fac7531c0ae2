"""The commands that exchange adapters with other programs: the group export, and import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune import Store
from mlx_tune.cli.console import Waiting, print_json, say, warn_of_slow_blas
from mlx_tune.cli.models import AnywayOption, QuantiseOption, confirmed, show_fused
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
from mlx_tune.errors import UsageError

if TYPE_CHECKING:
    from mlx_tune.workflows.export_adapter import ExportedAdapter
    from mlx_tune.workflows.export_model import ExportedModel

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
    _show_adapters(written, json=json)
    if separate and len(written) > 1 and not json:
        print("they belong together: make all of them active, or leave --separate out")


def _show_adapters(written: Sequence[ExportedAdapter], *, json: bool) -> None:
    if json:
        print_json([one.to_json() for one in written])
        return
    for one in written:
        names = ", ".join(each.folder_name for each in one.sessions)
        print(f"✓ {names} written to {one.path} · rank {one.rank} · base {one.base}")


TypeOption = Annotated[
    str | None,
    typer.Option(
        "--type", help="f32, f16, bf16 or q8_0; default: bf16 where the base is, else f16."
    ),
]


@export_app.command()
def gguf(
    *,
    out: Annotated[Path, typer.Option(help="A file that does not exist yet.", callback=home)],
    session: SessionOption = None,
    kind: TypeOption = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="The chain alone, as an adapter beside the base's file.")
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write base and sessions as one GGUF file for llama.cpp and what builds on it."""
    if lora and kind is not None:
        raise UsageError("--type is of the model's weights; an adapter is always f32")
    with Waiting() as waiting:
        kept = Store(store, base=base, say=waiting.say)
        if lora:
            _show_adapters([kept.export_lora_gguf(out, session=session)], json=json)
            return
        written = kept.export_gguf(out, session=session, kind=kind)
    _show_model(written, json=json, next_command=f"llama-cli -m {out} -cnv")


@export_app.command()
def ollama(
    *,
    out: OutOption,
    session: SessionOption = None,
    kind: TypeOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write a GGUF file and a Modelfile with template, stops and parameters for Ollama."""
    with Waiting() as waiting:
        kept = Store(store, base=base, say=waiting.say)
        written = kept.export_ollama(out, session=session, kind=kind)
    create = f"ollama create {out.name} -f {out / 'Modelfile'}"
    _show_model(written, json=json, next_command=create)


@export_app.command()
def lmstudio(
    name: Annotated[str, typer.Argument(help="What LM Studio shows, as in me/notes.")],
    *,
    models: Annotated[
        Path,
        typer.Option(help="LM Studio's own folder of models.", callback=home),
    ] = Path("~/.lmstudio/models"),
    session: SessionOption = None,
    quantise: QuantiseOption = None,
    anyway: AnywayOption = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write base and sessions as one MLX model where LM Studio looks for it."""
    if quantise is not None:
        warn_of_slow_blas()
    out, written = Store(store, base=base, say=say).export_lmstudio(
        name, models=models, session=session, quantise=quantise, anyway=anyway, confirm=confirmed
    )
    show_fused(written, out, json=json, use=f"load it in LM Studio: {name}")


def _show_model(written: ExportedModel, *, json: bool, next_command: str) -> None:
    from mlx_tune.cli.gate_view import fidelity_lines

    record = written.to_json()
    if json:
        print_json(record)
        return
    who = written.chain[-1].folder_name if written.chain else "the bare base"
    print(f"✓ {who} written to {written.path} · {written.kind}")
    for label, text in fidelity_lines(record["fidelity"]) if record["fidelity"] else []:
        print(f"{label:<11}{text}")
    print(f"use it with: {next_command}")


def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder that PEFT or mlx-lm wrote, or a LoRA of llama.cpp (.gguf).",
            callback=home,
            show_default=False,
        ),
    ],
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="What it was taught, to measure and rehearse it by; may be repeated.",
            callback=homes,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the session; default: the folder's or file's.")
    ] = None,
    onto: Annotated[
        str | None,
        session_option("A session to put it on top of; default: the bare base."),
    ] = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Take a LoRA adapter that was trained elsewhere in, as a session like any other."""
    kept = Store(store, base=base)
    follow(
        lambda view: kept.import_adapter(
            path, data=data or (), name=name, onto=onto, observer=view
        ),
        as_json=json,
    )
