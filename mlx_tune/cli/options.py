"""Options that several commands share, and one flag a setting for those that train."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.settings import DEFAULT_STORE, FIELDS, REMOVED, RENAMED, kind

STORE = DEFAULT_STORE


def home(path: Path | None) -> Path | None:
    """Read a leading ~ as a shell does, which leaves it alone in ``--store=~/mine``."""
    return None if path is None else path.expanduser()


def homes(paths: list[Path] | None) -> list[Path] | None:
    """Read a leading ~ in each of several paths."""
    return paths and [path.expanduser() for path in paths]


def complete_session(ctx: typer.Context) -> list[str]:
    """Return what a shell may complete a session to: tags, names, ``HEAD`` and ``base``.

    A store that cannot be read has nothing to offer: an error would be printed over the line that
    a person is typing.
    """
    from mlx_tune.store.snapshot import read_snapshot

    try:
        store = read_snapshot(ctx.params.get("store") or STORE)
        names = [session.name for session in store.sessions.values()]
        return [*dict.fromkeys([*store.tags, *names, "HEAD", "base"])]
    except (MlxTuneError, OSError):
        return []


def session_option(text: str) -> Any:
    """Return an option that names a session, which a shell can complete."""
    return typer.Option(help=text, autocompletion=complete_session)


def session_argument(text: str, *, show_default: bool = True) -> Any:
    """Return an argument that names a session, which a shell can complete."""
    return typer.Argument(help=text, show_default=show_default, autocompletion=complete_session)


StoreOption = Annotated[Path, typer.Option(help="Folder of sessions.", callback=home)]
BaseOption = Annotated[str | None, typer.Option(help="Base model; default: the store's own.")]
SessionOption = Annotated[
    str | None, session_option("A session by tag, number, name or id, or `base`; default: HEAD.")
]
SessionArgument = Annotated[
    str, session_argument("A session by tag, number, name or id.", show_default=False)
]
HeadArgument = Annotated[
    str | None, session_argument("A session by tag, number, name or id; default: HEAD.")
]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings.", callback=home)]
OutOption = Annotated[Path, typer.Option(help="A folder that does not exist yet.", callback=home)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...",
        help="JSON, JSONL, CSV or Parquet files, or folders of them.",
        callback=homes,
    ),
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag a setting; it gets them as one mapping called ``flags``.

    typer reads a command's signature, and Python gives that of a wrapper as the signature of what
    it wraps. Here that is a dataclass: its fields are the command's own parameters and then the
    settings. (``__signature__`` would do the same, but what reads it is left to each Python.)
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    own = [parameter for name, parameter in parameters.items() if name != "flags"]
    fields: list[Any] = [
        (p.name, p.annotation, *([] if p.default is p.empty else [p.default])) for p in own
    ]
    fields += [(name, option, None) for name, option in _flags().items()]
    signature = dataclasses.make_dataclass(command.__name__, fields, kw_only=True)

    @functools.wraps(signature, updated=())
    def wrapper(**values: Any) -> None:
        command(
            flags={name: values[name] for name in FIELDS},
            **{parameter.name: values[parameter.name] for parameter in own},
        )

    wrapper.__doc__ = command.__doc__
    return wrapper


def _flags() -> dict[str, Any]:
    """Return the type and option of each setting, and hidden ones for names of earlier versions."""
    options: dict[str, Any] = {}
    for name, field in FIELDS.items():
        completion = _complete_choice(field.metadata["choices"])
        option = typer.Option(
            help=field.metadata["help"], show_default=False, autocompletion=completion
        )
        options[name] = Annotated[kind(name) | None, option]
    for name, new in RENAMED.items():
        message = f"{_flag(name)} is now {_flag(new)}"
        options[name] = _refused(message, takes_value=kind(new) is not bool)
    for name, reason in REMOVED.items():
        options[name] = _refused(f"{_flag(name)}: {reason}", takes_value=False)
    return options


def _complete_choice(choices: tuple[str, ...]) -> Callable[[], list[str]] | None:
    """Return what completes a setting's choices in a shell; None for a setting without any."""
    return (lambda: [word.replace("_", "-") for word in choices]) if choices else None


def _refused(message: str, *, takes_value: bool) -> Any:
    """Return an option that no help lists and that ends the command with a message."""
    form = str if takes_value else bool
    return Annotated[form | None, removed_option(message)]


def removed_option(message: str) -> Any:
    """Return the declaration of an option of earlier versions, which says what came of it."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise UsageError(message)

    return typer.Option(hidden=True, callback=refuse)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
