"""A store, its base and a chain of sessions, opened; and the model they fold to.

Every command that needs a model begins with :func:`open_workspace`.
"""

import gc
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.continual.fidelity import Fidelity, FidelityMeter
from mlx_tune.continual.fold import fold, is_quantised
from mlx_tune.data import read
from mlx_tune.data.rows import Row, Trace
from mlx_tune.errors import DamagedStoreError, IncompatibleError, UsageError
from mlx_tune.models import bases, runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import Base, dequantise, load
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.settings import typed
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import StoreSnapshot, read_store, rollback_advice
from mlx_tune.training.adapter import CONFIG_FILE, WEIGHTS_FILE, Adapter

_Found = TypeVar("_Found")

DATA_FILE = "data.jsonl"
"""The rows a session was taught, beside its adapter."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What a command works on.

    Attributes:
        snapshot: The store, as it was when the command began.
        info: The base model.
        session: The session that was chosen; None is the bare base.
        chain: Its ancestors and itself, root first.
    """

    snapshot: StoreSnapshot
    info: BaseInfo
    session: Session | None
    chain: tuple[Session, ...]


def open_workspace(
    root: Path,
    *,
    session: str | None = None,
    base: str | None = None,
    say: Say,
    needs_sessions: bool = False,
) -> Workspace:
    """Read a store, find its base model, and choose a session; no model is loaded.

    Args:
        root: The store's folder.
        session: A reference to a session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        say: Called, a line each, with what takes long and what a person should know of the store.
        needs_sessions: Refuse a store before its first session.

    Raises:
        UsageError: The reference names no session, or there are none yet.
        IncompatibleError: The store's sessions were trained on another base, or a newer version
            wrote the store.
        DamagedStoreError: The session, or an ancestor of it, is damaged.
        MlxTuneError: As for :func:`mlx_tune.models.bases.locate`.
    """
    snapshot = read_store(root)
    if needs_sessions:
        need_sessions(snapshot)
    # Before anything is fetched: a slip must not cost a download.
    found = find_session(snapshot, session)
    chain = tuple(snapshot.chain(found))
    info = locate_base(snapshot, choose_base(snapshot, base), say)
    for note in snapshot.notes:
        say(note)
    return Workspace(snapshot=snapshot, info=info, session=found, chain=chain)


@dataclass(frozen=True, kw_only=True)
class FoldedModel:
    """A model ready to answer or to be trained further.

    Attributes:
        info: Its base.
        chain: The sessions folded into it, root first.
        model: Weights in the type this machine computes in.
        tokenizer: The base's.
        fidelity: What the stored weights kept of the chain's change; None unless asked for.
    """

    info: BaseInfo
    chain: tuple[Session, ...]
    model: nn.Module
    tokenizer: Tokenizer
    fidelity: Fidelity | None = None


def choose_base(store: StoreSnapshot, name: str | None, config: str | None = None) -> str:
    """Return the base model to use: the one that is named, else the store's, else what fits."""
    kept = store.base()
    if name is not None:
        return name
    return str(kept["name"]) if kept else config or runtime.default_base()


def locate_base(store: StoreSnapshot, name: str, say: Say) -> BaseInfo:
    """Find a base model and check that the store's sessions were trained on it.

    Raises:
        UsageError: There is no such base model.
        IncompatibleError: They were trained on another.
    """
    kept = store.base()
    info = find_base(name, kept, say)
    if kept and kept["fingerprint"] != info.fingerprint:
        raise IncompatibleError(
            f"{store.root}: its sessions stand on the base {kept['name']} "
            f"({kept['fingerprint'][:12]}), not on {name} ({info.fingerprint[:12]}); a store "
            "holds one base, so name another with --store"
        )
    return info


def find_base(name: str, kept: Mapping[str, Any] | None, say: Say) -> BaseInfo:
    """Find a base model; a recorded folder that moved is found by its fingerprint.

    Args:
        name: What it is called.
        kept: What was recorded of it, if it was.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: There is no such base model.
    """
    try:
        return bases.locate(name, say=say)
    except UsageError as error:
        if kept is None or name != kept["name"] or not Path(name).is_absolute():
            raise
        if moved := bases.find_local(kept["fingerprint"]):
            return bases.locate(moved, say=say)
        raise UsageError(
            f"{name}: the base model's folder is not there any more; say once where it is now, "
            "with --base FOLDER of plan, train or chat"
        ) from error


def load_folded(
    info: BaseInfo,
    chain: Sequence[Session],
    extra: Sequence[Adapter] = (),
    *,
    measured: bool = False,
) -> FoldedModel:
    """Load a base, fold a chain into it, round once, and widen to the type computed in.

    Args:
        info: The base.
        chain: Sessions, root first.
        extra: Adapters that are not sessions yet, on top.
        measured: Count what rounding kept, which the fold alone can see.
    """
    base = load(info)
    meter = FidelityMeter() if measured else None
    dtype = runtime.dtype_of(base.model)
    fold(base.model, [*read_adapters(chain), *extra], unmerged_dtype=dtype, meter=meter)
    widen(base.model)
    base.model.eval()
    return FoldedModel(
        info=info,
        chain=tuple(chain),
        model=base.model,
        tokenizer=base.tokenizer,
        fidelity=meter.fidelity() if meter else None,
    )


