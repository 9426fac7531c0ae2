"""Where the token is asked for, and which one is right."""

import hmac

import pytest

from helpers.guarded_app import CLOSED, TOKEN, post_json, send_request


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
