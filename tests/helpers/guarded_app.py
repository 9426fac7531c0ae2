"""A guarded application that says what reached it, and two ways to ask it."""

from helpers import raw_http
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy

HOST = ("host", "localhost:8321")
JSON = ("content-type", "application/json")
TOKEN = ("authorization", "Bearer s3cret")
OPEN = AccessPolicy(token="s3cret")
CLOSED = AccessPolicy(token="s3cret", token_for_all=True)


class App:
    """Says what it was asked, and counts."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        message = await receive()
        headers = [(b"cache-control", b"public"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message.get("body", b"")})


def send_request(method="GET", path="/v1/models", *fields, policy=OPEN, pieces=(), host=HOST):
    """The reply, after a look at whether the application was called exactly if not refused."""
    app = App()
    found = ([host] if host else []) + list(fields)
    reply = raw_http.call_asgi(
        AccessMiddleware(app, policy), method, path, fields=found, pieces=pieces
    )
    assert app.calls == (reply.status == 200)
    return reply


def post_json(path="/v1/chat/completions", *fields, body=b"{}", policy=OPEN, pieces=()):
    pieces = pieces or [body]
    length = ("content-length", str(len(b"".join(pieces))))
    return send_request("POST", path, JSON, length, *fields, policy=policy, pieces=pieces)
