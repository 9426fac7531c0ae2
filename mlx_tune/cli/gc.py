"""`mlx-tune gc`: clear away what was removed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.workflows.store_commands import Collection


def gc(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Move removed sessions to the trash; delete trash of 30 days.

    What killed writes left, and checkpoints of runs that became sessions, are deleted too.
    """
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.workflows.store_commands import collect

    collection = collect(store, dry_run=dry_run)
    done = collection.done
    for note in collection.notes:
        say(note)
    if json:
        print_json(
            {
                "dry_run": dry_run,
                "moved": done.moved,
                "deleted": done.deleted,
                "freed_bytes": done.freed_bytes,
                "way_back": collection.way_back,
            }
        )
    elif dry_run:
        _foretell(collection)
    else:
        _report(collection)
    if not json and not done.moved and not done.deleted:
        print(f"{store}: nothing to collect")


def _report(collection: "Collection") -> None:
    from mlx_tune.cli.console import counted, size
    from mlx_tune.store.gc import KEPT_DAYS

    done = collection.done
    if done.moved:
        moved = counted(len(done.moved), "session")
        print(f"✓ {moved} moved to the trash, kept there for {KEPT_DAYS} days; to take one back:")
        _list(collection.way_back)
    if done.deleted:
        print(f"✓ {size(done.freed_bytes)} freed by deleting")
        _list(done.deleted)


def _foretell(collection: "Collection") -> None:
    from mlx_tune.cli.console import counted, size

    done = collection.done
    if done.moved:
        print(f"{counted(len(done.moved), 'session')} would move to the trash:")
        _list(done.moved)
    if done.deleted:
        print(f"{size(done.freed_bytes)} would be freed by deleting")
        _list(done.deleted)


def _list(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}")
