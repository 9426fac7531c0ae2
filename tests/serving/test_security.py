"""What every reply has, and what becomes of what is no request at all."""

import json

import pytest

from helpers.guarded_app import HOST, JSON, OPEN, App, send_request
from mlx_tune.serving.security import Guard


def test_a_client_that_leaves_while_sending_never_reaches_the_application():
    app, sent = App(), []

    async def leave():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    fields = (HOST, JSON, ("content-length", "10"))
    scope = {
        "type": "http", "scheme": "http", "method": "POST", "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in fields],
    }  # fmt: skip
    coroutine = Guard(app, OPEN)(scope, leave, send)
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert (app.calls, sent) == (0, [])


@pytest.mark.parametrize("path", ["/v1/models", "/", "/page/a.js", "/api/x"])
@pytest.mark.parametrize("host", [HOST, ("host", "evil.example")])
def test_every_reply_has_the_security_fields(path, host):
    headers = send_request("GET", path, host=host).headers

    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    page = path in ("/", "/page/a.js")
    assert headers["cache-control"] == ("no-cache" if page else "no-store")
    assert headers.get("x-own") == ("1" if host is HOST else None)


def test_a_fault_of_the_application_is_json_and_still_raised():
    async def broken(scope, receive, send):
        raise RuntimeError("secret path")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "scheme": "http", "method": "GET", "path": "/",
             "headers": [(b"host", b"localhost")]}  # fmt: skip
    with pytest.raises(RuntimeError, match="secret path"):
        Guard(broken, OPEN)(scope, None, send).send(None)

    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["type"] == "server_error"
    assert b"secret" not in sent[1]["body"]


def test_websockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(StopIteration):
        Guard(App(), OPEN)({"type": "websocket"}, None, send).send(None)

    assert sent == [{"type": "websocket.close", "code": 1008}]
