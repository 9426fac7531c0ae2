"""The checks' HTTP client: one connection a request, no redirects, bounded in time and bytes.

The standard library's client does, and it lets a request be as wrong as a check wants it.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from mlx_tune.errors import NetworkError, UsageError
from mlx_tune.workflows.api_checks.shapes import Wrong, need

MAX_REPLY_BYTES = 16 * 1024**2
_PIECE_BYTES = 64 * 1024
_EXAMPLE = "write it as http://127.0.0.1:8321"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered.

    Attributes:
        status: The HTTP status.
        headers: By name, in lower case.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the JSON that the body is.

        Raises:
            Wrong: It is none, or not said to be.
        """
        self._need_type("application/json")
        try:
            return parse(self.body)
        except ValueError as error:
            raise Wrong(f"{self.status} with a body that is no JSON: {self.shown}") from error

    def events(self) -> list[str]:
        """Return the data of each server-sent event.

        Raises:
            Wrong: The body is no stream of events.

        Source:
            WHATWG HTML, 9.2.6 (interpreting an event stream).
        """
        self._need_type("text/event-stream")
        try:
            text = self.body.decode()
        except UnicodeDecodeError as error:
            raise Wrong(f"byte {error.start} of the stream is not UTF-8") from error
        found: list[str] = []
        data: list[str] = []
        *lines, rest = re.split(r"\r\n|\n|\r", text)
        for line in [*lines, rest] if rest else lines:
            if line.startswith("data:"):
                data.append(line.removeprefix("data:").removeprefix(" "))
            elif not line and data:
                found.append("\n".join(data))
                data = []
        need(not data, "the stream ends inside an event")
        return found

    @property
    def shown(self) -> str:
        """The body's beginning, for a message."""
        words = " ".join(self.body[:400].decode(errors="replace").split())
        return words[:120] or "nothing"

    def _need_type(self, wanted: str) -> None:
        found = self.headers.get("content-type", "none")
        right = found.split(";")[0].strip().lower() == wanted
        need(right, f"{self.status} with the Content-Type {found}, not {wanted}")


def parse(text: str | bytes) -> Any:
    """Return the JSON that a text is.

    Raises:
        ValueError: It is none; NaN and Infinity, which browsers refuse, are none.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True, kw_only=True)
class Client:
    """Where a server is, and how it is spoken to.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Name or address.
        port: None for the scheme's own.
        prefix: What its paths begin with, without the ``/v1`` and without a slash at the end.
        token: Sent as a bearer token; None for none.
        timeout_seconds: How long one answer may take.
    """

    scheme: str
    host: str
    port: int | None
    prefix: str
    token: str | None
    timeout_seconds: float

    @staticmethod
    def at(url: str, *, token: str | None = None, timeout_seconds: float = 120.0) -> "Client":
        """Return a client for an address, with or without the ``/v1`` that clients are given.

        Raises:
            UsageError: It is no address of a server, or the token cannot be sent.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url}: no address ({error}); {_EXAMPLE}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url}: not the address of a server; {_EXAMPLE}")
        if parts.username is not None or parts.query or parts.fragment:
            raise UsageError(f"{url}: only a host, a port and a path are understood; {_EXAMPLE}")
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise UsageError("--token: a token is of printable ASCII characters, without spaces")
        return Client(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port,
            prefix=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"),
            token=token,
            timeout_seconds=timeout_seconds,
        )

    def reach(self) -> None:
        """Connect once.

        Raises:
            NetworkError: Nobody is there.
        """
        connection = self._connection()
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:  # a name that no DNS could hold is the latter
            reason = getattr(error, "strerror", None) or error
            raise NetworkError(
                f"{self.scheme}://{connection.host}:{connection.port}: no connection ({reason}); "
                "is the server running there?"
            ) from error
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for a path, such as ``/v1/models``.

        Raises:
            Wrong: No whole answer came in time.
        """
        return self._ask("GET", path, None, headers or {})

    def post(self, path: str, body: Mapping[str, Any] | bytes) -> Reply:
        """Send JSON, or bytes that should be JSON.

        Raises:
            Wrong: No whole answer came in time.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", path, data, {"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        token = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        connection = self._connection()
        try:
            try:
                every = {"Connection": "close", **token, **headers}
                connection.request(method, self.prefix + path, body, every)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all of it was read; the answer may be there
            # The connection lets go of a response that ends with it.
            with connection.getresponse() as response:
                return Reply(
                    status=response.status,
                    headers={name.lower(): value for name, value in response.getheaders()},
                    body=self._read(response),
                )
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, HTTPException) as error:
            said = " ".join(str(error).split())[:120]
            raise Wrong(f"no whole answer ({type(error).__name__}: {said})") from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        return kind(self.host, self.port, timeout=self.timeout_seconds)

    def _read(self, response: HTTPResponse) -> bytes:
        """Read a body; the deadline is for a server that never stops sending a little."""
        deadline = time.monotonic() + self.timeout_seconds
        body = b""
        while piece := response.read1(_PIECE_BYTES):
            body += piece
            need(len(body) <= MAX_REPLY_BYTES, f"an answer of over {MAX_REPLY_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise self._late()
        need(not response.length, f"the answer breaks off {response.length} bytes before its end")
        return body

    def _late(self) -> Wrong:
        return Wrong(f"no whole answer within {self.timeout_seconds:g} s")
