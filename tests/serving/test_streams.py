"""Streams say what whole replies say; stop strings, log-probabilities, texts that go on, JSON."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request

from helpers import tiny
from helpers.live_server import error_json, events, ok_json
from mlx_tune.serving.schemas import ChatReply, CompletionReply

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KNOWN = {"model": "housing", "messages": [{"role": "user", "content": "Where is  B?"}]}
VOCABULARY = tiny.tokenizer()
USAGE = {"stream_options": {"include_usage": True}}


def number_of(character):
    (number,) = VOCABULARY.encode(character)
    return number


def joined(chunks, number=0):
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == number]
    return "".join(c["delta"].get("content", "") if "delta" in c else c["text"] for c in choices)


def endings(chunks, number=0):
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == number]
    return [c["finish_reason"] for c in choices if c["finish_reason"]]


def test_a_streamed_chat_is_the_whole_answer_in_chunks_of_one_reply(server):
    whole = ok_json(server.post(CHAT, **KNOWN))
    chunks = server.stream(CHAT, **KNOWN)
    assert joined(chunks) == whole["choices"][0]["message"]["content"] == "In 9."
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert endings(chunks) == ["stop"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not [chunk for chunk in chunks if "usage" in chunk]
    assert len(chunks) > 3, "it came at once"
    cut = server.stream(CHAT, **KNOWN, max_tokens=3)
    assert (joined(cut), endings(cut)) == ("In ", ["length"])


def test_usage_comes_once_at_the_end_and_is_that_of_the_whole_reply(server):
    whole = ok_json(server.post(CHAT, **KNOWN))
    *chunks, last = server.stream(CHAT, **KNOWN, **USAGE)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    *_, last = server.stream(TEXT, model="base", prompt="Where", max_tokens=3, **USAGE)
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def test_several_streamed_answers_are_told_apart(server):
    asks = {"model": "base", "prompt": ["Where", "When"], "n": 2, "seed": 3, "temperature": 1.5}
    asks["max_tokens"] = 5
    whole = ok_json(server.post(TEXT, **asks))["choices"]
    chunks = server.stream(TEXT, **asks)
    assert [joined(chunks, n) for n in range(4)] == [choice["text"] for choice in whole]
    assert [endings(chunks, n) for n in range(4)] == [["length"]] * 4


STOPS = {
    "9": "In ",
    "n 9": "I",
    "In 9.": "",
    "In 9.!": "In 9.",
    "I 9": "In 9.",
    ".": "In 9",
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_string_ends_the_answer_and_no_part_of_it_leaks(server, stop):
    choice = ok_json(server.post(CHAT, **KNOWN, stop=stop))["choices"][0]
    chunks = server.stream(CHAT, **KNOWN, stop=[stop, "never said"])
    assert choice["message"]["content"] == joined(chunks) == STOPS[stop]
    assert choice["finish_reason"] == "stop"
    assert endings(chunks) == ["stop"]


def test_a_stop_string_counts_for_the_answer_alone_and_not_for_an_echo(server):
    found = server.complete("Where", "base", stop="here", echo=True, max_tokens=2)["choices"][0]
    assert found["text"].startswith("Where")
    assert found["finish_reason"] == "length"


def test_a_stop_string_ends_the_work_too(server):
    before = server.engine.counts.generated_tokens
    x = {"logit_bias": {str(number_of("x")): 100}}
    found = server.complete("Where", "base", stop="xxx", max_tokens=500, **x)
    assert found["choices"][0]["text"] == ""
    assert found["usage"]["completion_tokens"] == 3
    server.text("Where", "base", max_tokens=40)  # nothing goes on behind it
    assert server.engine.counts.generated_tokens - before == 3 + 40


def test_chat_logprobs_have_a_token_its_bytes_and_the_likeliest_first(server):
    choice = ok_json(server.post(CHAT, **KNOWN, logprobs=True, top_logprobs=3))["choices"][0]
    content = choice["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == "In 9."
    for one in content:
        assert set(one) == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(one["top_logprobs"]) == 3
        assert one["top_logprobs"][0]["token"] == one["token"]
        likely = [top["logprob"] for top in one["top_logprobs"]]
        assert likely == sorted(likely, reverse=True)
        assert likely[0] == one["logprob"] <= 0
    streamed = server.stream(CHAT, **KNOWN, logprobs=True, top_logprobs=3)
    pieces = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    assert [one for piece in pieces if piece for one in piece["content"]] == content
    # What is held back, for it may be a stop string's beginning, loses no token.
    held = server.stream(CHAT, **KNOWN, logprobs=True, top_logprobs=3, stop="In 9.!")
    pieces = [chunk["choices"][0]["logprobs"] for chunk in held]
    assert [one for piece in pieces if piece for one in piece["content"]] == content


def test_logprobs_without_alternatives_are_the_chosen_tokens_alone(server):
    content = ok_json(server.post(CHAT, **KNOWN, logprobs=True))["choices"][0]["logprobs"][
        "content"
    ]
    assert [one["top_logprobs"] for one in content] == [[]] * 5
    assert ok_json(server.post(CHAT, **KNOWN))["choices"][0]["logprobs"] is None


def test_a_text_as_words_or_as_tokens_is_the_same_text(server):
    ids = server.complete("Where", "base", max_tokens=0, echo=True, logprobs=0)
    tokens = [number_of(character) for character in "Where"]
    asks = {"model": "base", "max_tokens": 4, "echo": True, "logprobs": 2}
    by_words = server.complete("Where", **asks)
    by_tokens = server.complete(tokens, **asks)
    assert by_words["choices"] == by_tokens["choices"]
    assert by_words["usage"] == by_tokens["usage"]
    assert ids["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_the_older_logprobs_are_four_lists_of_one_length(server):
    found = server.complete("Where", "base", max_tokens=4, echo=True, logprobs=2)["choices"][0]
    lists = found["logprobs"]
    assert set(lists) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(values) for values in lists.values()} == {9}
    assert lists["tokens"][:5] == list("Where")
    assert lists["token_logprobs"][0] is lists["top_logprobs"][0] is None
    assert [len(top) for top in lists["top_logprobs"][1:]] == [2] * 8
    assert lists["text_offset"][:5] == [0, 1, 2, 3, 4]
    for token, logprob, top in list(
        zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True)
    )[5:]:
        assert logprob == max(top.values()) == top[token]
    # What is generated is as likely as the same text echoed.
    again = server.complete("Where" + found["text"][5:], "base", max_tokens=0, echo=True,
                            logprobs=2)["choices"][0]["logprobs"]  # fmt: skip
    if len(again["tokens"]) == 9:
        for one, other in zip(
            again["token_logprobs"][1:], lists["token_logprobs"][1:], strict=True
        ):
            assert abs(one - other) < 1e-4


def test_logprobs_of_the_answer_alone_begin_with_it(server):
    found = server.complete("Where", "base", max_tokens=4, logprobs=0)["choices"][0]["logprobs"]
    assert len(found["tokens"]) == 4
    assert found["token_logprobs"][0] is not None
    chunks = server.stream(TEXT, model="base", prompt="Where", max_tokens=4, logprobs=0, echo=True)
    lists = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    offsets = [offset for one in lists if one for offset in one["text_offset"]]
    assert offsets == sorted(offsets)
    assert len(offsets) == 9


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["room", "hall"]}, "open": {"type": "boolean"}},
    "required": ["kind", "open"],
    "additionalProperties": False,
}


def as_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}


def test_an_answer_held_to_a_schema_fits_it(server):
    for drawn in ({}, {"temperature": 2, "seed": 1}):
        text = server.answer("Where is  B?", "base", response_format=as_schema(SCHEMA), **drawn)
        found = json.loads(text)
        assert found["kind"] in ("room", "hall")
        assert isinstance(found["open"], bool)


def test_an_answer_held_to_json_is_an_object_whatever_is_likely(server):
    brace = {str(number_of("}")): 100}
    wanted = {"response_format": {"type": "json_object"}, "logit_bias": brace}
    assert server.answer("Where is  B?", "base", **wanted) == "{}"
    assert server.answer("Where is  B?", "base", response_format={"type": "text"}, max_tokens=3)


def test_constrained_and_free_answers_share_a_batch(server):
    free = server.answer("Where is  B?", "base", max_tokens=40)
    held = server.answer("Where is  B?", "base", response_format=as_schema(SCHEMA))
    with ThreadPoolExecutor(4) as clients:
        asked = [{"max_tokens": 40}, {"response_format": as_schema(SCHEMA)}] * 2
        found = clients.map(lambda more: server.answer("Where is  B?", "base", **more), asked)
        assert list(found) == [free, held] * 2


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "propertys": {}},
        {"$ref": "https://example.com/schema.json"},
        {"type": "string", "pattern": "("},
        {"minimum": float("nan")},
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(server, schema):
    body = {"model": "base", "messages": KNOWN["messages"], "response_format": as_schema(schema)}
    reply = server.client.post(
        CHAT, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert error_json(reply)["param"] in ("response_format", None)


def test_a_stream_is_plain_events_that_nothing_on_the_way_keeps(server):
    reply = server.post(CHAT, **KNOWN, stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "\r" not in reply.text
    assert events(reply.text)[-1] == "[DONE]"


def test_replies_are_what_the_openapi_document_says(server):
    for fields in ({}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}):
        reply = ok_json(server.post(CHAT, **KNOWN, **fields))
        assert ChatReply.model_validate(reply).model_dump() == reply
    for fields in ({}, {"logprobs": 2, "echo": True}):
        reply = server.complete("Where", "base", max_tokens=3, **fields)
        assert CompletionReply.model_validate(reply).model_dump() == reply


def test_a_body_is_parsed_once(server, monkeypatch):
    async def parse(self):
        raise AssertionError("the middleware parsed it already")

    monkeypatch.setattr(Request, "json", parse)
    assert ok_json(server.post(CHAT, **KNOWN))
    assert server.post("/v1/load_lora_adapter", lora_name="cs").status_code == 200
