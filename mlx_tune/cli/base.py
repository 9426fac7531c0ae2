"""`mlx-tune base`: list, fetch, convert and describe base models."""

from typing import Annotated

import typer

from mlx_tune.cli.options import JsonOption, OutOption

app = typer.Typer(no_args_is_help=True, help="List, fetch, convert and describe base models.")

NameArgument = Annotated[
    str, typer.Argument(help="A short name, a Hugging Face id (owner/name), or a folder.")
]


@app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List the base models known by a short name."""
    from mlx_tune.cli.console import print_json
    from mlx_tune.models.bases import is_here
    from mlx_tune.models.catalogue import KNOWN

    if json:
        print_json(
            [
                {"name": k.name, "source": k.source, "about": k.about, "here": is_here(k.name)}
                for k in KNOWN.values()
            ]
        )
        return
    for known in KNOWN.values():
        print(f"{'✓' if is_here(known.name) else ' '} {known.name:<18} {known.about}")
    print(
        "\n✓ is on this machine. Any Hugging Face id or local folder that mlx-lm loads works too."
    )


@app.command()
def pull(name: NameArgument) -> None:
    """Fetch a base model, converted to MLX where needed, and check every byte of it.

    One that lies here damaged is fetched again.
    """
    from mlx_tune.cli.console import say
    from mlx_tune.models.bases import pull as carry_out

    info = carry_out(name, say=say)
    print(f"✓ {name} is ready · {info.fingerprint[:12]} · {info.folder}")


@app.command()
def convert(
    source: NameArgument,
    *,
    out: OutOption,
) -> None:
    """Write a model as MLX bf16 to a folder of your own."""
    from mlx_tune.cli.console import say
    from mlx_tune.models.bases import convert as carry_out

    carry_out(source, out, say=say)
    print(f"✓ written to {out}; use it with: --base {out}")


@app.command()
def show(name: NameArgument, *, json: JsonOption = False) -> None:
    """Describe a base model; fetches it when it is not here."""
    from mlx_tune.cli.console import print_json, say, size
    from mlx_tune.models.bases import locate

    info = locate(name, say=say)
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
    for label, text in described.items():
        print(
            f"{label.replace('_', ' ').replace(' bytes', ''):<14}{'none' if text is None else text}"
        )
