"""A client's connection, over real sockets: no HTTP, too large, too slow, too many."""

import asyncio
import inspect
import re
import socket
import time
from collections.abc import Callable

import h11
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from helpers.raw_http import (
    connect,
    eventually,
    exchange,
    parse_reply,
    receive_all,
    request,
    run_server,
)
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy

SHORT = 0.4
"""Seconds of patience, where it is ten by default."""

LONG = 5
"""Seconds within which patience of that kind has ended, on a busy machine too."""

LARGE = 50_000_000
"""Bytes, more than the system's buffers hold."""


async def hello(request):
    return PlainTextResponse("hello")


async def large(request):
    return Response(b"x" * LARGE)


async def flood(request):
    async def pieces():
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)  # else nothing else runs, not even the news that nobody listens

    return StreamingResponse(pieces())


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def later(request):
    await asyncio.sleep(SHORT * 3)
    return await echo(request)


async def endless(request):
    async def tokens():
        while True:
            yield b"token\n"
            await asyncio.sleep(0.02)

    return StreamingResponse(tokens())


async def thinking(request):
    while not await request.is_disconnected():
        await request.receive()
    return Response()


APP = Starlette(
    routes=[
        Route("/", hello),
        Route("/thinking", thinking),
        Route("/large", large),
        Route("/flood", flood),
        Route("/endless", endless),
        Route("/echo", echo, methods=["POST"]),
        Route("/later", later, methods=["POST"]),
    ]
)


@pytest.fixture(scope="module")
def port():
    with run_server(AccessMiddleware(APP, AccessPolicy(token="s3cret"))) as server:
        yield server.port


@pytest.fixture
def hasty():
    with run_server(APP, patience_seconds=SHORT) as server:
        yield server


def test_what_is_used_of_uvicorn_is_still_there():
    """An upgrade that changes this needs another look at transport.py."""
    assert uvicorn.__version__.startswith("0.54.")
    assert h11.__version__.startswith("0.16.")
    inside = inspect.getsource(H11Protocol)
    called = inspect.getsource(H11Protocol.handle_events)
    assert re.search(r"except h11\.RemoteProtocolError:[^#]*self\.send_400_response\(msg\)", called)
    assert "app = self.app\n" in called
    for used in ("self.timeout_keep_alive_task", "self.flow", "self.cycle", "self.connections"):
        assert f"{used}: " in inside or f"{used} = " in inside
    for used in ("disconnected", "message_event", "response_complete"):
        assert f"self.{used} = " in inspect.getsource(RequestResponseCycle)
    for used in ("read_paused", "write_paused"):
        assert f"self.{used} = " in inspect.getsource(FlowControl)
    serve = inspect.getsource(uvicorn.Server._serve) + inspect.getsource(uvicorn.Server.serve)
    for used in ("startup(sockets=sockets)", "shutdown(sockets=sockets)", "capture_signals()"):
        assert f"self.{used}" in serve


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: \x00\r\n\r\n",
        b"GET / /  HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        request("POST", "/echo", content_length="-1"),
        request("POST", "/echo", content_length="1e3"),
        request("POST", "/echo", content_length="1, 2"),
        request("HEAD", "/", content_length="x"),
        request("POST", "/echo", b"zz\r\n", transfer_encoding="chunked",
                content_type="application/json"),
    ],
    ids=lambda garbage: repr(garbage[:24]),
)  # fmt: skip
def test_bytes_that_are_no_http_are_refused_in_json(port, garbage):
    reply = exchange(port, garbage)

    assert reply.status == 400
    assert reply.error["code"] == "bad_request"
    assert reply.error["message"].startswith("this is no HTTP request: ")
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_an_unknown_transfer_coding_is_refused(port):
    assert exchange(port, request("POST", "/echo", transfer_encoding="gzip")).status == 501


@pytest.mark.parametrize(("fields", "status"), [
    ({"content_length": "2000000", "content_type": "application/json"}, 413),
    ({"content_type": "application/json"}, 411),
    ({"content_length": "2", "content_type": "text/plain"}, 415),
    ({"content_length": "2", "content_type": "application/json", "host": "evil.example"}, 403),
    ({"content_length": "2", "content_type": "application/json", "origin": "null"}, 403),
])  # fmt: skip
def test_rows_30_and_31_are_answered_at_once_though_no_body_came(port, fields, status):
    before = time.monotonic()

    assert exchange(port, request("POST", "/echo", **fields)).status == status
    assert time.monotonic() - before < 1


