"""One step back, or to any session: HEAD moves, nothing is deleted."""

from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store


@dataclass(frozen=True, kw_only=True)
class Move:
    """HEAD before and after; None is the bare base.

    Attributes:
        before: Where it was, None also where that session is damaged.
        after: Where it is.
        was_damaged: True where HEAD named a damaged session.
        notes: What a person should be told, such as that HEAD had to be rebuilt.
    """

    before: Session | None
    after: Session | None
    was_damaged: bool = False
    notes: tuple[str, ...] = ()


def rollback(store_root: Path, to: str | None) -> Move:
    """Move HEAD to its parent, or to a named session.

    Args:
        store_root: The store's folder.
        to: A session, ``base``, or None for one step.

    Raises:
        UsageError: There is no such session, or HEAD is the base already.
    """
    store = Store.open(store_root)
    try:
        before = store.head()
    except DamagedStoreError:
        if to is None:  # the message names the session to go back to
            raise
        after = store.find(to)
        store.leave_damaged_head(after, why="rollback from a damaged session")
        return Move(before=None, after=after, was_damaged=True, notes=tuple(store.notes))
    if to is not None:
        after = store.find(to)
    elif before is None:
        raise UsageError(
            f"{store_root}: HEAD is the base model already, there is no step further back; "
            "`mlx-tune log` shows the sessions, `mlx-tune rollback --to N` takes one up again"
        )
    else:
        chain = store.chain(before)
        after = chain[-2] if len(chain) > 1 else None
    if after != before:
        store.move_head(after, expected=before, why="rollback")
    return Move(before=before, after=after, notes=tuple(store.notes))
