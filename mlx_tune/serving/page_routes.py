"""The page: a handful of files, read once; a request can name no other."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

_FOLDER = Path(__file__).parent / "page"
_SHOWN = frozenset({".html", ".css", ".js", ".mjs", ".svg"})


def page_routes() -> APIRouter:
    """Return the page and its parts."""
    files = {
        path.relative_to(_FOLDER).as_posix(): path.read_bytes()
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _SHOWN
    }
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index() -> Response:
        return _reply("index.html", files["index.html"])

    @router.get("/page/{name:path}")
    def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such part")
        return _reply(name, files[name])

    return router


def _reply(name: str, content: bytes) -> Response:
    kind = "text/javascript" if name.endswith("js") else mimetypes.guess_type(name)[0]
    return Response(content, media_type=kind)
