"""Servers on loopback for tests, and clients that speak to them byte by byte."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mlx_tune.serving.transport import Limits, StoppableServer, listen


@dataclass(frozen=True)
class Reply:
    """A reply, its header fields by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """What an OpenAI client would raise; everything a refusal must have is checked."""
        assert self.headers["content-type"] == "application/json"
        assert int(self.headers["content-length"]) == len(self.body)
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return error


@contextmanager
def run_server(
    app: Any, *, on_stop: Callable[[], None] = lambda: None, **limits: Any
) -> Iterator[SimpleNamespace]:
    """Run a server in a thread; gives its port, itself and its thread."""
    listener, ready = listen("127.0.0.1", 0), threading.Event()
    server = StoppableServer(
        app, started=lambda *_: ready.set(), on_stop=on_stop, limits=Limits(**limits)
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    assert ready.wait(5)
    port = listener.getsockname()[1]
    try:
        yield SimpleNamespace(port=port, server=server, thread=thread)
    finally:
        server.stop()
        thread.join(5)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def connect(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection to a server, with something said already."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(sent)
        yield client


def receive_all(client: socket.socket, until: bytes | None = None) -> bytes:
    """Everything the server says until it closes, or until it has said ``until``."""
    said = b""
    while until is None or until not in said:
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        said += piece
    return said


def exchange(port: int, sent: bytes) -> Reply:
    """The reply to these bytes from a server that closes the connection after it."""
    with connect(port, sent) as client:
        return parse_reply(receive_all(client))


def parse_reply(said: bytes) -> Reply:
    """The one reply in these bytes."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Reply(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body)


def request(method: str = "GET", path: str = "/", body: bytes = b"", **fields: str) -> bytes:
    """A request as bytes; ``host`` and ``connection: close`` unless fields say otherwise."""
    given = {"host": "localhost", "connection": "close", **fields}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def call_asgi(
    app: Any,
    method: str = "GET",
    path: str = "/",
    *,
    fields: Iterable[tuple[str, str]] = (("host", "localhost:8321"),),
    pieces: Iterable[bytes] = (),
) -> Reply:
    """The reply of an ASGI application, called here and now."""
    return asyncio.run(_asked(app, method, path, fields, list(pieces) or [b""]))


async def _asked(
    app: Any, method: str, path: str, fields: Iterable[tuple[str, str]], pieces: list[bytes]
) -> Reply:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "scheme": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields],
    }

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = [(name.decode(), value.decode()) for name, value in sent[0].get("headers", ())]
    names = [name for name, _ in headers]
    assert len(names) == len(set(names)), "a field is there twice"
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Reply(sent[0]["status"], dict(headers), body)


def eventually(true: Callable[[], Any], seconds: float = 5) -> bool:
    """Whether it becomes true before long."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(true())
