"""Takes an adapter that was trained elsewhere into a store, as a session like any other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_tune.continual.fold import check_fits
from mlx_tune.continual.gate import Thresholds
from mlx_tune.continual.in_force import current_rows_beside
from mlx_tune.continual.methods import find_method
from mlx_tune.data import read, tokenise
from mlx_tune.data.read import DataSet
from mlx_tune.data.rows import Row
from mlx_tune.data.wordings import check_wordings
from mlx_tune.errors import UsageError
from mlx_tune.models import gguf_names, runtime
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.load import load, load_tokenizer
from mlx_tune.settings import default, typed
from mlx_tune.store.labels import check_untagged
from mlx_tune.store.session import PROMOTE, Session, check_name, slug
from mlx_tune.store.snapshot import StoreSnapshot
from mlx_tune.store.store import SessionStore
from mlx_tune.text import quoted
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.foreign import ForeignAdapter
from mlx_tune.training.lora_gguf import in_our_order, read_lora_gguf
from mlx_tune.training.mlx_lm_adapter import is_mlx_lm, read_mlx_lm
from mlx_tune.training.peft import read_peft
from mlx_tune.workflows.gate_run import GateResult, run_gate
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.run import TrainingOutcome, put_in_use
from mlx_tune.workflows.training_plan import Candidate
from mlx_tune.workflows.workspace import (
    DATA_FILE,
    choose_base,
    describe_base,
    free_memory,
    locate_base,
    read_history,
)

_PRECISION = re.compile(r"-(?:unsloth-)?(?:bnb-|mlx-)?(?:[2-8]-?bit|bf16|fp16|f16|hf|mlx)$")


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What a person asked for.

    Attributes:
        path: A folder that PEFT or mlx-lm wrote, or a GGUF file.
        store: The store's folder.
        data: What it was taught: files or folders. None where there are none, and the gate is
            blind to it.
        base: The base model, when not the store's own.
        name: Of the session; None to take the folder's.
        onto: A session to put it on top of; None for the bare base, which it was trained on.
    """

    path: Path
    store: Path
    data: Sequence[Path] = ()
    base: str | None = None
    name: str | None = None
    onto: str | None = None


def import_adapter(request: ImportRequest, observer: TrainingObserver) -> TrainingOutcome:
    """Commit an adapter as a session, judged by the gate as if it had been trained here.

    It stands on the bare base, or on top of another session, which it was not trained on; then
    HEAD moves to it only where it stood there.

    Raises:
        InputError: It is no plain LoRA, or the data cannot be used.
        UsageError: The name is not allowed, or the same adapter is there already.
        IncompatibleError: It does not fit the base, or the store stands on another one.
        LockedError: A training is going on in this store.
    """
    name = request.name or slug(_stem(request.path))
    check_name(name)
    data = read.read_set(request.data) if request.data else None
    rows = tuple(data.rows if data else ())
    check_wordings(rows)  # before anything is fetched
    found = _read(request.path)
    now = SessionStore.open(request.store).snapshot()
    check_untagged(now, name)
    candidate = _candidate(request, now, name, rows, observer)
    adapter = in_our_order(found, candidate.info.config)
    _check_base(request.path, found, adapter, candidate.info, observer)
    source = _source(request.path, found)
    _refuse_again(now, source, candidate.parent)
    _tell_risks(candidate, data, observer)
    with candidate.store.training(f"import {name}"):
        result = run_gate(candidate, None, adapter, observer)
        files = result.adapter.files(num_layers=_layers(adapter))
        if rows:
            files[DATA_FILE] = read.dump(rows)
        record = _record(candidate, result, source, [str(path) for path in request.data])
        parent = candidate.parent
        session = candidate.store.commit(name=name, parent=parent, record=record, files=files)
        is_head = _put_in_use(candidate, now.head(), session, observer)
    return TrainingOutcome(session=session, recall=result.recall, is_head=is_head, gate=result)


def _read(path: Path) -> ForeignAdapter:
    if gguf_names.is_gguf(path.name):
        return read_lora_gguf(path)
    return read_mlx_lm(path) if is_mlx_lm(path) else read_peft(path)


def _candidate(
    request: ImportRequest,
    now: StoreSnapshot,
    name: str,
    rows: tuple[Row, ...],
    observer: TrainingObserver,
) -> Candidate:
    """Find base and chain, and check the rows against both."""
    chain = tuple(now.chain(now.find(request.onto))) if request.onto else ()
    info = locate_base(now, choose_base(now, request.base), observer.say)
    for note in now.notes:
        observer.say(note)
    check_wordings(rows, current_rows_beside(rows, read_history(chain)))
    tokenizer = load_tokenizer(info.folder, info.template)
    tokenise.encode_paraphrases(rows, tokenizer)  # what cannot be scored fails now
    return Candidate(
        name=name,
        store=SessionStore.open(request.store),
        info=info,
        chain=chain,
        replaced=(),
        without=(),
        method=find_method(default("method")),
        tokenizer=tokenizer,
        new=rows,
        general=None,
        limits=Thresholds(),
    )


