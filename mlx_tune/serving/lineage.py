"""The page's own API: look at the lineage, its retention and a training; roll back, promote."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mlx_tune.continual.retention import Kind
from mlx_tune.errors import UsageError
from mlx_tune.files import lock
from mlx_tune.models.bases import BaseInfo
from mlx_tune.serving.errors import ApiError
from mlx_tune.serving.registry import ModelRegistry
from mlx_tune.serving.schemas import ERRORS, JsonRoute, ModelName, StrictModel
from mlx_tune.store.runs import FAILED, Run, list_runs
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import BASE, StoreSnapshot
from mlx_tune.store.store import TRAINING_LOCK
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows.evaluate import stored_evaluation
from mlx_tune.workflows.matrix import Evaluation, MatrixColumn, MatrixRow
from mlx_tune.workflows.store_commands import promote, rollback

_RECENT_STEPS = 20
_MOST_LOSSES = 500


class RollbackRequest(StrictModel):
    """`POST /api/rollback`."""

    to: str | None = None


class PromoteRequest(StrictModel):
    """`POST /api/promote`."""

    session: ModelName


def lineage_routes(store_root: Path, registry: ModelRegistry, info: BaseInfo) -> APIRouter:
    """Return the routes of a store; no request names another."""
    router = APIRouter(prefix="/api", tags=["lineage"], responses=ERRORS, route_class=JsonRoute)

    @router.get("/lineage")
    def lineage() -> dict[str, Any]:
        """Show the tree of sessions, and which is in use."""
        store = registry.snapshot()
        warnings = [problem] if (problem := registry.problem) else store.head_notes
        return lineage_json(store, info.name, warning="; ".join(warnings) or None)

    @router.get("/retention")
    def retention(session: str | None = None) -> dict[str, Any]:
        """Show how well every session was known after every session, as far as it was asked."""
        _check_there(registry)
        if not registry.snapshot().sessions:
            return {"session": None, "labels": [], "scores": [], "general": None}
        with _usage_error_as(status=404, param="session"):
            found = stored_evaluation(store_root, info=info, session=session, say=lambda _: None)
        return retention_json(found)

    @router.get("/training")
    def training() -> dict[str, Any]:
        """Show the newest training's loss and the time it has left."""
        _check_there(registry)
        return training_json(store_root)

    @router.post("/rollback")
    def roll_back(request: RollbackRequest) -> JSONResponse:
        """Put the session before in use, or the one that is named; nothing is deleted."""
        _check_there(registry)
        with _usage_error_as(status=400, param="to"):
            after = rollback(store_root, request.to).after
        return JSONResponse({"head": after.folder_name if after else None})

    @router.post("/promote")
    def put_in_use(request: PromoteRequest) -> JSONResponse:
        """Put a session in use that the gate held back, or that HEAD has left."""
        _check_there(registry)
        with _usage_error_as(status=400, param="session"):
            session = promote(store_root, request.session).session
        return JSONResponse({"head": session.folder_name})

    return router


@contextlib.contextmanager
def _usage_error_as(*, status: int, param: str) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise ApiError(str(error), status=status, param=param) from error


def _check_there(registry: ModelRegistry) -> None:
    """Refuse to tell of a store, or to move its HEAD, that is not the one that is served."""
    if problem := registry.problem:
        raise ApiError(problem, status=503, code="store_gone")


def lineage_json(
    lineage: StoreSnapshot, base: str, *, warning: str | None = None
) -> dict[str, Any]:
    """Return the tree of sessions, parents first; ``base`` is the base model's name."""
    head = lineage.sessions.get(lineage.head_id)
    previous = lineage.sessions.get(head.parent or "") if head else None
    return {
        "base": base,
        "head": head and head.folder_name,
        "previous": previous and previous.folder_name,
        "sessions": [
            *(_session(session, lineage) for session in lineage.sessions.values()),
            *(_damaged(folder, str(error)) for folder, error in lineage.damaged.items()),
        ],
        "error": (lineage.head_error and str(lineage.head_error)) or warning,
    }


def _damaged(folder: str, problem: str) -> dict[str, Any]:
    """Return what is known of a session that cannot be read: its folder's name, and why."""
    number, _, name = folder.partition("-")
    unknown = dict.fromkeys(
        ("parent", "created", "rows", "as_taught", "other_words", "recall", "verdict")
    )
    return {
        **unknown,
        "id": folder,
        "name": name.rpartition("-")[0] or folder,
        "number": int(number) if number.isdecimal() else 0,
        "sources": [],
        "reasons": [],
        "tags": [],
        "in_chain": False,
        "removed": False,
        "damaged": problem,
    }


