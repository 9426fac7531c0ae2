"""`mlx-tune verify`: is every byte what was committed?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.store.verify import Findings


def verify(
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash the base model too; that may be gigabytes.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Check every byte of every session; nothing is changed.

    HEAD, its log, tags, marks and checkpoints of unfinished runs are checked too.
    """
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.workflows.store_commands import verify as carry_out

    found = carry_out(store, deep=deep, say=say)
    if json:
        print_json(_to_json(found))
    else:
        _print(found)
    if found.error is not None:
        raise type(found.error)("\n".join(found.problems))


def _print(found: "Findings") -> None:
    from mlx_tune.cli.console import counted, size

    whole = counted(found.sessions, "session")
    read = f"{counted(found.files, 'file')}, {size(found.size_bytes)}"
    print(f"{'✓ ' if found.error is None else ''}{whole} whole: {read}")
    for note in found.notes:
        print(f"! {note}")


def _to_json(found: "Findings") -> dict[str, Any]:
    return {
        "sound": found.error is None,
        "sessions": found.sessions,
        "files": found.files,
        "size_bytes": found.size_bytes,
        "problems": found.problems,
        "notes": found.notes,
    }
