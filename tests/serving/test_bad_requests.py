"""Bad requests, and those that kill mlx-lm's own server: each is refused and harms nothing."""

import json
from pathlib import Path

import pytest

from helpers.live_server import error_json
from helpers.raw_http import exchange, request
from mlx_tune.serving.harmless import (
    MESSAGE,
    PART,
    REQUEST,
    STREAM_OPTIONS,
    TOOL,
    TOOL_CALL,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
JSON = {"content-type": "application/json"}


def chat(**changes):
    return {"model": "base", "messages": HELLO, "max_tokens": 2, **changes}


def text(**changes):
    return {"model": "base", "prompt": "hello", "max_tokens": 2, **changes}


def test_what_kills_mlx_lms_server_one_after_the_other_and_then_a_good_request(server):
    first = server.text("Once upon a time", "base", max_tokens=3)
    assert server.text("Once upon a time", "base", max_tokens=3) == first  # all of it is known
    assert error_json(server.post(TEXT, **text(prompt="")))["param"] == "prompt"
    drawn = {"temperature": 1, "seed": 1, "max_tokens": 3}
    assert server.text("Once", "base", top_k=259, **drawn)
    error = error_json(server.post(CHAT, **chat(xtc_threshold=0.6, xtc_probability=1)))
    assert error["code"] == "unknown_field"
    assert "xtc_threshold" in error["message"] or "xtc_probability" in error["message"]
    assert error_json(server.post(CHAT, **chat(stop=[5])))["param"].startswith("stop")
    for number in ("259", "-1", "100000000", "1.5", "x", "٣", "01"):
        assert (
            error_json(server.post(TEXT, **text(logit_bias={number: 1})))["param"] == "logit_bias"
        )
    assert server.text("Once upon a time", "base", max_tokens=3) == first
    assert server.engine.counts.faults == 0


def nested(depth):
    return b'{"model":"base","messages":' + b"[" * depth + b"]" * depth + b"}"


BODIES = {
    "no JSON": (b"{", 400),
    "no object": (b"[1]", 400),
    "nothing": (b"", 400),
    "null": (b"null", 400),
    "not UTF-8": (b'{"model": "\xff"}', 400),
    "NaN": (json.dumps(chat(temperature=float("nan"))).encode(), 400),
    "infinity": (b'{"model":"base","prompt":"a","temperature":1e400}', 400),
    "a number of 5,000 digits": (b'{"prompt":"a","seed":1' + b"0" * 5000 + b"}", 400),
    "deep": (nested(100), 400),
    "very deep": (nested(100_000), 400),
    "large": (b'{"model": "' + b"x" * 1024**2 + b'"}', 413),
    "half a character": (rb'{"model":"base","prompt":"\ud800"}', 400),
    "half a character in a chat": (
        rb'{"model":"base","messages":[{"role":"user","content":"\udc00 a"}]}', 400,
    ),
    "half a character as a field": (rb'{"model":"base","prompt":"a","\ud800":1}', 400),
    "half a character as a bias": (rb'{"prompt":"a","logit_bias":{"\ud800":1}}', 400),
    "half a character to stop at": (rb'{"model":"base","prompt":"a","stop":"\ud800"}', 400),
    "half a character as a model": (rb'{"model":"\ud800","prompt":"a"}', 400),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_malformed_body_is_refused_with_its_status(server, path, what):
    body, status = BODIES[what]
    error_json(server.client.post(path, content=body, headers=JSON), status)


def test_a_wrong_or_missing_content_length_is_refused(server):
    body = json.dumps(chat()).encode()
    fields = {"content_type": "application/json"}
    negative = request("POST", CHAT, body, content_length="-1", **fields)
    assert exchange(server.port, negative).status == 400
    missing = request("POST", CHAT, **fields)
    assert exchange(server.port, missing).status == 411
    over = request("POST", CHAT, content_length=str(2**21), **fields)
    assert exchange(server.port, over).status == 413
    right = request("POST", CHAT, body, content_length=str(len(body)), **fields)
    assert exchange(server.port, right).status == 200


def test_foreign_pages_and_missing_tokens_are_refused(server):
    post = server.client.post
    evil = {"host": "evil.example"}
    assert error_json(post(CHAT, json=chat(), headers=evil), 403)["code"] == "host_not_allowed"
    evil = {"origin": "https://evil.example"}
    assert error_json(post(CHAT, json=chat(), headers=evil), 403)["code"] == "origin_not_allowed"
    for path, body in {
        "/api/rollback": {},
        "/api/promote": {"session": "cs"},
        "/v1/load_lora_adapter": {"lora_name": "cs"},
        "/v1/unload_lora_adapter": {"lora_name": "cs"},
    }.items():
        for token in ("", "Bearer", "Bearer wrong", "Basic x"):
            reply = post(path, json=body, headers={"authorization": token})
            assert error_json(reply, 401)["code"] == "invalid_api_key"


PATHS = [
    "../../etc/passwd",
    "/etc/passwd",
    "./sessions",
    "sessions/0001-cs",
    "http://example.com/model",
    "gpt-4",
    "0009",
    "HEAD~1",
    "c" * 200,
    "cs\x00",
    "\n",
]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_no_model_is_refused(server, name):
    error = error_json(server.post(CHAT, **chat(model=name)), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "/v1/models" in error["message"]
    error_json(server.post("/v1/load_lora_adapter", lora_name=name), 404)


def test_no_path_is_taken_to_load_from(server):
    body = {"lora_name": "cs", "lora_path": "/somewhere/adapters"}
    assert error_json(server.post("/v1/load_lora_adapter", **body))["code"] == "unknown_field"
    error_json(server.post("/api/rollback", to="../../etc"))
    error_json(server.post("/api/promote", session="/etc/passwd"))
    error_json(server.client.get("/v1/models/gpt-4"), 404)
    error_json(server.client.get("/v1/models/..%2f..%2fetc"))
    error_json(server.client.get("/page/..%2f..%2fstart.py"))
    error_json(server.client.get("/page/start.py"), 404)


@pytest.mark.parametrize("by", ["messages", "prompt"])
def test_a_prompt_longer_than_the_models_context_is_refused(server, by):
    long = "x" * 2048
    path, body = (TEXT, text(prompt=long)) if by == "prompt" else (
        CHAT, chat(messages=[{"role": "user", "content": long}])
    )  # fmt: skip
    error = error_json(server.post(path, **body))
    assert (error["code"], error["param"]) == ("context_length_exceeded", by)
    assert "2048" in error["message"]


def test_room_in_the_context_is_counted_to_the_token(server):
    longest = "x" * 2046
    assert server.complete(longest, "base", max_tokens=2)["usage"]["total_tokens"] == 2048
    error = error_json(server.post(TEXT, **text(prompt=longest, max_tokens=3)))
    assert error["code"] == "context_length_exceeded"
    del (body := text(prompt=longest))["max_tokens"]
    assert server.post(TEXT, **body).json()["usage"]["total_tokens"] == 2048  # 16, were there room


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}
REFUSED = {
    "an unknown field": chat(best_off=2),
    "tools": chat(tools=[{"type": "function", "function": {"name": "f"}}]),
    "functions": chat(functions=[{"name": "f"}]),
    "a repetition penalty": chat(repetition_penalty=1.1),
    "an adapter by its path": chat(adapters="/somewhere"),
    "a template": chat(chat_template="{{ 1 }}"),
    "a model that is a number": chat(model=5),
    "a model that is empty": chat(model=""),
    "no messages": {"model": "base"},
    "messages that are null": chat(messages=None),
    "no message at all": chat(messages=[]),
    "a message without a role": chat(messages=[{"content": "a"}]),
    "an unknown role": chat(messages=[{"role": "tool", "content": "a"}]),
    "content that is null": chat(messages=[{"role": "assistant", "content": None}]),
    "content that is a number": chat(messages=[{"role": "user", "content": 5}]),
    "no parts": chat(messages=[{"role": "user", "content": []}]),
    "an image": chat(messages=[{"role": "user", "content": [IMAGE]}]),
    "a text and an image": chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]
    ),
    "a temperature below 0": chat(temperature=-0.1),
    "a temperature that is text": chat(temperature="1"),
    "a temperature that is true": chat(temperature=True),
    "a top_p of 0": chat(top_p=0),
    "a top_k below -1": chat(top_k=-2),
    "an empty stop string among others": chat(stop=["a", ""]),
    "no tokens": chat(max_tokens=0),
    "fewer than no limit": chat(max_tokens=-2),
    "tools one at a time": chat(
        tools=[{"type": "function", "function": {"name": "f"}}], parallel_tool_calls=False
    ),
    "a sound": chat(modalities=["text", "audio"]),
    "a refusal": chat(messages=[{"role": "assistant", "content": "a", "refusal": "no"}]),
    "sources of an answer": chat(
        messages=[{"role": "assistant", "content": "a", "annotations": [{"type": "url_citation"}]}]
    ),
    "half a token": chat(max_tokens=1.5),
    "two limits": chat(max_completion_tokens=7),
    "n of 0": chat(n=0),
    "n of a thousand": chat(n=1000),
    "17 stop strings": chat(stop=["a"] * 17),
    "top_logprobs alone": chat(top_logprobs=2),
    "21 top_logprobs": chat(logprobs=True, top_logprobs=21),
    "stream_options alone": chat(stream_options={"include_usage": True}),
    "an unknown stream option": chat(stream=True, stream_options={"include": True}),
    "a stream that is text": chat(stream="yes"),
    "an unknown format": chat(response_format={"type": "xml"}),
    "a schema that is missing": chat(response_format={"type": "json_schema"}),
    "a seed beyond 64 bits": chat(seed=2**63),
    "a penalty of 3": chat(frequency_penalty=3),
    "a bias of 101": chat(logit_bias={"5": 101}),
    "a bias that is a list": chat(logit_bias=[5]),
}
REFUSED_TEXTS = {
    "a suffix": text(suffix="a"),
    "best_of": text(best_of=2),
    "logprobs that are true": text(logprobs=True),
    "no prompt": {"model": "base"},
    "a prompt that is null": text(prompt=None),
    "no prompts": text(prompt=[]),
    "an empty one among prompts": text(prompt=["a", ""]),
    "a token that there is not": text(prompt=[5, 259]),
    "a token below 0": text(prompt=[-1]),
    "tokens and texts": text(prompt=[5, "a"]),
    "no tokens at all": text(prompt=[[]]),
    "65 prompts": text(prompt=["a"] * 65),
    "nothing to say": text(max_tokens=0),
    "more answers than may wait": text(prompt=["a"] * 64, n=2),
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_field_of_a_chat_request_is_ignored(server, what):
    error_json(server.post(CHAT, **REFUSED[what]))


@pytest.mark.parametrize("what", REFUSED_TEXTS)
def test_no_field_of_a_completion_request_is_ignored(server, what):
    error_json(server.post(TEXT, **REFUSED_TEXTS[what]))


def test_fields_that_are_null_are_as_if_they_were_not_there(server):
    names = (
        *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"),
        *("logit_bias", "seed", "n", "stop", "stream", "stream_options"),
    )
    nulls = dict.fromkeys(names)
    assert server.post(TEXT, **text(**nulls, echo=None, logprobs=None)).status_code == 200
    more = dict.fromkeys(("logprobs", "top_logprobs", "response_format", "max_completion_tokens"))
    assert server.post(CHAT, **chat(**nulls, **more)).status_code == 200


HARMLESS = {
    **{
        name: chat(**{name: value})
        for name, values in REQUEST.items()
        for value in values or ("any", {"of": "them"}, True)
    },
    "unknown and null": chat(reasoning_effort=None, audio=None, prediction=None),
    "the same limit by both names": chat(max_tokens=2, max_completion_tokens=2),
    "a stream without padding": chat(
        stream=True,
        stream_options={
            "include_usage": True, "include_obfuscation": False, "continuous_usage_stats": False
        },
    ),
    "no likely tokens": chat(logprobs=False, top_logprobs=0),
    "a part that is to be kept in a cache": chat(
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "text", "text": "Hello", "annotations": [],
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            }
        ]
    ),
    "calls in parallel, with nothing to call": chat(parallel_tool_calls=False, tools=[]),
    **{
        f"a message's {name}": chat(
            messages=[*HELLO, {"role": "assistant", "content": "Hi.", name: value}, *HELLO]
        )
        for name, values in MESSAGE.items()
        for value in values or ({"refusal": None, "of": "others"},)
    },
    "the message of an answer, sent back": chat(
        messages=[
            *HELLO,
            {
                "role": "assistant", "content": "Hello.", "refusal": None, "annotations": [],
                "audio": None, "function_call": None, "tool_calls": [], "id": "msg_1", "name": "a",
            },
            {**HELLO[0], "name": "Ada", "id": 7},
        ]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_a_field_that_changes_no_answer_does_not_end_a_conversation(server, what):
    found = server.post(CHAT, **HARMLESS[what])
    assert found.status_code == 200, found.text


def test_harmless_fields_change_nothing(server):
    plain = server.post(CHAT, **chat(max_tokens=5, temperature=1, seed=3)).json()["choices"]
    harmless = {"user": "ada", "store": True, "top_k": -1, "metadata": {"a": "b"}, "stop": []}
    assert (
        server.post(CHAT, **chat(max_tokens=5, temperature=1, seed=3, **harmless)).json()["choices"]
        == plain
    )


def test_without_a_model_the_session_in_use_answers(server):
    body = {"messages": HELLO, "max_tokens": 2}
    for given in (body, {**body, "model": None}):
        assert server.post(CHAT, **given).json()["model"] == "head"
    assert server.post(TEXT, prompt="hello", max_tokens=2).json()["model"] == "head"


def test_the_page_of_the_server_lists_every_harmless_field():
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    for fields in (REQUEST, STREAM_OPTIONS, MESSAGE, PART, TOOL, TOOL_CALL):
        assert all(f"`{name}`" in page for name in fields)


def test_embeddings_and_unknown_paths_are_refused_in_the_same_shape(server):
    assert (
        error_json(server.post("/v1/embeddings", input="a", model="base"))["code"]
        == "not_supported"
    )
    error_json(server.post("/v1/images/generations", prompt="a"), 404)
    error_json(server.client.get("/v1/chat/completions"), 405)
    error_json(server.client.get("/docs"), 404)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "ask /v1/chat/completions, with a base URL that ends in /v1"),
        ("/models", "ask /v1/models, with a base URL that ends in /v1"),
        ("/v1/v1/chat/completions", "the base URL ends in /v1 already"),
        ("/v1/responses", "the Responses API is not offered, use /v1/chat/completions"),
        ("/api/generate", "only OpenAI's API is offered"),
    ],
)
def test_a_path_beside_the_point_says_where_to_go(server, path, hint):
    for reply in (server.post(path, model="base"), server.client.get(path)):
        assert hint in error_json(reply, 404)["message"]


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ([IMAGE], "messages.0.content.0.type", "images are not read, only texts are"),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], "messages.0.content.1.type",
         "sounds are not read, only texts are"),
        ([{"type": "hologram"}], "messages.0.content.0.type", "'hologram' is not read"),
        ([{"type": "text", "text": 5}], "messages.0.content.0.text", "valid string"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_read_is_named(server, content, place, said):
    error = error_json(server.post(CHAT, **chat(messages=[{"role": "user", "content": content}])))
    assert error["param"] == place
    assert error["message"].startswith(f"{place}: ")
    assert said in error["message"]


PLAIN = {"type": "text", "text": "a"}
TOOLS = [{"type": "function", "function": {"name": "f", "strict": True}}]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (CHAT, chat(stop=5), "stop: Input should be a valid string or a valid list"),
        (CHAT, chat(stop={"list": 1}), "stop: Input should be a valid string or a valid list"),
        (CHAT, chat(stop=[1]), "stop.0: Input should be a valid string"),
        (CHAT, chat(stop=["a", ""]), "stop.1: String should have at least 1 character"),
        (CHAT, chat(stop=["a"] * 17), "stop: List should have at most 16 items"),
        (CHAT, chat(stop="a" * 1001), "stop: String should have at most 1000 characters"),
        (TEXT, text(prompt=["a"] * 65), "prompt: List should have at most 64 items"),
        (TEXT, text(prompt=[[5]] * 65), "prompt: List should have at most 64 items"),
        (TEXT, text(prompt=[]), "prompt: List should have at least 1 item"),
        (TEXT, text(prompt=[5, "a"]), "prompt.1: Input should be a valid integer"),
        (TEXT, text(prompt=["a", 5]), "prompt.1: Input should be a valid string"),
        (TEXT, text(prompt=[[5, -1]]), "prompt.0.1: Input should be greater than or equal to 0"),
        (TEXT, text(prompt={"a": 5}), "prompt: Input should be a valid string or a valid list"),
        (CHAT, chat(messages=[{"role": "user", "content": []}]),
         "messages.0.content: List should have at least 1 item"),
        (CHAT, chat(messages=[{"role": "user", "content": ["a"]}]),
         "messages.0.content.0: Input should be a valid object"),
        (CHAT, chat(messages=[{"role": "user", "content": {"type": "text", "text": "a"}}]),
         "messages.0.content: Input should be a valid string or a valid list"),
        (CHAT, chat(messages=[{"role": "user"}]), "messages.0: content is missing"),
        (CHAT, chat(tools=TOOLS), "tools.0.function.strict: only false is supported; leave it out"),
        (CHAT, chat(logit_bias={"str": 101}), "logit_bias.str: Input should be less than"),
    ],
)  # fmt: skip
def test_a_refusal_is_about_the_type_that_the_value_has(server, path, body, said):
    error = error_json(server.post(path, **body))
    assert error["message"].startswith(said)
    assert error["param"] == said.partition(": ")[0]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (TEXT, text(best_of=2), "best_of: only 1"),
        (TEXT, text(suffix="b"), 'suffix: only ""'),
        (CHAT, chat(reasoning_effort="low"),
         'reasoning_effort: only "none"'),
        (CHAT, chat(function_call="f"),
         'function_call: only "none" or "auto"'),
        (CHAT, chat(messages=[*HELLO, {"role": "assistant", "content": "a", "refusal": "no"}]),
         'messages.1.refusal: only ""'),
        (CHAT, chat(messages=[{"role": "user", "content": [{**PLAIN, "cache": 1}]}]),
         "messages.0.content.0.cache: this server has no such field"),
        ("/api/rollback", {"best_of": 1}, "best_of: this server has no such field"),
    ],
)  # fmt: skip
def test_a_field_that_is_taken_in_one_value_is_refused_with_that_value(server, path, body, said):
    error = error_json(server.post(path, **body))
    assert error["message"].startswith(said)
    assert error["code"] == "unknown_field"


def test_a_refusal_names_the_field_and_says_that_none_is_ignored(server):
    error = error_json(server.post(CHAT, **chat(chat_template_kwargs={})))
    assert error == {
        "message": "chat_template_kwargs: this server has no such field, and ignores none; leave "
        "it out",
        "type": "invalid_request_error",
        "param": "chat_template_kwargs",
        "code": "unknown_field",
    }


def test_nothing_of_it_reached_the_engine(server):
    assert server.engine.counts.faults == 0
    assert server.engine.running == 0
    assert server.client.get("/health").json() == {"status": "ok"}
