"""Through which names and pages a request may come."""

import pytest

from helpers.guarded_app import HOST, JSON, TOKEN, post_json, send_request
from mlx_tune.serving.policy import decide


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
    policy = decide("127.0.0.1", allow_hosts=["model.local"])

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


NAMED = decide("127.0.0.1", allow_origins=["https://app.example"])
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
