"""The checks' client, and the shapes they read, against answers that no server should give."""

import socket
import sys
import threading
from contextlib import contextmanager

import pytest

from mlx_tune.errors import UsageError
from mlx_tune.workflows.api_checks import client as module
from mlx_tune.workflows.api_checks.client import Client, Reply
from mlx_tune.workflows.api_checks.server import chunks, succeeded
from mlx_tune.workflows.api_checks.shapes import Wrong, check_error, check_usage, pick

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WAIT = None


@contextmanager
def saying(*pieces, listens=True, timeout=20.0):
    """A server that sends some bytes whatever it is asked, and a client for it."""
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
            yield Client.at(address, timeout_seconds=timeout)
        finally:
            done.set()
            thread.join()


def reply(body: bytes, kind: str = "application/json", status: int = 200) -> Reply:
    return Reply(status=status, headers={"content-type": kind}, body=body)


def stream(text: str) -> Reply:
    return reply(text.encode(), "text/event-stream; charset=utf-8")


def wrong(call, *arguments) -> str:
    with pytest.raises(Wrong) as error:
        call(*arguments)
    return str(error.value)


def test_a_whole_answer_is_read():
    with saying(OK + b"Content-Length: 8\r\n\r\n", b'{"a"', b":1} and more") as client:
        assert client.get("/").json() == {"a": 1}


def test_an_answer_in_chunks_is_read():
    sent = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b'4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n'
    with saying(sent) as client:
        assert client.get("/").json() == {"a": 1}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "no whole answer (RemoteDisconnected: "),
        (b"220 mail.example ESMTP\r\n", "no whole answer (BadStatusLine: 220 mail.example ESMTP"),
        (OK + b"Content-Length: 8\r\n\r\n{", "the answer breaks off 7 bytes before its end"),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\n{",
            "no whole answer (IncompleteRead: ",
        ),
    ],
)
def test_an_answer_that_breaks_off_is_told(sent, reason):
    with saying(sent) as client:
        assert wrong(client.get, "/").startswith(reason)


def test_a_server_that_says_nothing_is_left_in_time():
    with saying(WAIT, timeout=0.2) as client:
        assert wrong(client.get, "/") == "no whole answer within 0.2 s"


def test_a_server_that_trickles_for_ever_is_left_in_time(monkeypatch):
    clock = iter([0.0, 10.0, 19.0, 21.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "_PIECE_BYTES", 2)
    with saying(OK + b"\r\n", b"a long body that is said slowly") as client:
        assert wrong(client.get, "/") == "no whole answer within 20 s"


def test_no_more_is_read_than_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 8)
    with saying(OK + b"\r\n" + b"x" * 9) as client:
        assert wrong(client.get, "/") == "an answer of over 8 bytes"


@pytest.mark.skipif(sys.platform != "linux", reason="others may drop what came before a reset")
def test_an_answer_that_comes_before_the_body_was_read_is_heard():
    sent = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}"
    with saying(sent, listens=False) as client:
        assert client.post("/", b"x" * 32 * 1024**2).status == 413


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
    assert Client.at(url).prefix == prefix


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:8321", "not the address of a server"),
        ("ftp://127.0.0.1", "not the address of a server"),
        ("http://", "not the address of a server"),
        ("http://127.0.0.1:port", "no address (Port could not be cast"),
        ("http://127.0.0.1:99999", "no address (Port out of range"),
        ("http://[::1", "no address (Invalid IPv6 URL)"),
        ("http://127.0.0.1/?a=b", "only a host, a port and a path are understood"),
        ("http://me:secret@127.0.0.1/", "only a host, a port and a path are understood"),
    ],
)
def test_what_is_no_address_is_refused(url, reason):
    with pytest.raises(UsageError) as error:
        Client.at(url)
    assert str(error.value).startswith(f"{url}: {reason}")
    assert str(error.value).endswith("; write it as http://127.0.0.1:8321")


@pytest.mark.parametrize("token", ["", "two words", "a\r\nHost: b", "schlüssel"])
def test_a_token_that_no_header_holds_is_refused(token):
    with pytest.raises(UsageError, match="printable ASCII"):
        Client.at("http://127.0.0.1", token=token)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000])
def test_a_body_that_is_no_json_is_told(body):
    assert wrong(reply(body).json).startswith("200 with a body that is no JSON: ")


def test_json_under_another_name_is_told():
    message = wrong(reply(b"{}", "text/html").json)
    assert message == "200 with the Content-Type text/html, not application/json"


def test_events_are_parted_by_blank_lines_whatever_ends_a_line():
    text = ": hello\n\ndata: a\r\n\r\nevent: x\ndata:b\ndata:  c\n\n\n\ndata: d\r\rid: 1\n\n"
    assert stream(text).events() == ["a", "b\n c", "d"]


def test_a_stream_that_breaks_off_is_told():
    assert wrong(stream("data: a\n\ndata: b\n").events) == "the stream ends inside an event"
    assert wrong(chunks, stream("data: {}\n\n")) == "the stream does not end with [DONE]"
    assert wrong(chunks, stream("")) == "the stream does not end with [DONE]"
    assert wrong(chunks, stream("data: [DONE]\n\n")) == "the stream has no chunks"
    assert wrong(chunks, stream("data: []\n\ndata: [DONE]\n\n")).endswith("is no object")
    assert wrong(reply(b"\xff", "text/event-stream").events) == "byte 0 of the stream is not UTF-8"


def test_a_failure_is_shown_on_one_short_line():
    message = wrong(succeeded, reply(b"<html>\n  <b>Bad\tGateway</b>" + b"x" * 500, status=502))
    assert message.startswith("502, not 200: <html> <b>Bad Gateway</b>xxx")
    assert len(message) < 150


def test_what_is_not_where_it_belongs_is_named_by_its_path():
    body = {"a": [{"b": True}, {"b": None}]}
    assert pick(body, "a.0.b", bool) is True
    assert wrong(pick, body, "a.2.b", str) == "a.2 is missing"
    assert wrong(pick, body, "a.0.c", str) == "a.0.c is missing"
    assert wrong(pick, body, "a.b", str) == "a.b is missing"
    assert wrong(pick, body, "a.0.b", int) == "a.0.b is true, not a whole number"
    assert wrong(pick, body, "a.1.b", str, int) == "a.1.b is null, not text or a whole number"
    assert wrong(pick, [], "a", str) == "a is missing"


def test_usage_must_add_up():
    def used(prompt, completion, total):
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return {"usage": dict(zip(names, (prompt, completion, total), strict=True))}

    assert check_usage(used(3, 0, 3)) == 0
    assert wrong(check_usage, used(3, 4, 8)) == "usage.total_tokens is 8, and 3 + 4 is 7"
    assert wrong(check_usage, used(0, 4, 4)) == "usage.prompt_tokens is 0"
    assert wrong(check_usage, used(3, -1, 2)) == "usage.completion_tokens is -1"
    assert wrong(check_usage, {"usage": None}) == "usage.prompt_tokens is missing"


def test_an_error_has_four_fields():
    right = {"message": "no", "type": "x", "param": None, "code": "y"}
    check_error({"error": right})
    for name in right:
        cut = {key: value for key, value in right.items() if key != name}
        assert wrong(check_error, {"error": cut}) == f"error.{name} is missing"
