"""The commands about whole models: the group base, and fuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune import Store
from mlx_tune.cli.console import Waiting, can_ask, print_json, say, size, warn_of_slow_blas
from mlx_tune.cli.options import (
    STORE,
    BaseOption,
    JsonOption,
    OutOption,
    SessionOption,
    StoreOption,
)

if TYPE_CHECKING:
    from mlx_tune.workflows.fuse import Fused

base_app = typer.Typer(no_args_is_help=True, help="List, fetch, convert and describe base models.")

NameArgument = Annotated[
    str, typer.Argument(help="A short name, a Hugging Face id, a folder or a GGUF file.")
]


@base_app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List the base models known by a short name."""
    from mlx_tune.models.bases import is_here
    from mlx_tune.models.catalogue import KNOWN

    known = KNOWN.values()
    if json:
        named = [{name: getattr(k, name) for name in ("name", "source", "about")} for k in known]
        print_json([{**k, "here": is_here(k["name"])} for k in named])
        return
    for k in known:
        print(f"{'✓' if is_here(k.name) else ' '} {k.name:<18} {k.about}")
    print(
        "\n✓ is on this machine. Any Hugging Face id or local folder that mlx-lm loads works too, "
        "and GGUF files."
    )


@base_app.command()
def pull(name: NameArgument) -> None:
    """Fetch a base model, converted to MLX where needed, and check every byte of it.

    A damaged copy is fetched again.
    """
    from mlx_tune.models import bases

    with Waiting() as waiting:
        info = bases.pull(name, say=waiting.say)
    print(f"✓ {name} is ready · {info.fingerprint[:12]} · {info.folder}")


@base_app.command()
def convert(source: NameArgument, *, out: OutOption) -> None:
    """Write a model as MLX bf16 to a folder of your own; a GGUF file keeps its 16 or 32 bits."""
    from mlx_tune.models import bases

    with Waiting() as waiting:
        bases.convert(source, out, say=waiting.say)
    print(f"✓ written to {out}; use it with: --base {out}")


@base_app.command()
def show(name: NameArgument, *, json: JsonOption = False) -> None:
    """Describe a base model; fetches it when it is not here."""
    from mlx_tune.models.bases import locate

    with Waiting() as waiting:
        info = locate(name, say=waiting.say)
    described = {
        "name": info.name,
        "source": info.source,
        "fingerprint": info.fingerprint,
        "folder": str(info.folder),
        "architecture": info.config.get("model_type"),
        "layers": info.config.get("num_hidden_layers"),
        "hidden_size": info.hidden_size,
        "vocabulary": info.config.get("vocab_size"),
        "quantisation": info.config.get("quantization"),
        "weights_bytes": info.weights_bytes,
        "chat_template": info.template is not None,
    }
    if json:
        print_json(described)
        return
    described["weights_bytes"] = size(info.weights_bytes)
    for name, text in described.items():
        label = name.removesuffix("_bytes").replace("_", " ")
        print(f"{label:<14}{'none' if text is None else text}")


QuantiseOption = Annotated[
    str | None,
    typer.Option(
        metavar="BITS[:GROUP]",
        help="Quantise it, if it still knows what it was taught; default: no.",
    ),
]
AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Write it even if quantising made it forget.")
]


def fuse(
    *,
    out: OutOption,
    session: SessionOption = None,
    quantise: QuantiseOption = None,
    anyway: AnywayOption = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Write base and sessions as one model that mlx-lm loads, and say what its type kept."""
    if quantise is not None:
        warn_of_slow_blas()
    written = Store(store, base=base, say=say).fuse(
        out, session=session, quantise=quantise, anyway=anyway, confirm=confirmed
    )
    use = f"try it with: mlx_lm.generate --model {out} --prompt '…'"
    show_fused(written, out, json=json, use=use)


def show_fused(written: Fused, out: Path, *, json: bool, use: str) -> None:
    """Show what was written, what its type kept, and how to use it."""
    from mlx_tune.cli.gate_view import fidelity_lines

    record = written.to_json()
    if json:
        print_json({"out": str(out), **record})
        return
    who = written.session.folder_name if written.session else "the bare base"
    print(f"✓ {who} written to {out}")
    for label, text in fidelity_lines(record["fidelity"]) if record["fidelity"] else []:
        print(f"{label:<11}{text}")
    if written.requantised is not None:
        print(f"{'knows':<11}{written.requantised.words}")
    print(use)


def confirmed(question: str) -> bool:
    """Ask on a terminal; without one the answer is no."""
    return can_ask() and typer.confirm(question, default=False, err=True)
