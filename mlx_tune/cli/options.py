"""Options that several commands share, and one flag a setting for those that train."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_tune.settings import FIELDS, kind


def _home(path: Path | None) -> Path | None:
    """Read a leading ~ as a shell does, which leaves it alone in ``--store=~/mine``."""
    return None if path is None else path.expanduser()


def _homes(paths: list[Path]) -> list[Path]:
    return [path.expanduser() for path in paths]


StoreOption = Annotated[
    Path, typer.Option("--store", help="Folder of sessions.", show_default=True, callback=_home)
]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="Base model; default: the store's own.")
]
SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session", help="A session by tag, number, name or id, or `base`; default: HEAD."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings.", callback=_home)
]
OutOption = Annotated[
    Path, typer.Option("--out", help="A folder that does not exist yet.", callback=_home)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...", help="JSON or JSONL files, or folders of them.", callback=_homes
    ),
]

STORE = Path("adapters")


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag a setting; they reach it as one mapping called ``flags``."""
    own = inspect.signature(command, eval_str=True)
    parameters = [p for p in own.parameters.values() if p.name != "flags"]
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                kind(name) | None,
                typer.Option(help=field.metadata["help"], show_default=False),
            ],
        )
        for name, field in FIELDS.items()
    ]

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        flags = {name: values.pop(name) for name in FIELDS}
        return command(*args, flags=flags, **values)

    wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper
