"""Who may ask the server for what: the middleware before any application, and its policy."""

import hmac
import json

import pytest

from helpers.guarded_app import CLOSED, HOST, JSON, OPEN, TOKEN, App, post_json, send_request
from mlx_tune.errors import UsageError
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy


def test_a_server_for_this_machine_asks_for_the_token_only_where_something_changes():
    policy = AccessPolicy.for_host("127.0.0.1")

    assert not policy.token_for_all
    assert policy.hosts == {"localhost", "127.0.0.1", "[::1]"}
    assert policy.origins == frozenset()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "model.local", ""])
def test_a_server_for_others_asks_for_the_token_everywhere(host):
    assert AccessPolicy.for_host(host).token_for_all


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_every_loopback_address_is_this_machine(host):
    assert not AccessPolicy.for_host(host).token_for_all


def test_a_token_of_ones_own_is_asked_for_everywhere():
    policy = AccessPolicy.for_host("127.0.0.1", token="s3cret")

    assert policy.token_for_all
    assert policy.token == "s3cret"


def test_a_name_of_another_kind_means_that_others_come_though_through_this_machine():
    assert AccessPolicy.for_host("127.0.0.1", allow_hosts=["model.example.org"]).token_for_all
    assert not AccessPolicy.for_host("127.0.0.1", allow_origins=["https://a.b"]).token_for_all


def test_a_drawn_token_is_long_and_another_each_time_and_not_shown():
    first, second = AccessPolicy.for_host("127.0.0.1"), AccessPolicy.for_host("127.0.0.1")

    assert first.token != second.token
    assert len(first.token) >= 43  # 32 bytes
    assert first.token not in repr(first)


def test_the_address_listened_on_is_a_name_of_the_server_but_every_address_is_none():
    assert "192.168.1.5" in AccessPolicy.for_host("192.168.1.5").hosts
    assert "[fe80::1]" in AccessPolicy.for_host("fe80::1").hosts
    assert (
        AccessPolicy.for_host("0.0.0.0").hosts
        == AccessPolicy.for_host("::").hosts
        == AccessPolicy.for_host("127.0.0.1").hosts
    )


def test_names_and_origins_are_compared_as_browsers_write_them():
    policy = AccessPolicy.for_host(
        "127.0.0.1",
        allow_hosts=["Model.Local", "[2001:db8::1]", "2001:DB8:0::2"],
        allow_origins=["HTTPS://Example.org:443/", "http://a.b:8080", "app://obsidian.md"],
    )

    assert {"model.local", "[2001:db8::1]", "[2001:db8::2]"} < policy.hosts
    assert policy.origins == {"https://example.org", "http://a.b:8080", "app://obsidian.md"}


@pytest.mark.parametrize("name", ["*", "http://a.b", "a.b:80", "a b", "", "a/b", "a@b", ".local"])
def test_what_is_no_host_name_is_refused(name):
    with pytest.raises(UsageError) as error:
        AccessPolicy.for_host("127.0.0.1", allow_hosts=[name])

    assert str(error.value) == (
        f'--allow-host "{name}" is not a host name; write the name alone, without scheme or port, '
        "such as model.local"
    )


@pytest.mark.parametrize("origin", ["*", "null", "example.org", "https://a.b/c", "https://", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(UsageError, match="is not an origin") as error:
        AccessPolicy.for_host("127.0.0.1", allow_origins=[origin])

    assert ("would be trusted" in str(error.value)) == (origin == "*")


@pytest.mark.parametrize("token", ["", "two words", "naïve", "line\n"])
def test_a_token_that_no_header_field_carries_is_refused(token):
    with pytest.raises(UsageError, match="--token is empty or holds"):
        AccessPolicy.for_host("127.0.0.1", token=token)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8321", "127.0.0.1:8321", "[::1]:8321", "[::1]", "localhost:80"]
)
def test_the_names_of_this_machine_are_answered_at_any_port(host):
    assert send_request(host=("host", host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8321", "localhost.evil.example", "127.0.0.1.evil.example",
        "localhost@evil.example", "localhost:8321@evil.example", "0.0.0.0:8321", "[::]", "",
        "localhost:", "localhost:8321:1", "localhost, evil.example", "[::1", "127.0.0.1%00",
        "localhost/x", "2130706433", "\xe4.example",
    ],
)  # fmt: skip
def test_a_foreign_host_is_refused(host):
    reply = send_request(host=("host", host))

    assert reply.status == 403
    assert reply.error["code"] == "host_not_allowed"


def test_a_request_without_a_host_or_with_two_is_refused():
    assert send_request(host=None).status == 403
    assert send_request("GET", "/", HOST).status == 403


def test_a_named_host_is_answered_and_the_refusal_says_how_to_name_it():
    policy = AccessPolicy.for_host("127.0.0.1", allow_hosts=["model.local"])

    assert (
        send_request("GET", "/health", host=("host", "model.local:9000"), policy=policy).status
        == 200
    )
    assert send_request(host=("host", "model.local:9000")).error["message"] == (
        'the Host field says "model.local", which is no name of this server; if it should be one, '
        "start the server with --allow-host and that name"
    )


def test_a_long_host_is_not_repeated_whole():
    assert len(send_request(host=("host", "a" * 5000)).body) < 500


@pytest.mark.parametrize("path", ["http://evil.example/", "*", "", "/a/../b", "/page/..", "/\0"])
def test_a_target_that_is_no_plain_path_is_refused(path):
    assert send_request("GET", path).error["code"] == "bad_target"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "http://localhost:3000", "https://localhost:8321",
        "http://localhost", "http://127.0.0.1:8321", "http://localhost:8321.evil.example", "",
    ],
)  # fmt: skip
def test_a_foreign_origin_is_refused_whatever_the_method(method, origin):
    preflight = ("access-control-request-method", "POST")
    reply = send_request(method, "/v1/models", ("origin", origin), preflight, JSON, TOKEN)

    assert reply.status == 403
    assert reply.error["code"] == "origin_not_allowed"
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_own_page_may_ask():
    reply = post_json("/v1/chat/completions", ("origin", "http://localhost:8321"))

    assert reply.status == 200
    assert "access-control-allow-origin" not in reply.headers


def test_two_origins_are_none():
    own = ("origin", "http://localhost:8321")

    assert send_request("GET", "/", own, own).status == 403


NAMED = AccessPolicy.for_host("127.0.0.1", allow_origins=["https://app.example"])
APP = ("origin", "https://app.example")


def test_a_named_origin_may_ask_and_read_refusals_too():
    for reply in (post_json("/v1/x", APP, policy=NAMED), post_json("/api/x", APP, policy=NAMED)):
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert reply.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in reply.headers
    assert reply.status == 401


def test_another_origin_is_refused_though_one_is_named():
    reply = send_request("GET", "/", ("origin", "https://app.example.evil"), policy=NAMED)

    assert reply.status == 403
    assert reply.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in reply.headers


def test_a_preflight_of_a_named_origin_is_answered_without_token_or_application():
    asks = ("access-control-request-method", "POST")
    reply = send_request("OPTIONS", "/api/rollback", APP, asks, policy=NAMED)

    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert reply.headers["access-control-allow-headers"] == "authorization, content-type"
    assert reply.headers["access-control-allow-methods"] == "GET, POST"


@pytest.mark.parametrize(
    ("wanted", "more"),
    [("x-stainless-os, user-agent", ", x-stainless-os, user-agent"), ("a\n", "")],
)
def test_a_named_origin_may_send_the_fields_its_client_has(wanted, more):
    asks = ("access-control-request-method", "POST"), ("access-control-request-headers", wanted)
    reply = send_request("OPTIONS", "/v1/x", APP, *asks, policy=NAMED)

    allowed = reply.headers["access-control-allow-headers"]
    assert allowed == f"authorization, content-type{more}"


def test_the_token_is_asked_for_where_something_changes_and_nowhere_else():
    assert post_json("/api/rollback").status == 401
    assert send_request("DELETE", "/api/x").status == 401
    assert post_json("/api/rollback", TOKEN).status == 200
    assert send_request("GET", "/api/lineage").status == 200
    assert post_json("/v1/chat/completions").status == 200


def test_a_closed_server_asks_everywhere_but_for_health_and_the_page():
    for path in ("/v1/models", "/api/lineage", "/metrics", "/openapi.json", "//", "/pages"):
        assert send_request("GET", path, policy=CLOSED).status == 401
        assert send_request("GET", path, TOKEN, policy=CLOSED).status == 200
    for path in ("/health", "/", "/page/style.css"):
        assert send_request("GET", path, policy=CLOSED).status == 200
    assert post_json("/", policy=CLOSED).status == 401
    assert post_json("/page/x", policy=CLOSED).status == 401


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer s3cre", "Bearer s3crets", "Basic s3cret",
     "s3cret", "Bearer S3CRET", "Bearer s3cret s3cret", "Bearer s3cr\xe4t"],
)  # fmt: skip
def test_a_wrong_token_is_refused(given):
    reply = send_request("GET", "/v1/models", ("authorization", given), policy=CLOSED)

    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == 'Bearer realm="mlx-tune", error="invalid_token"'


def test_a_missing_token_is_asked_for():
    reply = send_request("GET", "/v1/models", policy=CLOSED)

    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="mlx-tune"'
    assert "s3cret" not in reply.error["message"]


def test_the_scheme_may_be_written_small_but_the_token_comes_once():
    small = ("authorization", "bearer s3cret")

    assert send_request("GET", "/v1/models", small, policy=CLOSED).status == 200
    assert send_request("GET", "/v1/models", small, TOKEN, policy=CLOSED).status == 401


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or real(*two))
    send_request("GET", "/v1/models", ("authorization", "Bearer wrong"), policy=CLOSED)

    assert compared == [(b"wrong", b"s3cret")]


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
    coroutine = AccessMiddleware(app, OPEN)(scope, leave, send)
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
        AccessMiddleware(broken, OPEN)(scope, None, send).send(None)

    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["type"] == "server_error"
    assert b"secret" not in sent[1]["body"]


def test_websockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(StopIteration):
        AccessMiddleware(App(), OPEN)({"type": "websocket"}, None, send).send(None)

    assert sent == [{"type": "websocket.close", "code": 1008}]
