"""`mlx-tune show`: one session."""

from typing import Annotated, Any

import typer

from mlx_tune.cli.options import STORE, JsonOption, StoreOption
from mlx_tune.settings import recorded_settings


def show(
    session: Annotated[
        str | None, typer.Argument(help="A session by tag, number, name or id; default: HEAD.")
    ] = None,
    *,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> None:
    """Show a session: its data, settings, metrics and recall."""
    from mlx_tune.cli.console import print_json, say
    from mlx_tune.errors import UsageError
    from mlx_tune.store.store import SessionStore

    kept = SessionStore.open(store)
    chosen = kept.head() if session is None else kept.find(session)
    for note in kept.notes:
        say(note)
    if chosen is None:
        raise UsageError("the base model has no session to show; `mlx-tune base show` describes it")
    if json:
        print_json({"id": chosen.id, "path": str(chosen.path), **chosen.record})
        return
    for label, text in _lines(chosen.record):
        print(f"{label:<11}{text}")
    print(f"{'files':<11}{chosen.path}")
    print(f"{'id':<11}{chosen.id}")


def _lines(record: Any) -> list[tuple[str, str]]:
    from mlx_tune.cli.console import duration, percent, size
    from mlx_tune.cli.fidelity_view import fidelity_lines
    from mlx_tune.cli.plan_view import value

    data, training, base = record["data"], record["training"], record["base"]
    lines = [
        ("session", f"{record['number']} {record['name']}, {record['created']}"),
        ("base", f"{base['name']} · {base['fingerprint'][:12]}"),
        ("parent", (record["parent"] or "the base")[:12]),
        (
            "data",
            f"{', '.join(data['sources'])} · {data['rows']} rows, {data['rehearsed']} rehearsed",
        ),
        (
            "training",
            f"{training['steps']} steps in {duration(training['seconds'])}, last loss "
            f"{training['last_loss']:.4f}, peak {size(training['peak_memory_bytes'])}",
        ),
    ]
    if fidelity := record.get("fidelity"):
        lines += fidelity_lines(fidelity)
    for entry in record["recall"]:
        if known := entry["verbatim"]:
            text = f"{entry['name']}: {percent(known['right'], known['asked'])} word for word"
            if reworded := entry["paraphrases"]:
                text += f", {percent(reworded['right'], reworded['asked'])} reworded"
            lines.append(("recall", text))
    for name, chosen in recorded_settings(record["sizing"]).items():
        shown = f"{name.replace('_', ' ')} {value(chosen['value'])}"
        lines.append(("setting", f"{shown} — {chosen['reason']} ({chosen['source']})"))
    return lines
