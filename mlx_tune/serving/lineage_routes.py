"""The page's own routes: look at the lineage, roll back, promote."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mlx_tune.errors import UsageError
from mlx_tune.models.bases import BaseInfo
from mlx_tune.serving.lineage_json import lineage_json, retention_json, training_json
from mlx_tune.serving.replies import ERRORS
from mlx_tune.serving.requests import RequestError
from mlx_tune.serving.schemas import MODEL, Strict
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.evaluate import already_known
from mlx_tune.workflows.store_commands import list_store, promote, rollback


class RollbackRequest(Strict):
    """`POST /api/rollback`."""

    to: str | None = None


class PromoteRequest(Strict):
    """`POST /api/promote`."""

    session: str = MODEL


def lineage_routes(store_root: Path, info: BaseInfo) -> APIRouter:
    """Return the routes of a store.

    Args:
        store_root: Its folder; no request names another.
        info: Its base.
    """
    router = APIRouter(prefix="/api", tags=["lineage"], responses=ERRORS)

    @router.get("/lineage")
    def lineage() -> dict[str, Any]:
        """Show the tree of sessions, and which is in use."""
        return lineage_json(list_store(SessionStore.open(store_root)), info.name)

    @router.get("/retention")
    def retention(session: str | None = None) -> dict[str, Any]:
        """Show how well every session was known after every session, as far as it was asked."""
        if not SessionStore.open(store_root).sessions():
            empty = ("acc", "bwt", "fwt", "forgetting", "worst", "general")
            matrices: dict[str, Any] = {"labels": [], "verbatim": [], "paraphrases": []}
            return {**matrices, "session": None, "scores": dict.fromkeys(empty)}
        try:
            found = already_known(store_root, info=info, session=session, say=lambda _: None)
        except UsageError as error:
            raise RequestError(str(error), param="session", status=404) from error
        return retention_json(found)

    @router.get("/training")
    def training() -> dict[str, Any]:
        """Show the newest training's loss and the time it has left."""
        return training_json(store_root)

    @router.post("/rollback")
    def roll_back(request: RollbackRequest) -> JSONResponse:
        """Put the session before in use, or the one that is named; nothing is deleted."""
        try:
            after = rollback(store_root, request.to).after
        except UsageError as error:
            raise RequestError(str(error), param="to") from error
        return JSONResponse({"head": after.folder_name if after else None})

    @router.post("/promote")
    def put_in_use(request: PromoteRequest) -> JSONResponse:
        """Put a session in use that the gate held back, or that HEAD has left."""
        try:
            session = promote(store_root, request.session).session
        except UsageError as error:
            raise RequestError(str(error), param="session") from error
        return JSONResponse({"head": session.folder_name})

    return router
