"""Where the server listens, and how it ends."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
from starlette.applications import Starlette

from helpers.raw_http import connect, exchange, receive_all, request, run_server
from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.serving import transport
from mlx_tune.serving.transport import Limits, listen, serve

LONG = 5
"""Seconds within which a server has ended, on a busy machine too; alone it takes less than two."""

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


class Process:
    """A server in a process of its own."""

    def __init__(self, popen):
        self.popen = popen
        self.port = int(popen.stdout.readline())

    def ended(self, *numbers):
        """Its exit code, what it still printed, what it complained of, and the seconds it took."""
        before = time.monotonic()
        for number in numbers:
            self.popen.send_signal(number)
            time.sleep(0.3 if len(numbers) > 1 else 0)
        out, err = self.popen.communicate(timeout=10)
        return self.popen.returncode, out.split(), err, time.monotonic() - before


@contextmanager
def process(how="listens", *, grace_seconds=1.0):
    popen = subprocess.Popen(
        [sys.executable, "-m", "helpers.stopped_server", how, str(grace_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        yield Process(popen)
    finally:
        popen.kill()
        popen.communicate()


@BOTH
def test_a_signal_ends_streams_with_a_last_event_and_the_process_with_0(number):
    asks = request(path="/stream")
    with process(grace_seconds=60) as server, connect(server.port, asks) as client:
        with connect(server.port):
            receive_all(client, b"token")
            code, out, err, seconds = server.ended(number)

        assert (code, out, err) == (0, ["stopping", "returned"], "")
        assert seconds < LONG, "nobody is waited for who asks nothing"
        assert receive_all(client).endswith(b"data: error\n\n\r\n0\r\n\r\n")


def test_event_streams_end_with_a_last_event_too():
    pytest.importorskip("sse_starlette")
    asks = request(path="/stream")
    with process("sse", grace_seconds=60) as server, connect(server.port, asks) as client:
        receive_all(client, b"token")
        code, out, err, seconds = server.ended(signal.SIGTERM)

        assert (code, out, err) == (0, ["stopping", "returned"], "")
        assert seconds < LONG
        assert b"data: error" in receive_all(client)


HANGING = {
    "goes on": request(path="/stream"),
    "reads nothing": request(path="/large"),
    "half a header": b"GET / HTTP/1.1\r\n",
    "half a body": request(
        "POST", "/echo", b"{", content_length="100", content_type="application/json"
    ),
    "idle": b"",
}


def test_what_does_not_end_is_cut_off_without_a_traceback():
    with process("deaf") as server, ExitStack() as clients:
        for sent in HANGING.values():
            clients.enter_context(connect(server.port, sent))
        time.sleep(0.3)
        code, out, err, seconds = server.ended(signal.SIGTERM)

    assert (code, out, err) == (0, ["stopping", "returned"], "")
    assert 1 <= seconds < LONG


def test_nobody_is_let_in_any_more_while_the_last_are_waited_for():
    with process("deaf") as server, connect(server.port, request(path="/stream")) as client:
        receive_all(client, b"token")
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.stdout.readline() == "stopping\n"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 5)
        assert receive_all(client, b"token").endswith(b"token\n\n\r\n")


def test_a_second_signal_waits_for_nobody():
    asks = request(path="/stream")
    with process("deaf", grace_seconds=60) as server, connect(server.port, asks) as client:
        receive_all(client, b"token")
        code, out, err, seconds = server.ended(signal.SIGTERM, signal.SIGINT)

    assert (code, out, err) == (0, ["stopping", "returned"], "")
    assert seconds < LONG


def test_of_two_seconds_half_a_one_is_left_to_the_process():
    assert Limits().grace_seconds + 2 * transport.LAST_SECONDS <= 1.5


def test_a_fault_in_what_is_called_at_the_end_is_printed_and_the_end_comes_all_the_same():
    with process("faulty") as server:
        code, out, err, _ = server.ended(signal.SIGTERM)

    assert (code, out) == (0, ["stopping", "returned"])
    assert err.endswith("RuntimeError: on_stop is broken\n")


def test_the_signals_are_handled_as_before_afterwards():
    handlers = [signal.getsignal(number) for number in transport.SIGNALS]
    ports = []

    def started(host, port):
        ports.append((host, port))
        signal.raise_signal(signal.SIGTERM)

    serve(Starlette(), host="localhost", port=0, started=started, on_stop=lambda: None)

    assert [signal.getsignal(number) for number in transport.SIGNALS] == handlers
    assert ports[0][0] in ("127.0.0.1", "::1")
    assert ports[0][1] > 1023


def test_the_port_is_said_once_requests_are_answered():
    with run_server(Starlette()) as server:
        assert exchange(server.port, request()).status == 404


def test_an_application_that_does_not_start_is_an_error(caplog):
    @asynccontextmanager
    async def broken(app):
        raise RuntimeError("no model")
        yield

    said = []
    with pytest.raises(MlxTuneError, match="the server did not start"):
        serve(
            Starlette(lifespan=broken),
            host="127.0.0.1",
            port=0,
            started=lambda *where: said.append(where),
            on_stop=lambda: None,
        )

    assert not said
    assert "no model" in caplog.text


def test_little_of_an_answer_waits_where_nobody_sees_whether_it_is_read():
    with listen("127.0.0.1", 0) as listener:
        taken = listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    assert taken in (transport.SEND_BUFFER_BYTES, 2 * transport.SEND_BUFFER_BYTES)  # Linux


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as error:
            listen("127.0.0.1", port)

    assert str(error.value) == (
        f"port {port} of 127.0.0.1 is in use; stop what uses it, or choose another: "
        f"--port {port + 1}"
    )


def test_a_port_that_needs_rights_is_one_line(monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UsageError) as error:
        listen("127.0.0.1", 80)

    assert str(error.value) == (
        "port 80 of 127.0.0.1 may not be used by this process; choose one above 1023: --port 8321"
    )


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_one_line(port):
    with pytest.raises(UsageError) as error:
        listen("127.0.0.1", port)

    assert str(error.value) == (
        f"--port {port} is not a port; choose one from 1 to 65535, or 0 for any"
    )


@pytest.mark.parametrize("host", ["198.51.100.1", "no-such-host.invalid", "a..b"])
def test_a_host_that_is_none_of_this_machine_is_one_line(host):
    with pytest.raises(UsageError, match=r"^cannot listen on port 0 of [^\n]*; --host takes an"):
        listen(host, 0)
