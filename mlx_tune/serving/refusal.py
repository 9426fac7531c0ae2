"""The reply to a request that is not carried out, in the shape OpenAI's clients read."""

import http
import json
from dataclasses import dataclass

from starlette.types import Send

Fields = tuple[tuple[bytes, bytes], ...]

ALWAYS: Fields = (
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
"""Header fields of every reply there is."""

NO_STORE = (b"cache-control", b"no-store")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is not carried out.

    Attributes:
        status: HTTP status code.
        code: One word for programs, such as ``"invalid_api_key"``.
        message: One line for people: what failed, what was expected, what to do.
        fields: Header fields that belong to it.
    """

    status: int
    code: str
    message: str
    fields: Fields = ()

    @property
    def body(self) -> bytes:
        """The JSON that clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All of its header fields, names in lower case."""
        return [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            NO_STORE,
            *ALWAYS,
            *self.fields,
        ]

    async def answer(self, send: Send) -> None:
        """Reply with it from within an ASGI application."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})

    def as_http(self) -> bytes:
        """Return the whole reply as HTTP/1.1 bytes, after which the connection is closed."""
        first = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}".encode()
        fields = [
            name + b": " + value for name, value in [*self.headers, (b"connection", b"close")]
        ]
        return b"\r\n".join([first, *fields, b"", self.body])
