"""Checks every byte of a store and, when asked, of the base model that its sessions stand on."""

from pathlib import Path

from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.lineage import verify as lineage
from mlx_tune.lineage.store import Store
from mlx_tune.lineage.verify import Findings
from mlx_tune.models import bases
from mlx_tune.models.bases import Say
from mlx_tune.workflows.existing import open_existing


def verify(store_root: Path, *, deep: bool, say: Say) -> Findings:
    """Read and check everything in a store; nothing in it is changed.

    Args:
        store_root: The store's folder.
        deep: Whether to hash the base model too, which may be gigabytes.
        say: Told, in a line, what takes long.

    Raises:
        UsageError: There is no store.
        IncompatibleError: A newer version wrote it.
        DiskError: A file cannot be read.
    """
    store = open_existing(store_root)
    found = lineage.verify(store)
    if deep:
        try:
            _check_base(store, found, say)
        except MlxTuneError as error:  # the store was read by now: its findings are not thrown away
            found.problems.append(str(error))
            found.error = found.error or error
    return found


def _check_base(store: Store, found: Findings, say: Say) -> None:
    """Hash the base anew; one that is not on this machine is noted, not fetched."""
    kept = store.base()
    if kept is None:
        return
    if not _is_here(kept["name"]):
        local = Path(kept["name"]).is_absolute()
        fix = "put its folder back" if local else f"`mlx-tune base pull {kept['name']}`"
        found.notes.append(f"the base {kept['name']} is not here and was not checked; {fix}")
        return
    from mlx_tune.workflows.folded import locate_base  # it loads MLX, and nothing above does

    info = locate_base(store, kept["name"], say)
    say(f"hashing the base model {info.name}…")
    bases.verify(info)


def _is_here(name: str) -> bool:
    try:
        return bases.is_here(name)
    except UsageError:  # a folder that has gone
        return False