def fold_to_write(
    info: BaseInfo, chain: Sequence[Session], meter: FidelityMeter | None = None
) -> tuple[Base, dict[str, Any]]:
    """Return a folded model, its weights in 16 bits or as many as the base has, and its config.

    A quantised layer has no type to round to: its weights become what they stand for.

    Args:
        info: The base.
        chain: Sessions, root first.
        meter: Counts what the stored weights keep of the change.
    """
    loaded, config = load(info), dict(info.config)
    if is_quantised(loaded.model):
        dequantise(loaded.model, config)
    fold(loaded.model, read_adapters(chain), meter=meter)
    return loaded, config


def load_beside(base: nn.Module, info: BaseInfo, chain: Sequence[Session]) -> nn.Module:
    """Return a chain's model on top of a base's arrays, which both share; nothing is rounded.

    Args:
        base: Loaded and widened; it stays as it is.
        info: The same base.
        chain: Sessions, root first.
    """
    model = load(info).model  # read lazily, so its own arrays never are
    model.update(base.parameters())
    fold(model, read_adapters(chain), unmerged=True, unmerged_dtype=runtime.dtype_of(base))
    model.eval()
    return model


def free_memory() -> None:
    """Free a model's memory before the next one comes; the frame that held it must have ended."""
    gc.collect()
    mx.clear_cache()


def widen(model: nn.Module) -> None:
    """Cast a folded model to the type this machine computes in."""
    if dtype := runtime.compute_dtype():
        model.set_dtype(dtype)
    mx.eval(model.parameters())


def folding(chain: Sequence[Session]) -> list[Session]:
    """Return the sessions of a chain whose adapters are folded, root first.

    All of them, but for a session that was trained on fewer: its record says on which (`folds`).
    """
    found: list[Session] = []
    for session in chain:
        kept = session.record.get("folds")
        found = [one for one in found if kept is None or one.id in kept]
        found.append(session)
    return found


def read_adapters(chain: Sequence[Session]) -> list[Adapter]:
    """Read the adapters that a chain folds, their bytes checked against the manifests.

    Raises:
        DamagedStoreError: One is damaged: its file, and the newest good session before it.
    """
    return _along(folding(chain), read_adapter)


def read_history(chain: Sequence[Session]) -> list[list[Row] | list[Trace]]:
    """Read the rows that each session of a chain was taught; their traces if they were not kept.

    Raises:
        DamagedStoreError: As for :func:`read_adapters`.
    """
    return _along(chain, _read_taught)


def read_adapter(session: Session) -> Adapter:
    """Read a session's adapter, its bytes checked against the manifest."""
    return Adapter.from_files(
        session.read(WEIGHTS_FILE), session.read(CONFIG_FILE), place=str(session.path)
    )


def read_rows(session: Session) -> list[Row]:
    """Read the rows a session was taught; none where they were not to be kept."""
    if DATA_FILE not in session.hashes:
        return []
    return read.load(session.read(DATA_FILE), str(session.path / DATA_FILE))


def _read_taught(session: Session) -> list[Row] | list[Trace]:
    data = session.record.get("data", {})
    if DATA_FILE in session.hashes:
        rows = read_rows(session)
        return rows if data.get("exact") else [replace(row, replaces_alike=True) for row in rows]
    return [Trace.from_json(trace) for trace in data.get("traces", ())]


def _along(chain: Sequence[Session], read_one: Callable[[Session], _Found]) -> list[_Found]:
    found: list[_Found] = []
    for session in chain:
        try:
            found.append(read_one(session))
        except DamagedStoreError as error:
            good = [None, *itertools.takewhile(Session.is_whole, chain[: len(found)])]
            way_back = rollback_advice(good[-1], session.path.parents[1])
            raise DamagedStoreError(f"{error}; {way_back}") from error
    return found


def find_session(store: StoreSnapshot, ref: str | None) -> Session | None:
    """Return the session a person means: HEAD when they name none; None is the base."""
    return store.head() if ref is None else store.find(ref)


def bare_base_note(root: Path) -> str:
    """Return what is said where the base answers and nobody asked for it by name."""
    return f"note: no session is in use in {root}, so the bare base answers"


def need_sessions(store: StoreSnapshot) -> None:
    """Refuse what makes no sense before the first session.

    Raises:
        UsageError: There is none.
        DamagedStoreError: There were some, and all are lost.
    """
    if not store.sessions:
        store.head()
        raise UsageError(
            f"{store.root}: no sessions yet; train the first with "
            f"`{typed('train data/cs.json', store.root)}`"
        )


def describe_base(info: BaseInfo) -> dict[str, Any]:
    """Return what a session's record keeps of its base."""
    name = info.name if info.source.startswith("wheel:") else info.source
    return {"name": name, "source": info.source, "fingerprint": info.fingerprint}
