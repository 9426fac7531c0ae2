"""Listening, connections whose every wait is bounded, and a stop within two seconds.

uvicorn bounds neither a header that does not end, nor a body, nor an answer that nobody reads; it
refuses in plain text, and it waits for streams without telling them to end. So its connection and
its server are extended here. A test pins what is used of their internals.

Source:
    RFC 9112 (HTTP/1.1), 9.3.2 and 9.5; CVE-2007-6750 (the slow header attack).
"""

import asyncio
import errno
import functools
import logging
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.serving.errors import ApiError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SEND_BUFFER_BYTES = 65536

LAST_SECONDS = 0.2
"""For cancelled work to end, and for the application's own end, each at most."""

# h11 bounds what it waits for, not what comes at once; so it is fed in pieces of this size.
PIECE_BYTES = 4096
PIPELINED_BYTES = 65536

BUSY = ApiError(
    status=503,
    code="too_many_connections",
    message="the server has as many connections as it takes; try again in a second",
    fields=((b"retry-after", b"1"), (b"connection", b"close")),
)
TOO_SLOW = ApiError(
    status=408, code="too_slow", message="the request did not arrive in time; send it again"
)
_MALFORMED = {
    431: (431, "headers_too_large", "the header fields are larger than this server reads"),
    501: (501, "not_implemented", "this transfer coding is not known here; send Content-Length"),
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


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    started: Callable[[str, int], None],
    on_stop: Callable[[], None],
    limits: Limits | None = None,
) -> None:
    """Serve ``app`` until SIGINT or SIGTERM, then return, at most two seconds later.

    Signals reach the main thread alone, so this is to be called there.

    Args:
        app: An ASGI application that speaks the lifespan protocol, as Starlette's do.
        host: Address or name to listen on.
        port: TCP port; 0 takes any free one.
        started: Called with the address and the port once requests are answered.
        on_stop: Called on the event loop when a signal came, before anything is cut off; the
            application ends its streams then, and has ``limits.grace_seconds`` for it.
        limits: What clients may take.

    Raises:
        UsageError: Nothing can listen there.
        MlxTuneError: The application failed to start.
    """
    listener = listen(host, port)
    server = StoppableServer(app, started=started, on_stop=on_stop, limits=limits)
    # Not the server's own methods: sse-starlette looks for one among the handlers, and would cut
    # streams before they have said why they end.
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in SIGNALS}
    try:
        server.run([listener])
    except SystemExit as end:  # what uvicorn raises when the lifespan fails
        raise MlxTuneError("the server did not start; the lines above say why") from end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``.

    Raises:
        UsageError: The port is taken, needs rights, or the address is none of this machine's.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port; choose one from 1 to 65535, or 0 for any")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:  # the second for a name no name server is asked for
        raise UsageError(_why_not(host, port, error)) from error
    # Connections inherit both. Left alone the buffer grows to megabytes, into which a whole answer
    # fits, and then nobody here sees that it is not being read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    # asyncio sets this only where the socket's protocol number is given, and create_server gives 0.
    # Without it a reply of two writes waits for the client's delayed acknowledgement, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _why_not(host: str, port: int, error: OSError | UnicodeError) -> str:
    place, number = f"port {port} of {host}", getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        following = min(port + 1, 65535)
        return f"{place} is in use; stop what uses it, or choose another: --port {following}"
    if number in (errno.EACCES, errno.EPERM):
        return f"{place} may not be used by this process; choose one above 1023: --port 8321"
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return f"cannot listen on {place} ({reason}); --host takes an address of this machine"