def _session(session: Session, lineage: StoreSnapshot) -> dict[str, Any]:
    record = session.record
    data = record.get("data", {})
    parent = lineage.sessions.get(session.parent or "")
    own = (record.get("recall") or [{}])[-1]
    return {
        "id": session.folder_name,
        "name": session.name,
        "number": session.number,
        "parent": parent and parent.folder_name,
        "created": record.get("created"),
        "rows": data.get("rows"),
        "sources": [Path(source).name for source in data.get("sources", ())],
        "as_taught": _graded(own.get("as_taught")),
        "other_words": _graded(own.get("other_words")),
        "recall": _counts(own.get("verbatim")),
        "verdict": record.get("verdict"),
        "reasons": list((record.get("gate") or {}).get("reasons", ())),
        "tags": lineage.tags_of(session),
        "in_chain": session.id in lineage.in_use,
        "removed": lineage.is_removed(session),
        "damaged": None,
    }


def _counts(score: Mapping[str, Any] | None) -> dict[str, int] | None:
    return None if score is None else {"right": score["right"], "asked": score["asked"]}


def _graded(score: Mapping[str, Any] | None) -> dict[str, int] | None:
    counts = _counts(score)
    return None if counts is None or score is None else {**counts, "confused": score["confused"]}


def retention_json(found: Evaluation) -> dict[str, Any]:
    """Return the retention matrices, as far as they are known, each with what is taken from it."""
    session = found.answering.session
    gate = (session.record.get("gate") or {}) if session else {}
    return {
        "session": session.folder_name if session else BASE,
        "labels": [_label(column) for column in found.columns],
        "scores": [
            {"kind": kind, "matrix": _matrix(found, kind), "measures": _measures(found, kind)}
            for kind in found.shown
        ],
        "general": (gate.get("general") or {}).get("nats_per_token"),
    }


def _measures(found: Evaluation, kind: Kind) -> dict[str, Any]:
    """Return ACC in percent, differences in points, the worst session; None where unknown."""
    retention = found.retention(kind)
    if retention is None:
        return dict.fromkeys(("acc", "bwt", "fwt", "forgetting", "worst"))
    measures = {
        "acc": retention.accuracy().value,
        "bwt": retention.backward_transfer().value,
        "fwt": retention.forward_transfer().value,
        "forgetting": retention.forgetting().value,
    }
    percent = {name: None if x is None else 100 * x for name, x in measures.items()}
    worst = retention.worst()
    return {**percent, "worst": None if worst is None else _label(found.columns[worst - 1])}


def _label(column: MatrixColumn) -> str:
    return f"{column.session.number} {column.session.name}"


def _matrix(found: Evaluation, kind: Kind) -> list[list[dict[str, int] | None]]:
    def cell(row: MatrixRow, column: MatrixColumn) -> dict[str, int] | None:
        scored = found.scored(row, column, kind)
        return dict(zip(("right", "asked"), scored.cell, strict=True)) if scored else None

    return [[cell(row, column) for column in found.columns] for row in found.rows]


def training_json(store_root: Path) -> dict[str, Any]:
    """Return the progress of the newest run; None where there is no run."""
    found = list_runs(store_root)
    return {"run": _run(found[-1], store_root) if found else None}


def _run(run: Run, store_root: Path) -> dict[str, Any]:
    lines = list({line["number"]: line for line in run.metrics()}.values())
    a_epoch, epochs = _steps(run)
    step = lines[-1]["number"] if lines else 0
    recent = lines[-_RECENT_STEPS:]
    pace = sum(line["seconds"] for line in recent) / len(recent) if recent else None
    if run.is_unfinished:
        is_running = lock.is_held(store_root / TRAINING_LOCK)
        state = "running" if is_running else "interrupted"
    else:
        state = "failed" if run.record["phase"] == FAILED else "finished"
    thin = -(-len(lines) // _MOST_LOSSES) or 1
    return {
        "name": run.record["name"],
        "state": state,
        "epoch": lines[-1]["epoch"] if lines else 0,
        "epochs": epochs,
        "step": step,
        "steps": a_epoch * epochs,
        "seconds_left": (a_epoch * epochs - step) * pace if pace and state == "running" else None,
        "losses": [[line["number"], line["loss"]] for line in lines[::thin]],
    }


def _steps(run: Run) -> tuple[int, int]:
    """Return the steps of an epoch and the epochs, at most."""
    sizing = run.record["sizing"]
    effective_batch = sizing["batch_size"]["value"] * sizing["grad_accumulation"]["value"]
    rows_per_epoch = Mixture.from_json(run.record["mixture"]).rows_per_epoch
    return math.ceil(rows_per_epoch / effective_batch), int(sizing["epochs"]["value"])
