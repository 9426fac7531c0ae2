"""Opens a store that has to be there: a mistyped folder must not pass for a sound one."""

import os
from pathlib import Path

from mlx_tune.errors import UsageError
from mlx_tune.lineage import format as store_format
from mlx_tune.lineage import head
from mlx_tune.lineage.shelf import SESSIONS
from mlx_tune.lineage.store import Store


def open_existing(root: Path) -> Store:
    """Return the store in a folder that is one.

    Raises:
        UsageError: There is none; nothing was created.
        IncompatibleError: A newer version of mlx-tune wrote it.
        DamagedStoreError: format.json is not what was written.
    """
    store = Store.open(root)
    # Any of them will do: one may be what was lost.
    if not any(os.path.lexists(root / name) for name in (store_format.FILE, head.HEAD, SESSIONS)):
        raise UsageError(
            f"{root}: no store is there; name another with --store, or train a first session with "
            "`mlx-tune train data/cs.json`"
        )
    return store
