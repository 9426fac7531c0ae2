"""Which bodies are read, and how much of them."""

import json

import pytest

from helpers.guarded_app import JSON, post_json, send_request
from mlx_tune.serving.errors import ApiError
from mlx_tune.serving.guard import parse_body


def test_a_body_of_a_mebibyte_is_taken_and_one_byte_more_is_not():
    fits = b'"' + b"a" * (1024**2 - 2) + b'"'

    assert post_json(body=fits).body == fits
    reply = post_json(body=fits + b" ")
    assert reply.status == 413
    assert reply.error["message"] == (
        "the body is larger than 1,048,576 bytes, which is the limit; send less"
    )


def test_a_body_declared_too_large_is_not_even_read():
    sizes = [("content-length", str(1024**2 + more)) for more in (0, 1)]

    assert [send_request("POST", "/v1/x", JSON, size, pieces=[b"{}"]).status for size in sizes] == [
        200,
        413,
    ]


def test_a_body_is_counted_while_it_comes():
    chunked = ("transfer-encoding", "chunked")
    pieces = [b" " * 65536] * 17

    assert send_request("POST", "/v1/x", JSON, chunked, pieces=pieces[:16]).status == 200
    assert send_request("POST", "/v1/x", JSON, chunked, pieces=pieces).status == 413


def test_the_pieces_of_a_body_reach_the_application_as_one():
    assert post_json(pieces=[b'{"a"', b":", b"1}"]).body == b'{"a":1}'


def test_a_missing_length_is_asked_for():
    for method in ("POST", "PUT", "PATCH"):
        assert send_request(method, "/v1/x", JSON).status == 411


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "", "9" * 30, "+1", "1, 1", "1.0"])
def test_a_malformed_length_is_refused(length):
    reply = send_request("POST", "/v1/x", JSON, ("content-length", length))

    assert reply.status == 400
    assert reply.error["code"] == "bad_length"


def test_a_length_and_chunks_together_are_refused():
    both = (("content-length", "2"), ("transfer-encoding", "chunked"))

    assert send_request("POST", "/v1/x", JSON, *both).status == 400


def test_a_large_body_of_a_get_is_refused_too():
    assert send_request("GET", "/v1/models", ("content-length", "9999999")).status == 413


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/jsonp", "text/json", "application/json; charset=latin-1", "application/json,x"],
)  # fmt: skip
def test_what_a_form_of_another_site_can_send_is_refused(kind):
    length = ("content-length", "2")
    reply = send_request("POST", "/v1/x", ("content-type", kind), length, pieces=[b"{}"])

    assert reply.status == 415
    assert send_request("POST", "/v1/x", length, pieces=[b"{}"]).status == 415


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", 'application/json;charset="UTF-8"'],
)
def test_json_is_json_however_it_is_written(kind):
    length = ("content-length", "2")

    assert (
        send_request("POST", "/v1/x", ("content-type", kind), length, pieces=[b"{}"]).status == 200
    )


def test_packed_bodies_are_refused():
    assert post_json("/v1/x", ("content-encoding", "gzip")).status == 415


def test_a_body_of_invalid_utf_8_is_refused_with_its_place():
    reply = post_json(body=b'{"a": "\xff"}')

    assert reply.status == 400
    assert (
        reply.error["message"] == "the body is not valid JSON: byte 0xff at offset 7 is not UTF-8"
    )


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize(
    "body", [nested(65), nested(10_000), b"[" * 500_000, b"]", b'{"a": [1}}}'], ids=len
)
def test_deeply_nested_json_is_refused(body):
    assert post_json(body=body).status == 400


@pytest.mark.parametrize(
    "body",
    [nested(64), nested(63), json.dumps({"a": "[" * 1000}).encode(), rb'{"a": "\"[[[\\"}', b""],
    ids=len,
)
def test_json_that_is_not_deep_is_taken(body):
    assert post_json(body=body).status == 200


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        (rb'{"a": "\ud83d\ude00"}', True),
        (rb'{"a": "\\ud83d"}', True),
        (rb'{"a": "\\\\ud83d \n \uD7FF \uE000"}', True),
        (rb'{"a": "\ud83d"}', False),
        (rb'{"a": "\ud83d\u0041"}', False),
        (rb'{"a": "\ude00\ud83d"}', False),
        (rb'{"a": "\\\ud83d"}', False),
        (rb'{"\uDBFF": 1}', False),
    ],
)
def test_an_unpaired_surrogate_is_refused_and_a_pair_is_not(text, is_whole):
    if is_whole:
        assert parse_body(text) == json.loads(text)
        return
    with pytest.raises(ApiError, match="is an unpaired surrogate"):
        parse_body(text)


@pytest.mark.parametrize(
    "text",
    ['{"n": 1, "n": 2}', '{"a": [{"b": {"n": 1, "m": 2, "\\u006e": 1}}]}', '{"n": 1, "n": 1}'],
)
def test_a_duplicate_key_is_named(text):
    reply = post_json(body=text.encode())
    assert reply.status == 400
    assert reply.error["message"] == 'the body is not valid JSON: duplicate key "n"'


def test_a_key_may_stand_in_two_objects():
    assert post_json(body=b'{"a": {"n": 1}, "n": {"n": 2}}').status == 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a" 1}', "Expecting ':' delimiter: line 1 column 6 (char 5)"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": 1e400}', "1e400 is not a finite number"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "1000000000000000000… is not a finite number"),
        (b"[" * 500_000, "nested more than 64 deep"),
    ],
    ids=len,
)
def test_what_is_no_strict_json_is_refused(text, problem):
    reply = post_json(body=text)
    assert reply.status == 400
    assert reply.error["message"] == f"the body is not valid JSON: {problem}"
