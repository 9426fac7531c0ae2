"""Writes the folded model to a folder that mlx-lm, or anything that reads MLX models, can load."""

import json
from pathlib import Path

from mlx_tune.continual.fold import fold, is_quantised
from mlx_tune.errors import UsageError
from mlx_tune.lineage.atomic import new_folder
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import Say
from mlx_tune.models.load import load
from mlx_tune.models.save import dequantise, save
from mlx_tune.workflows.folded import (
    choose_base,
    find_session,
    locate_base,
    need_sessions,
    read_adapters,
)


def fuse(
    store_root: Path, *, out: Path, session: str | None, base: str | None, say: Say
) -> Session | None:
    """Fold a session's chain into its base and write the model.

    The weights are those that `chat` and `serve` use, in the base's stored type; a quantised base
    is written in 16 bits, since re-quantising would lose most of what was learned.

    Args:
        store_root: The store's folder.
        out: A folder that does not exist yet.
        session: A session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        say: Told, in a line, what takes long.

    Returns:
        The session that was written, None for the bare base.

    Raises:
        UsageError: The folder exists.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: exists, and nothing is overwritten; name a new folder")
    store = Store.open(store_root)
    if session is None:  # a mistyped store must not pass for a trained one
        need_sessions(store)
    info = locate_base(store, choose_base(store, base), say)
    chosen = find_session(store, session)
    for note in store.notes:
        say(note)
    loaded = load(info)
    config = dict(info.config)
    if is_quantised(loaded.model):
        say("the base is quantised: writing 16-bit weights")
        dequantise(loaded.model, config)
    say("folding and writing…")
    fold(loaded.model, read_adapters(store.chain(chosen)))
    origin = {"base": info.source, "session": chosen.folder_name if chosen else "base"}
    with new_folder(out) as scratch:
        save(scratch, loaded, config)
        (scratch / "mlx-tune.json").write_text(json.dumps(origin, indent=2) + "\n")
    return chosen