def test_a_body_over_the_limit_is_answered_while_it_is_still_being_sent(port):
    head = request("POST", "/echo", connection="keep-alive", content_type="application/json",
                   transfer_encoding="chunked")  # fmt: skip
    with connect(port, head) as client:
        for _ in range(40):  # ten mebibytes
            client.sendall(b"40000\r\n" + b" " * 0x40000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        reply = parse_reply(receive_all(client, b"}}"))
        client.sendall(request("GET", "/"))
        assert reply.error["code"] == "body_too_large"
        assert parse_reply(receive_all(client)).body == b"hello", "the connection is still of use"


@pytest.mark.parametrize("pieces", [1, 50])
def test_headers_over_the_limit_are_refused_at_once_or_bit_by_bit(port, pieces):
    sent = request(**{f"x{i}": "a" * 100 for i in range(300)})
    with connect(port) as client:
        try:
            for start in range(0, len(sent), len(sent) // pieces):
                client.sendall(sent[start : start + len(sent) // pieces])
                time.sleep(0.001)
        except (BrokenPipeError, ConnectionResetError):
            assert pieces > 1
        reply = parse_reply(receive_all(client))

    assert reply.status == 431
    assert reply.error["code"] == "headers_too_large"


def test_small_replies_are_sent_at_once(hasty):
    with connect(hasty.port, request(connection="keep-alive")) as client:
        receive_all(client, b"hello")
        (connection,) = hasty.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_headers_within_the_limit_are_read(port):
    assert exchange(port, request(**{f"x{i}": "a" * 100 for i in range(120)})).body == b"hello"


def test_an_upgrade_to_a_websocket_is_answered_as_if_it_had_not_been_asked_for(port, caplog):
    asks = request(connection="upgrade", upgrade="websocket", sec_websocket_version="13")
    with connect(port, asks) as client:
        assert b"hello" in receive_all(client, b"hello")
    assert not caplog.records


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_header_that_does_not_end_is_cut_off(hasty, said):
    before = time.monotonic()
    with connect(hasty.port, said) as client:
        reply = receive_all(client)

    assert SHORT <= time.monotonic() - before < LONG
    assert (parse_reply(reply).error["code"] == "too_slow") if said else (reply == b"")


def cut_off(send: Callable[[], None], *, every: float) -> bool:
    """Whether the server closes before long while a client goes on sending."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            send()
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(every)
    return False


def test_a_header_that_trickles_in_is_cut_off_all_the_same(hasty):
    with connect(hasty.port, b"GET / HTTP/1.1\r\n") as client:
        assert cut_off(lambda: client.sendall(b"x: y\r\n"), every=SHORT / 5)


def test_the_second_header_of_a_connection_has_its_own_time(hasty):
    with connect(hasty.port, request(connection="keep-alive")) as client:
        receive_all(client, b"hello")
        time.sleep(SHORT * 2)
        client.sendall(b"GET / HTTP/1.1\r\n")
        before = time.monotonic()
        assert b"too_slow" in receive_all(client)
        assert SHORT <= time.monotonic() - before < LONG


def test_every_request_of_a_connection_has_its_own_time(hasty):
    with connect(hasty.port) as client:
        for _ in range(4):
            client.sendall(b"GET / HT")
            time.sleep(SHORT * 0.6)
            client.sendall(b"TP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"hello" in receive_all(client, b"hello")


@pytest.mark.parametrize("trickle", [b"", b" "])
def test_a_body_that_does_not_end_is_cut_off(hasty, trickle):
    before = time.monotonic()
    with connect(hasty.port, request("POST", "/echo", b"{", content_length="9999")) as client:
        client.setblocking(False)
        said = b""
        while time.monotonic() - before < LONG and not said.endswith(b"}}"):
            try:
                client.sendall(trickle)
                time.sleep(SHORT / 10)
                said += client.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                break

    assert parse_reply(said).error["code"] == "too_slow"
    assert SHORT <= time.monotonic() - before < LONG


def test_a_body_that_keeps_coming_has_the_time_it_needs(hasty):
    head = request("POST", "/echo", content_length="80000")
    with connect(hasty.port, head) as client:
        for _ in range(16):
            client.sendall(b" " * 5000)
            time.sleep(SHORT / 4)
        assert parse_reply(receive_all(client)).body == b"80000"


def test_a_body_that_nobody_takes_yet_is_not_the_clients_delay(hasty):
    body = b" " * 300_000
    with connect(hasty.port, request("POST", "/later", body, content_length="300000")) as client:
        assert parse_reply(receive_all(client)).body == b"300000"


def test_the_rest_of_a_refused_body_is_not_read_for_ever():
    async def refuse(scope, receive, send):
        if scope["type"] == "lifespan":
            await Starlette()(scope, receive, send)
        else:
            await Response(b"no", 413)(scope, receive, send)

    head = request("POST", "/", content_length="99999999999", connection="keep-alive")
    with run_server(refuse, patience_seconds=SHORT) as server, connect(server.port, head) as client:
        assert cut_off(lambda: client.sendall(b" " * 10_000), every=0.01)


def test_an_idle_connection_is_closed_in_its_own_time():
    asks = request(connection="keep-alive")
    brief = {"idle_seconds": 1, "patience_seconds": SHORT}
    with run_server(APP, **brief) as server, connect(server.port, asks) as client:
        before = time.monotonic()
        receive_all(client)

    assert 0.9 < time.monotonic() - before < LONG


def slow_reader(port: int, path: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", port))
    client.sendall(request(path=path))
    return client


@pytest.mark.parametrize("path", ["/large", "/flood"])
def test_an_answer_that_nobody_reads_is_cut_off(hasty, path):
    with slow_reader(hasty.port, path) as client:
        assert eventually(lambda: hasty.server.server_state.connections)
        assert eventually(lambda: not hasty.server.server_state.connections)
        assert eventually(lambda: not hasty.server.server_state.tasks)
        assert cut_off(lambda: client.recv(65536), every=0), "the system's buffers are freed too"


@pytest.mark.parametrize("path", ["/large", "/flood"])
def test_an_answer_that_is_read_slowly_but_read_arrives_whole(hasty, path):
    total = 0
    with connect(hasty.port, request(path=path)) as client:
        while (piece := client.recv(1_000_000)) and total < LARGE:
            total += len(piece)
            time.sleep(SHORT / 20)

    assert total > LARGE


@pytest.mark.parametrize("second", [b"", request()])
def test_a_client_that_disconnects_is_noticed_even_after_a_second_request(hasty, second):
    asks = request(path="/thinking", connection="keep-alive")
    with connect(hasty.port, asks) as client:
        assert eventually(lambda: hasty.server.server_state.tasks)
        time.sleep(0.1)
        client.sendall(second)
        time.sleep(0.1)
    assert eventually(lambda: not hasty.server.server_state.tasks, 1)


def test_a_second_request_is_answered_after_the_first(port):
    with connect(port, request(connection="keep-alive") + request()) as client:
        assert receive_all(client).count(b"hello") == 2


def test_one_connection_too_many_takes_the_place_of_one_that_asks_nothing():
    with run_server(APP, connections=3) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(3)]
        assert eventually(lambda: len(server.server.server_state.connections) == 3)
        assert exchange(server.port, request()).body == b"hello"
        assert receive_all(idle[0]) == b"", "the one that waited longest"
        idle[2].sendall(request())
        assert parse_reply(receive_all(idle[2])).body == b"hello"
        for client in idle:
            client.close()


def test_one_connection_too_many_takes_the_place_of_one_that_does_not_read():
    with run_server(APP, connections=2) as server:
        first, second = (slow_reader(server.port, "/flood") for _ in range(2))
        with first, second:
            connections = server.server.server_state.connections
            assert eventually(
                lambda: [each.flow.write_paused for each in connections] == [True] * 2
            )
            assert exchange(server.port, request()).body == b"hello"


def test_where_all_are_being_answered_one_more_is_told_to_come_back():
    with run_server(APP, connections=2, grace_seconds=0.1) as server:
        first, second = (socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(2))
        with first, second:
            for client in (first, second):
                client.sendall(request(path="/endless"))
                receive_all(client, b"token")
            reply = exchange(server.port, request())
            assert reply.status == 503
            assert reply.error["code"] == "too_many_connections"
            assert reply.headers["retry-after"] == "1"
            receive_all(first, b"token")


def test_a_hundred_connections_are_given_back(hasty):
    clients = [socket.create_connection(("127.0.0.1", hasty.port), 5) for _ in range(100)]
    for client in clients[::2]:
        client.sendall(request(path="/endless"))
    assert eventually(lambda: len(hasty.server.server_state.tasks) == 50)
    for client in clients:
        client.close()

    assert eventually(lambda: not hasty.server.server_state.connections, 2)
    assert eventually(lambda: not hasty.server.server_state.tasks, 2)
