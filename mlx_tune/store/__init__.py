"""The store: sessions that never change, HEAD, runs, labels and evaluations."""

from mlx_tune.store.runs import Checkpoint, Run, list_runs
from mlx_tune.store.session import ASK, PROMOTE, REFUSE, Session, Verdict
from mlx_tune.store.snapshot import BASE, HeadMove, StoreSnapshot, read_snapshot
from mlx_tune.store.store import SessionStore, open_store

__all__ = [
    "ASK",
    "BASE",
    "PROMOTE",
    "REFUSE",
    "Checkpoint",
    "HeadMove",
    "Run",
    "Session",
    "SessionStore",
    "StoreSnapshot",
    "Verdict",
    "list_runs",
    "open_store",
    "read_snapshot",
]
