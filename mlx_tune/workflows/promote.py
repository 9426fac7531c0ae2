"""Puts a session in use that the gate held back or refused, or that HEAD has left."""

from dataclasses import dataclass
from pathlib import Path

from mlx_tune.continual.gate import PROMOTE
from mlx_tune.errors import UsageError
from mlx_tune.lineage.session import Session
from mlx_tune.workflows.existing import open_existing


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A session that was put in use.

    Attributes:
        session: Where HEAD is.
        before: Where it was; None on the bare base.
        verdict: What the gate had said of it, when it was committed.
        reasons: Why, one line each.
        left: The sessions that HEAD stood on and stands on no more, root first.
        notes: What a person should be told, such as that HEAD had to be rebuilt.
    """

    session: Session
    before: Session | None
    verdict: str
    reasons: tuple[str, ...]
    left: tuple[Session, ...]
    notes: tuple[str, ...]

    @property
    def is_overruled(self) -> bool:
        """Tell whether the gate had said otherwise."""
        return self.verdict != PROMOTE


def promote(store_root: Path, ref: str) -> Promotion:
    """Move HEAD to a session, once every byte that HEAD did not stand on before is checked.

    No session changes: its record keeps what the gate said, HEAD.log says it was overruled.

    Args:
        store_root: The store's folder.
        ref: The session.

    Raises:
        UsageError: There is no store or no such session, it is marked as removed, or HEAD is there
            already.
        DamagedStoreError: HEAD is damaged, or a session of the chain is.
        LockedError: Another process is writing, or has moved HEAD meanwhile.
        DiskError: The disk is full, read-only or failing; the message says where HEAD is.
    """
    store = open_existing(store_root)
    session = store.find(ref)
    if session is None:
        raise UsageError(
            "the base model is no session to promote; `mlx-tune rollback --to base` puts it in use"
        )
    before = store.head()
    if session == before:
        raise UsageError(f"{session.folder_name} is HEAD already; there is nothing to promote")
    had, chain = store.chain(before), store.chain(session)
    for newcomer in chain:
        if newcomer not in had:
            newcomer.verify()
    gate = session.record.get("gate") or {}
    verdict = session.record.get("verdict") or PROMOTE  # without one it is older than verdicts are
    over = "" if verdict == PROMOTE else f", though the gate said {verdict}"
    store.move_head(session, expected=before, why=f"promote {session.name}{over}")
    return Promotion(
        session=session,
        before=before,
        verdict=verdict,
        reasons=tuple(gate.get("reasons", ())),
        left=tuple(one for one in had if one not in chain),
        notes=tuple(store.notes),
    )
