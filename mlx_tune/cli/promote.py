"""`mlx-tune promote`: take a session that the gate held back."""

from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.workflows.store_commands import Promotion


def promote(
    session: Annotated[
        str, typer.Argument(help="A session by tag, number, name or id.", show_default=False)
    ],
    *,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Put a session in use that the gate held back or refused; nothing is deleted."""
    from mlx_tune.cli.console import console, print_json, say, store_flag
    from mlx_tune.cli.gate_view import show_reasons
    from mlx_tune.workflows.store_commands import promote as carry_out

    done = carry_out(store, session)
    for note in done.notes:
        say(note)
    if json:
        print_json(_json(done))
        return
    before = done.before.folder_name if done.before else "base"
    kept = ", which is kept" if done.before else ""
    print(f"✓ HEAD is {done.session.folder_name} (was {before}{kept})")
    if done.is_overruled:
        printer = console()
        says = ":" if done.reasons else ""
        printer.print(f"this overrules the gate, which said {done.verdict}{says}", markup=False)
        show_reasons(done.reasons, printer)
    if done.left:
        names = ", ".join(one.folder_name for one in done.left)
        print(f"left behind, still kept: {names}")
    back = f"mlx-tune rollback --to {done.before.id[:8] if done.before else 'base'}"
    print(f"go back with: {back} {store_flag(store)}".rstrip())


def _json(done: "Promotion") -> dict[str, object]:
    return {
        "before": done.before.folder_name if done.before else "base",
        "after": done.session.folder_name,
        "verdict": done.verdict,
        "reasons": list(done.reasons),
        "left": [one.folder_name for one in done.left],
    }
