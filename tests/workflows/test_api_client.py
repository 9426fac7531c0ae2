"""The checks' client, and the shapes they read, against answers that no server should give."""

import socket
import sys
import threading
from contextlib import contextmanager

import httpx2
import pytest

from helpers.fake_api import running
from mlx_tune.errors import NetworkError, UsageError
from mlx_tune.workflows import api_client as module
from mlx_tune.workflows.api_client import (
    CheckFailed,
    Server,
    connect,
    get_path,
    read_chunks,
    read_events,
    read_json,
)
from mlx_tune.workflows.check_server import check_refusal, check_usage

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WAIT = None


@contextmanager
def saying(*pieces, listens=True, timeout=20.0):
    """A server that sends some bytes whatever it is asked, as the checks see it."""
    done = threading.Event()

    def answer():
        connection, _ = listener.accept()
        with connection:
            if listens:
                connection.recv(65536)
            for piece in pieces:
                done.wait() if piece is WAIT else connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with connect(address, timeout_seconds=timeout) as client:
                yield Server(client, "head")
        finally:
            done.set()
            thread.join()


def reply(body: bytes, kind: str = "application/json", status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, headers={"Content-Type": kind}, content=body)


def stream(text: str) -> httpx2.Response:
    return reply(text.encode(), "text/event-stream; charset=utf-8")


def failure(call, *arguments, **named) -> str:
    with pytest.raises(CheckFailed) as error:
        call(*arguments, **named)
    return str(error.value)


def test_a_whole_answer_is_read():
    with saying(OK + b"Content-Length: 8\r\n\r\n", b'{"a"', b":1} and more") as server:
        assert read_json(server.list_models()) == {"a": 1}


def test_an_answer_in_chunks_is_read():
    sent = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b'4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n'
    with saying(sent) as server:
        assert read_json(server.list_models()) == {"a": 1}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "Server disconnected without sending a response."),
        (
            b"220 mail.example ESMTP\r\n\r\n",
            "illegal status line: bytearray(b'220 mail.example ESMTP')",
        ),
        (OK + b"Content-Length: 8\r\n\r\n{", "(received 1 bytes, expected 8)"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\n{", "(incomplete chunked read)"),
    ],
)
def test_an_answer_that_breaks_off_is_told(sent, reason):
    with saying(sent) as server:
        message = failure(server.list_models)
    assert message.startswith("no whole answer (RemoteProtocolError: ")
    assert message.endswith(f"{reason})")


def test_a_server_that_says_nothing_is_left_in_time():
    with saying(WAIT, timeout=0.2) as server:
        assert failure(server.list_models) == "no whole answer within 0.2 s"


class Trickle(httpx2.SyncByteStream):
    def __iter__(self):
        while True:
            yield b"a little more, "


def test_a_server_that_trickles_for_ever_is_left_in_time(monkeypatch):
    body = httpx2.Response(200, stream=Trickle())
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", lambda *_: body)
    clock = iter([0.0, 10.0, 19.0, 21.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with connect("http://127.0.0.1", timeout_seconds=20) as client:
        assert failure(Server(client, "head").list_models) == "no whole answer within 20 s"


def test_no_more_is_read_than_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 8)
    with saying(OK + b"\r\n" + b"x" * 9) as server:
        assert failure(server.list_models) == "an answer of over 8 bytes"


@pytest.mark.skipif(sys.platform != "linux", reason="others may drop what came before a reset")
def test_an_answer_that_comes_before_the_body_was_read_is_heard():
    sent = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}"
    with saying(sent, listens=False) as server:
        assert server.post_chat(b"x" * 32 * 1024**2).status_code == 413


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("http://127.0.0.1:8321", ""),
        ("http://127.0.0.1:8321/", ""),
        ("http://127.0.0.1:8321/v1", ""),
        ("http://127.0.0.1:8321/v1/", ""),
        ("https://example.com/models/v1", "/models"),
        ("https://example.com/v1/openai", "/v1/openai"),
    ],
)
def test_an_address_may_have_the_path_that_clients_are_given(url, prefix):
    with connect(url) as client:
        assert client.base_url.path == f"{prefix}/v1/"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:8321", "not the address of a server"),
        ("ftp://127.0.0.1", "not the address of a server"),
        ("http://", "not the address of a server"),
        ("http://127.0.0.1:port", "no address (Port could not be cast"),
        ("http://127.0.0.1:99999", "no address (Port out of range"),
        ("http://[::1", "no address (Invalid IPv6 URL)"),
        ("http://a\x7fb", "no address (Invalid non-printable ASCII character in URL"),
        ("http://127.0.0.1/?a=b", "only a host, a port and a path are understood"),
        ("http://me:secret@127.0.0.1/", "only a host, a port and a path are understood"),
    ],
)
def test_what_is_no_address_is_refused(url, reason):
    with pytest.raises(UsageError) as error:
        connect(url)
    assert str(error.value).startswith(f"{url}: {reason}")
    assert str(error.value).endswith("; write it as http://127.0.0.1:8321")


@pytest.mark.parametrize("token", ["", "two words", "a\r\nHost: b", "schlüssel"])
def test_a_token_that_no_header_holds_is_refused(token):
    with pytest.raises(UsageError, match="printable ASCII"):
        connect("http://127.0.0.1", token=token)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000])
