"""Whether a chain can be gone back along bit for bit, and whether its two forms are one model.

`benchmarks.retention` starts it when a chain is whole: `python -m benchmarks.retention_checks
TASK`; the store is copied first, so the chain itself is only read.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from benchmarks.retention_cell import Task, weights_sha256
from mlx_tune.continual.fold import UnmergedLinear, fold
from mlx_tune.data import read, tokenise
from mlx_tune.models import bases
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.load import load
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.training.adapter import Adapter
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import free_memory, load_folded, read_adapters

_ROWS = 8


def check(task: Task) -> dict[str, Any]:
    """Roll a copy of a chain back and forth, and compare its folds.

    Returns:
        ``fold_sha256`` and ``files_sha256`` of HEAD ``there`` (one step back) and ``back`` (again
        at the last session), for the report to compare with what the cells wrote down; the largest
        difference of ``logits``.
    """
    info = bases.locate(task.base)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "store"
        shutil.copytree(task.store, root, symlinks=True, ignore=shutil.ignore_patterns("runs"))
        last = SessionStore.open(root).snapshot().head()
        rollback(root, None)
        there = _in_use(root, info)
        rollback(root, last.id if last else None)
        back = _in_use(root, info)
        adapters = read_adapters(SessionStore.open(root).snapshot().chain(last))
    return {"there": there, "back": back, "logits": difference(task, info, adapters)}


def _in_use(root: Path, info: BaseInfo) -> dict[str, Any]:
    """Return the hashes of the model that HEAD names, and of every session's files as they are."""
    store = SessionStore.open(root)
    chain = store.snapshot().chain(store.snapshot().head())
    found = {
        "fold_sha256": weights_sha256(load_folded(info, chain).model),
        "files_sha256": {  # reading checks each file against its manifest
            session.folder_name: {name: session.hashes[name] for name in _read(session)}
            for session in store.snapshot().sessions.values()
        },
    }
    free_memory()
    return found


def _read(session: Session) -> list[str]:
    for name in session.hashes:
        session.read(name)
    return sorted(session.hashes)


def difference(task: Task, info: BaseInfo, adapters: Sequence[Adapter]) -> dict[str, float]:
    """Compare base + concatenated chain with the unrounded fold, all in float32 on the CPU.

    Returns:
        ``largest``: the largest absolute difference of a logit over some rows; ``size``: the
        largest absolute logit.
    """
    with mx.stream(mx.cpu):  # a GPU's float32 products may be TF32
        rows = read.read([Path(task.subjects[task.taught[-1]])])[:_ROWS]
        base = load(info)
        examples = tokenise.encode(rows, base.tokenizer)
        fold(base.model, adapters, rounded=False)
        wanted = logits(base.model, [e.tokens for e in examples])
        base = load(info)
        concatenate(base.model, adapters)
        found = logits(base.model, [e.tokens for e in examples])
        pairs = list(zip(found, wanted, strict=True))
        return {
            "largest": max(np.abs(f - w).max().item() for f, w in pairs),
            "size": max(np.abs(w).max().item() for _, w in pairs),
        }


def concatenate(model: nn.Module, chain: Sequence[Adapter]) -> None:
    """Put a chain beside a base's weights, as one adapter of rank Σ r, in place.

    `fold` does so for quantised layers alone; here every layer is treated so.
    """
    modules = dict(model.named_modules())
    for path in sorted({path for adapter in chain for path in adapter.factors}):
        having = [a for a in chain if path in a.factors]
        lora_a = mx.concatenate([a.factors[path][0] for a in having], axis=1)
        lora_b = mx.concatenate([a.scale * a.factors[path][1] for a in having], axis=0)
        parent, _, leaf = path.rpartition(".")
        setattr(modules[parent], leaf, UnmergedLinear(modules[path], lora_a, lora_b))


def logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return each row's logits, float32 (tokens, vocabulary)."""
    model.set_dtype(mx.float32)
    model.eval()
    return [np.array(model(mx.array([row]))[0].astype(mx.float32)) for row in rows]


if __name__ == "__main__":
    print(json.dumps(check(Task(**json.loads(sys.argv[1])))))