def _tell_risks(candidate: Candidate, data: DataSet | None, observer: TrainingObserver) -> None:
    """Say what a person may not have thought of."""
    if candidate.parent is not None:
        observer.say(
            f"note: it was trained on the bare base, not on {candidate.parent.folder_name}; on top "
            "of that it may say other things than it did; the gate judges what is lost"
        )
    if data is None:
        observer.say(
            "note: without --data nobody knows what it was taught, so it is neither measured nor "
            "rehearsed by later sessions"
        )
        return
    for file in data.files:
        if file.use != "train":
            observer.say(f"note: {file.path} is left alone: by its name it was not trained on")
    if data.passed_over:
        names = ", ".join(quoted(name) for name in data.passed_over)
        observer.say(f"note: fields that teach nothing were passed over: {names}")


def _check_base(
    path: Path,
    found: ForeignAdapter,
    adapter: Adapter,
    info: BaseInfo,
    observer: TrainingObserver,
) -> None:
    """Refuse an adapter whose layers the base lacks, and tell of one trained on another base."""
    check_fits(adapter, dict(load(info).model.named_modules()), str(path))
    free_memory()
    if found.base is None:
        observer.say("note: it does not say which base it was trained on; its layers fit this one")
    elif _family(found.base) != _family(info.name_elsewhere):
        observer.say(
            f"note: it was trained on {found.base}, and this store's base is {info.name_elsewhere};"
            " its layers fit, but on another model it means nothing"
        )
    elif "quantization" in info.config:
        observer.say(f"note: it was trained on {found.base} and will be used on quantised weights")


def _stem(path: Path) -> str:
    """Return what a folder is called, or a file without its ending."""
    name = path.resolve().name
    return path.stem if gguf_names.is_gguf(name) else name


def _family(name: str) -> str:
    """Return what is the same for copies of a model under other owners and in other precisions."""
    return _PRECISION.sub("", Path(name).name.casefold())


def _source(path: Path, found: ForeignAdapter) -> dict[str, Any]:
    """Return where an adapter came from, for the session's record."""
    return {
        "format": found.format,
        "folder": str(path.resolve()),
        "base": found.base,
        "sha256": found.sha256,
    }


def _refuse_again(now: StoreSnapshot, source: dict[str, Any], parent: Session | None) -> None:
    """Refuse an adapter that is already a session in the same place."""
    for session in now.sessions.values():
        kept = session.record.get("imported") or {}
        if kept.get("sha256") == source["sha256"] and session.parent == (parent and parent.id):
            use = typed(f"promote {session.id[:8]}", now.root)
            raise UsageError(
                f"{source['folder']}: is already here as {session.folder_name}; `{use}` uses it"
            )


def _layers(adapter: Adapter) -> int:
    """Return how many transformer layers an adapter reaches, for mlx-lm's config."""
    numbers = [int(n) for path in adapter.factors for n in re.findall(r"\.(\d+)\.", path)]
    return max(numbers) + 1


def _record(
    candidate: Candidate, result: GateResult, source: dict[str, Any], sources: list[str]
) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(),
        "verdict": result.verdict,
        "gate": result.to_json(),
        "base": describe_base(candidate.info),
        "imported": source,
        "sizing": {},
        "data": {
            "sources": sources,
            "rows": len(candidate.new),
            "sha256": read.fingerprint(candidate.new),
            "exact": True,
            "rehearsed": 0,
            "held_out": 0,
        },
        "recall": [entry.to_json() for entry in result.recall],
        **({"fidelity": result.fidelity.to_json()} if result.fidelity else {}),
        "versions": runtime.versions(),
    }


def _put_in_use(
    candidate: Candidate, head: Session | None, session: Session, observer: TrainingObserver
) -> bool:
    """Put the session in use where it stands on HEAD and the gate promotes it."""
    if session.record["verdict"] != PROMOTE:
        return False
    if candidate.parent == head:
        return put_in_use(candidate, session, observer, why=f"import {session.name}")
    where = head.folder_name if head else "the base"
    use = typed(f"promote {session.id[:8]}", candidate.store.root)
    observer.say(
        f"note: HEAD stays on {where}, which {session.name} does not stand on; `{use}` uses it "
        "instead, and --onto HEAD would have put it on top"
    )
    return False
