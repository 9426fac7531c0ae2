"""Listening: the socket, the signals, and an end within two seconds that leaves nobody hanging."""

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Server

from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.serving.connection import Connection, LimitedConfig, Limits

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SEND_BUFFER_BYTES = 65536

LAST_SECONDS = 0.2
"""For what was cut off to notice it, and for the application's own end, each at most."""


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
    try:
        StoppableServer(app, started=started, on_stop=on_stop, limits=limits).run([listener])
    except SystemExit as end:  # uvicorn's word for a lifespan that failed
        raise MlxTuneError("the server did not start; the lines above say why") from end
    finally:
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
    # Connections inherit it. Left alone it grows to megabytes, into which a whole answer fits, and
    # then nobody here sees that it is not being read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
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
    """uvicorn's server with an end of its own.

    uvicorn raises the signal once more when it is done, which kills the process with that signal,
    and it waits for streams without telling anybody that they are to end.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        started: Callable[[str, int], None],
        on_stop: Callable[[], None],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        super().__init__(_config(_uncancelled(app, self), self.limits))
        self._tell_started = started
        self._tell_stop = on_stop
        self.stopping = False
        self._asked_to_stop = math.inf  # seconds of the event loop's clock

    def stop(self) -> None:
        """Begin the end, as a signal does; from any thread."""
        self._asked_to_stop = min(self._asked_to_stop, time.monotonic())
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the two signals for as long as the server runs.

        The handler is no method of the server: sse-starlette looks for one, and would cut streams
        before they have said why they end.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit  # the second one waits for nobody
            self.stop()

        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        for listener in (sockets or [])[:1]:
            host, port = listener.getsockname()[:2]
            self._tell_started(host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, tell the application, wait a little, cut off the rest."""
        self.stop()
        self.stopping = True
        for server in self.servers:
            server.close()
        try:
            self._tell_stop()
        except Exception:
            logging.getLogger("uvicorn.error").exception("a fault while the server was ending")
        for connection in list(self.server_state.connections):
            with contextlib.suppress(h11.LocalProtocolError):
                connection.shutdown()
        await self._wait(self._asked_to_stop + self.limits.grace_seconds)
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.abort()
        await self._wait(time.monotonic() + LAST_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), LAST_SECONDS)

    async def _wait(self, end: float) -> None:
        """Wait until nobody is connected and nothing runs, or that moment has come."""
        state = self.server_state
        while (state.connections or state.tasks) and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)


def _config(app: ASGIApp, limits: Limits) -> LimitedConfig:
    return LimitedConfig(
        app,
        limits,
        loop="asyncio",
        ws="none",
        interface="asgi3",
        lifespan="on",
        workers=1,
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # who asks is not for the request to say
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,
        h11_max_incomplete_event_size=limits.header_bytes,
    )


def _uncancelled(app: ASGIApp, server: StoppableServer) -> ASGIApp:
    """Return ``app`` such that being cut off at the end is no fault with a traceback."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not server.stopping:
                raise

    return run
