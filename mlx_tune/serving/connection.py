"""One client's connection: uvicorn's, with every wait bounded and every refusal in JSON.

uvicorn bounds neither a header that does not end, nor a body, nor an answer that nobody reads, and
it says what it refuses in plain text. What is used of its insides is pinned by a test.

Source:
    RFC 9112 (HTTP/1.1), 9.3.2 and 9.5; CVE-2007-6750 (the slow header attack).
"""

import asyncio
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, cast

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mlx_tune.serving.refusal import Refusal

# h11 bounds what it waits for, not what comes at once; so it is fed in pieces of this size.
PIECE_BYTES = 4096
PIPELINED_BYTES = 65536

BUSY = Refusal(
    status=503,
    code="too_many_connections",
    message="the server has as many connections as it takes; try again in a second",
    fields=((b"retry-after", b"1"), (b"connection", b"close")),
)
TOO_SLOW = Refusal(
    status=408, code="too_slow", message="the request did not arrive in time; send it again"
)
_MALFORMED = {
    431: ("headers_too_large", "the header fields are larger than this server reads"),
    501: ("not_implemented", "this transfer coding is not known here; send Content-Length"),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long and how much a client may take.

    Attributes:
        connections: Open at once. One more takes the place of the oldest that waits for its
            client; where all are being answered, it is told to come back.
        header_bytes: The request line and the header fields.
        patience_seconds: For the header, and for any other wait on the client to begin to move.
        bytes_per_second: A body being sent and an answer being read get a second more for each.
        idle_seconds: A connection without a request is kept so long.
        grace_seconds: From the signal until what still runs is cut off.
    """

    connections: int = 128
    header_bytes: int = 16384
    patience_seconds: float = 10
    bytes_per_second: int = 8192
    idle_seconds: int = 15
    grace_seconds: float = 1


class LimitedConfig(Config):
    """uvicorn's settings, and the limits, which reach a connection through it."""

    def __init__(self, app: Any, limits: Limits, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.limits = limits


class Connection(H11Protocol):
    """A connection that looks at itself every so often, and ends what takes too long."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        self.opened = self.loop.time()
        self.ended = False
        self._received_bytes = 0
        self._wait: tuple[object, ...] = ("",)
        self._since = self.opened
        self._from_bytes = 0
        self._look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the client in, and see that there is room."""
        super().connection_made(transport)
        self._make_room()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking: the client has gone."""
        super().connection_lost(exc)
        self.ended = True
        if self._look_again:
            self._look_again.cancel()

    def data_received(self, data: bytes) -> None:
        """Read what came, in pieces."""
        self._received_bytes += len(data)
        for start in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + PIECE_BYTES])
        # With a second request waiting uvicorn stops reading, and would not see the client leave.
        waits = self.conn.their_state is h11.DONE and not self.transport.is_closing()
        if waits and len(self.conn.trailing_data[0]) < PIPELINED_BYTES:
            self.flow.resume_reading()

    def resume_writing(self) -> None:
        """Begin the next wait for the reader anew."""
        super().resume_writing()
        self._wait = ("",)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; h11's error is the one being handled."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        code, said = _MALFORMED.get(status, ("bad_request", f"this is no HTTP request: {error}"))
        status = status if status in _MALFORMED else 400
        self.refuse(Refusal(status=status, code=code, message=said[:200]))

    def refuse(self, refusal: Refusal) -> None:
        """Reply and close, past h11, which takes no reply to what it could not read."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(refusal.as_http())
        self.transport.close()

    def abort(self) -> None:
        """End it at once, whatever was still to be sent."""
        self.ended = True
        if self.transport.get_write_buffer_size():
            # Else the system would go on trying to deliver what it had taken already.
            connected = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def is_spare(self) -> bool:
        """Return whether it waits for its client alone, so that no work is lost with it."""
        return self.conn.their_state is h11.IDLE or self._waiting_for() != ""

    def _make_room(self) -> None:
        others = [
            other
            for other in cast("set[Connection]", self.connections)
            if not other.ended and other is not self
        ]
        if len(others) < self.limits.connections:
            return
        if spare := [other for other in others if other.is_spare()]:
            min(spare, key=lambda other: other.opened).abort()
        else:
            self.app = _busy

    def _waiting_for(self) -> str:
        """Return what the client is to do next, as far as time is limited; "" else."""
        if self.transport.is_closing() or self.flow.write_paused:
            return "reading"
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return "header"
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return "rest" if self.cycle.response_complete else "body"
        return ""

    def _look(self) -> None:
        wait = (self._waiting_for(), self.transport.is_closing(), self.cycle)
        if wait != self._wait:
            self._wait, self._since = wait, self.loop.time()
            self._from_bytes = self._moved_bytes()
        elif wait[0] and self.loop.time() - self._since >= self._allowed_seconds():
            self._give_up()
        if not self.ended:
            pause = min(1.0, self.limits.patience_seconds / 4)
            self._look_again = self.loop.call_later(pause, self._look)

    def _moved_bytes(self) -> int:
        """Return a count that grows while the client does what is waited for."""
        if self._wait[0] == "reading":
            return -self.transport.get_write_buffer_size()
        return self._received_bytes if self._wait[0] == "body" else 0

    def _allowed_seconds(self) -> float:
        moved = self._moved_bytes() - self._from_bytes
        return self.limits.patience_seconds + moved / self.limits.bytes_per_second

    def _give_up(self) -> None:
        if self._wait[0] in ("reading", "rest"):
            self.abort()
        elif self._wait[0] == "header" and not self.conn.trailing_data[0]:
            self.transport.close()  # it never asked anything
        else:
            self.refuse(TOO_SLOW)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await BUSY.answer(send)