class StoppableServer(Server):
    """uvicorn's server, with signals left to :func:`serve` and a stop of its own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        started: Callable[[str, int], None],
        on_stop: Callable[[], None],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        super().__init__(
            Config(
                self._answer,
                http=functools.partial(Connection, self.limits),  # type: ignore[arg-type]
                loop="asyncio",
                ws="none",
                interface="asgi3",
                lifespan="on",
                workers=1,
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,  # a request does not decide who is taken for its sender
                server_header=False,
                timeout_keep_alive=self.limits.idle_seconds,
                h11_max_incomplete_event_size=self.limits.header_bytes,
            )
        )
        self._app, self._started, self._on_stop = app, started, on_stop
        self._grace_ends = 0.0  # seconds of the event loop's clock, once it is to stop

    def stop(self) -> None:
        """Begin to stop, from any thread or a signal's handler; a second call waits for nobody."""
        if self.should_exit:
            self.force_exit = True
        else:
            self._grace_ends = time.monotonic() + self.limits.grace_seconds
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: uvicorn would raise the signal once more at the end, and die of it."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        self._started(*self.servers[0].sockets[0].getsockname()[:2])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, tell the application, wait a little, cut off the rest."""
        for server in self.servers:
            server.close()
        try:
            self._on_stop()
        except Exception:
            logging.getLogger("uvicorn.error").exception("a fault while the server was ending")
        connections = cast("set[Connection]", self.server_state.connections)
        for connection in list(connections):
            with suppress(h11.LocalProtocolError):
                connection.shutdown()
        await self._wait(self._grace_ends)
        for connection in list(connections):
            connection.abort()
        await self._wait(time.monotonic() + LAST_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), LAST_SECONDS)

    async def _wait(self, end: float) -> None:
        """Wait until nobody is connected and nothing runs, or that moment has come."""
        state = self.server_state
        while (state.connections or state.tasks) and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:  # at the end that is no fault, with a traceback
            if not self.should_exit:
                raise


class Connection(H11Protocol):
    """uvicorn's connection; it looks at itself every so often, and ends what takes too long."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self.limits = limits
        self.opened = self.loop.time()
        self._received_bytes = 0
        # What the client is waited for, since when, and how far it was then.
        self._wait: tuple[object, ...] = ("",)
        self._since, self._from_bytes = self.opened, 0
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the client in, and see that there is room."""
        super().connection_made(transport)
        others = cast("set[Connection]", self.connections) - {self}
        if len(others) >= self.limits.connections:
            if spare := [other for other in others if other.is_spare()]:
                min(spare, key=lambda other: other.opened).abort()
            else:
                self.app = lambda scope, receive, send: BUSY.answer(send)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking: the client has gone."""
        super().connection_lost(exc)
        if self._next_look:
            self._next_look.cancel()

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
        other = (400, "bad_request", f"this is no HTTP request: {error}"[:200])
        status, code, why = _MALFORMED.get(getattr(error, "error_status_hint", 400), other)
        self.refuse(ApiError(status=status, code=code, message=why))

    def refuse(self, refusal: ApiError) -> None:
        """Reply and close, past h11, which takes no reply to what it could not read."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(refusal.as_http())
        self.transport.close()

    def abort(self) -> None:
        """End it at once, whatever was still to be sent."""
        self.connections.discard(self)
        if self.transport.get_write_buffer_size():
            # Else the system would go on trying to deliver what it had taken already.
            connected = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def is_spare(self) -> bool:
        """Return whether it waits for its client alone, so that no work is lost with it."""
        return self.conn.their_state is h11.IDLE or self._waiting_for() != ""

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
        now, wait = self.loop.time(), (self._waiting_for(), self.transport.is_closing(), self.cycle)
        # Grows while the client does what is waited for.
        unsent = self.transport.get_write_buffer_size()
        position = {"reading": -unsent, "body": self._received_bytes}.get(wait[0], 0)
        more = (position - self._from_bytes) / self.limits.bytes_per_second
        if wait != self._wait:
            self._wait, self._since, self._from_bytes = wait, now, position
        elif wait[0] and now - self._since >= self.limits.patience_seconds + more:
            self._give_up(wait[0])
        pause = min(1.0, self.limits.patience_seconds / 4)
        self._next_look = self.loop.call_later(pause, self._look)

    def _give_up(self, wait: str) -> None:
        if wait in ("reading", "rest"):
            self.abort()
        elif wait == "header" and not self.conn.trailing_data[0]:
            self.transport.close()  # it never asked anything
        else:
            self.refuse(TOO_SLOW)
