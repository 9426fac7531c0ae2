"""Where HEAD most likely stood when it cannot be read, and where to go back to from damage."""

from __future__ import annotations

from pathlib import Path

from mlx_tune.lineage import head, labels
from mlx_tune.lineage.head import BASE
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.shelf import Shelf


def rebuilt(root: Path, found: Shelf) -> tuple[str, str]:
    """Return the id, or ``base``, that HEAD most likely held, and what that was told by."""
    # A removed session is never HEAD, so a line that ends on one is not the last move made.
    removed = labels.removed(root)
    fit = [move.new for move in head.moves(root) if found.holds(move.new)]
    if logged := [word for word in fit if word not in removed]:
        return logged[-1], f"the last sound line of {head.LOG}"
    newest = _newest_promoted(found, removed)
    return newest.id if newest else BASE, "the newest session that was promoted"


def newest_sound(root: Path, found: Shelf) -> Session | None:
    """Return the last session HEAD stood on that can be gone back to; None for the base."""
    words = [word for move in reversed(head.moves(root)) for word in (move.new, move.old)]
    removed = labels.removed(root)
    kept = [word for word in dict.fromkeys(words) if word not in removed]
    return found.first_whole(found.sound[word] for word in kept if word in found.sound)


def way_back(good: Session | None) -> str:
    """Return what to do about a damaged session, given the newest good one."""
    name, ref = (good.folder_name, good.id[:8]) if good else (BASE, BASE)
    return f"go back to {name} with `mlx-tune rollback --to {ref}`"


def _newest_promoted(found: Shelf, removed: set[str]) -> Session | None:
    """Return the session promoted last whose chain is whole, None for the base."""
    newest_last = sorted(found.sound.values(), key=lambda s: str(s.record.get("created", "")))
    promoted = [s for s in newest_last[::-1] if s.record.get("verdict") == "promote"]
    return found.first_whole(s for s in promoted if s.id not in removed)