def test_a_body_that_is_no_json_is_told(body):
    assert failure(read_json, reply(body)).startswith("200 with a body that is no JSON: ")


def test_json_under_another_name_is_told():
    message = failure(read_json, reply(b"{}", "text/html"))
    assert message == "200 with the Content-Type text/html, not application/json"


def test_events_are_parted_by_blank_lines_whatever_ends_a_line():
    text = ": hello\n\ndata: a\r\n\r\nevent: x\ndata:b\ndata:  c\n\n\n\ndata: d\r\rid: 1\n\n"
    assert read_events(text.encode()) == ["a", "b\n c", "d"]


def test_a_stream_that_breaks_off_is_told():
    assert failure(read_events, b"data: a\n\ndata: b\n") == "the stream ends inside an event"
    assert failure(read_chunks, stream("data: {}\n\n")) == "the stream does not end with [DONE]"
    assert failure(read_chunks, stream("")) == "the stream does not end with [DONE]"
    assert failure(read_chunks, stream("data: [DONE]\n\n")) == "the stream has no chunks"
    assert failure(read_chunks, stream("data: []\n\ndata: [DONE]\n\n")).endswith("is no object")
    assert failure(read_events, b"\xff") == "byte 0 of the stream is not UTF-8"


def test_a_failure_is_shown_on_one_short_line():
    message = failure(read_json, reply(b"<html>\n  <b>Bad\tGateway</b>" + b"x" * 500, status=502))
    assert message.startswith("502, not 200: <html> <b>Bad Gateway</b>xxx")
    assert len(message) < 150


def test_what_is_not_where_it_belongs_is_named_by_its_path():
    body = {"a": [{"b": True}, {"b": None}]}
    assert get_path(body, "a.0.b", bool) is True
    assert failure(get_path, body, "a.2.b", str) == "a.2 is missing"
    assert failure(get_path, body, "a.0.c", str) == "a.0.c is missing"
    assert failure(get_path, body, "a.b", str) == "a.b is missing"
    assert failure(get_path, body, "a.0.b", int) == "a.0.b is true, not a whole number"
    assert failure(get_path, body, "a.1.b", str, int) == "a.1.b is null, not text or a whole number"
    assert failure(get_path, [], "a", str) == "a is missing"


def test_usage_must_add_up():
    def used(prompt, completion, total):
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return {"usage": dict(zip(names, (prompt, completion, total), strict=True))}

    assert check_usage(used(3, 0, 3)) == 0
    assert failure(check_usage, used(3, 4, 8)) == "usage.total_tokens is 8, and 3 + 4 is 7"
    assert failure(check_usage, used(0, 4, 4)) == "usage.prompt_tokens is 0"
    assert failure(check_usage, used(3, -1, 2)) == "usage.completion_tokens is -1"
    assert failure(check_usage, {"usage": None}) == "usage.prompt_tokens is missing"


def test_an_error_has_four_fields():
    right = {"message": "no", "type": "x", "param": None, "code": "y"}

    def refusal(error):
        return httpx2.Response(400, json={"error": error})

    check_refusal(refusal(right), 400)
    for name in right:
        cut = {key: value for key, value in right.items() if key != name}
        assert failure(check_refusal, refusal(cut), 400) == f"error.{name} is missing"


def test_a_value_that_is_not_the_one_expected_is_told_beside_it():
    body = {"object": "page", "index": 1, "reason": None}
    assert get_path(body, "index", 0, 1) == 1
    assert failure(get_path, body, "object", "list") == 'object is "page", not "list"'
    assert failure(get_path, body, "index", 0) == "index is 1, not 0"
    assert failure(get_path, body, "reason", "stop", "length") == (
        'reason is null, not "stop" or "length"'
    )
    assert failure(get_path, {"index": False}, "index", 0) == "index is false, not 0"
    assert failure(get_path, {"index": 0.0}, "index", 0) == "index is a number, not 0"


@pytest.mark.parametrize("token", [None, "secret"])
def test_nothing_of_the_environment_is_sent(token, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "organization-of-the-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Own: header-of-the-environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    sent = []
    with (
        running(lambda asked, _: sent.append(asked.headers)) as url,
        connect(url, token=token) as client,
    ):
        server = Server(client, "head")
        for reply in (server.chat(), server.complete("a"), server.list_models(), server.health()):
            assert reply.status_code == 200
    assert len(sent) == 4
    for headers in sent:
        assert "of-the-environment" not in str(headers)
        assert headers.get("authorization") == (token and f"Bearer {token}")


def test_a_redirection_is_no_answer():
    sent = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    with saying(sent) as server:
        assert failure(read_json, server.chat()) == "307, not 200: nothing"


def test_a_server_that_accepts_no_connection_in_time_is_one_line(monkeypatch):
    def late(*_):
        raise httpx2.ConnectTimeout("timed out")

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", late)
    with connect("http://127.0.0.1:9") as client, pytest.raises(NetworkError) as error:
        Server(client, "head").chat()
    assert str(error.value).startswith("http://127.0.0.1:9: no connection (timed out); ")


def test_a_name_that_no_dns_holds_is_one_line():
    name = "a" * 70
    with connect(f"http://{name}.example") as client, pytest.raises(NetworkError) as error:
        Server(client, "head").list_models()
    assert str(error.value).startswith(f"http://{name}.example: no connection (")
