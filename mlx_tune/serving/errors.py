"""The error a request can be answered with: one exception, one JSON shape."""

import http
import json
from typing import Any

from starlette.types import Send

from mlx_tune.errors import MlxTuneError

Fields = tuple[tuple[bytes, bytes], ...]

SECURITY_FIELDS: Fields = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types dompurify",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Header fields of every reply."""

NO_STORE = (b"cache-control", b"no-store")


class ApiError(MlxTuneError):
    """A request that fails, in the shape that OpenAI's clients read.

    Attributes:
        message: One line for people: what failed, what was expected, what to do.
        status: HTTP status code.
        code: One word for programs, such as ``"invalid_api_key"``.
        param: The field of the request that it is about; None for the request as a whole.
        fields: Header fields of the reply, names in lower case.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        fields: Fields = (),
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code
        self.param, self.fields = param, fields

    def to_json(self) -> dict[str, Any]:
        """Return the reply's JSON value; the type says whose fault it is."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def body(self) -> bytes:
        """The JSON as it is sent before any route is reached."""
        return json.dumps(self.to_json()).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All header fields of that reply."""
        return [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            NO_STORE,
            *SECURITY_FIELDS,
            *self.fields,
        ]

    async def answer(self, send: Send) -> None:
        """Send it as the reply of an ASGI application."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})

    def as_http(self) -> bytes:
        """Return the whole reply as HTTP/1.1 bytes, after which the connection is closed."""
        first = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}".encode()
        fields = [b": ".join(pair) for pair in self.headers]
        return b"\r\n".join([first, *fields, b"connection: close", b"", self.body])


def internal_error(message: str = "a fault in the server; its terminal says which") -> ApiError:
    """Return the reply to what went wrong here; without a message, what the server prints."""
    return ApiError(message, status=500, code="internal_error")
