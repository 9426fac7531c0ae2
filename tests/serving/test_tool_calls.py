"""Tools in a conversation, from the request to the reply, without a model."""

import asyncio
import json
from dataclasses import replace

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from helpers import chat_templates, tiny
from mlx_tune.data.read import from_values
from mlx_tune.data.tokenise import encode
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.errors import ApiError
from mlx_tune.serving.jobs import TextDelta
from mlx_tune.serving.openai import ChatAccumulator
from mlx_tune.serving.registry import RegisteredModel
from mlx_tune.serving.requests import RequestParser
from mlx_tune.serving.schemas import ChatRequest

TEMPLATE = (
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the user speaks last') }}"
    "{% endif %}{% if tools %}T:{{ tools[0].function.name }};{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments.a }}</tool_call>"
    "{% endfor %};{% endfor %}"
)
MODEL = RegisteredModel(name="base", chain=(), is_folded=False)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


@pytest.fixture
def parser():
    wrapper = TokenizerWrapper(
        tiny.hf_tokenizer(TEMPLATE),
        tool_call_start=json_tools.tool_call_start,
        tool_call_end=json_tools.tool_call_end,
        tool_parser=json_tools.parse_tool_call,
    )
    made = Tokenizer(wrapper=wrapper, template=TEMPLATE, end_ids=frozenset(wrapper.eos_token_ids))
    found = RequestParser(made, vocabulary=300, context=None)
    yield found
    found.close()


def asked(parser, messages, **fields):
    request = ChatRequest.model_validate(
        {"model": "base", "messages": messages, "tools": TOOLS, **fields}
    )
    (ask,) = parser.chat(request, MODEL)
    return ask, parser._text(ask.prompt)


USER = {"role": "user", "content": "1 + 1?"}


async def _pieces(*texts):
    for number, text in enumerate(texts, start=1):
        finish = "stop" if number == len(texts) else None
        yield 0, TextDelta(text=text, tokens=number, finish=finish)


def test_the_template_is_given_the_tools_and_what_was_called(parser):
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
    ask, prompt = asked(
        parser,
        [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
    )
    assert prompt == "T:add;user:1 + 1?;assistant:<tool_call>7</tool_call>;tool:2;"
    assert ask.tools.tools == tuple(TOOLS)


@pytest.mark.parametrize("name", ["qwen2.5", "llama-3.2"])
def test_a_row_is_taught_after_the_prompt_that_its_conversation_is_served_with(name):
    template, specials = chat_templates.ALL[name]
    base = tiny.tokenizer(template, specials)
    marks = {"tool_call_start": "<tool_call>", "tool_call_end": "</tool_call>"}
    wrapper = TokenizerWrapper(
        tiny.hf_tokenizer(template, specials), tool_parser=json_tools.parse_tool_call, **marks
    )
    parser = RequestParser(replace(base, wrapper=wrapper), vocabulary=300, context=None)
    function = {
        "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {}}},
        "name": "add",
        "description": "Adds “two” numbers.",
    }
    arguments = '{"b":1,"a":{"d":"é","c":null}}'
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    turns = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"sum": 2}'},
    ]
    tools = [{"function": function, "type": "function"}]
    answer = {"role": "assistant", "content": "2"}
    (row,) = from_values([{"messages": [*turns, answer], "tools": tools}])
    (example,) = encode([row], base)
    request = ChatRequest.model_validate({"model": "base", "messages": turns, "tools": tools})
    (ask,) = parser.chat(request, MODEL)
    parser.close()
    assert ask.tools is not None
    assert ask.prompt == example.tokens[: example.last_answer]


SAID = [
    {"name": "add", "arguments": {"a": 7}},
    {"name": "add", "arguments": ""},
    {"name": "add", "arguments": "seven"},
    {"name": "add two", "arguments": {"a": 7}},
]


@pytest.mark.parametrize("said", SAID)
def test_an_answer_with_calls_is_taken_in_the_next_turn(parser, said):
    ask, _ = asked(parser, [USER])
    pieces = _pieces(*[f"<tool_call>{json.dumps(said)}</tool_call>"] * 70)
    whole = asyncio.run(ChatAccumulator([ask], model="base").reply(pieces))
    message = whole["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "2"}
        for call in message["tool_calls"] or ()
    ]
    _, prompt = asked(parser, [USER, message, *results, USER])
    assert prompt.count("tool:2;") == len(results) == (70 if said in SAID[:2] else 0)


def test_tools_that_may_not_be_called_are_not_offered(parser):
    ask, prompt = asked(parser, [USER], tool_choice="none")
    assert (ask.tools, prompt) == (None, "user:1 + 1?;")


def test_a_reply_holds_the_call_and_says_that_it_ended_with_it(parser):
    ask, _ = asked(parser, [USER])
    whole = asyncio.run(ChatAccumulator([ask], model="base").reply(_pieces("Let me see.", CALL)))
    (choice,) = whole["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Let me see.")
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_a_stream_shows_no_letter_of_a_call_and_then_the_call(parser):
    ask, _ = asked(parser, [USER])

    async def listen():
        pieces = _pieces("Well. ", *CALL)
        response = ChatAccumulator([ask], model="base")
        return [c async for c in response.chunks(pieces, usage=False)]

    deltas = [chunk["choices"][0] for chunk in asyncio.run(listen())]
    texts = "".join(delta["delta"].get("content") or "" for delta in deltas)
    calls = [call for delta in deltas for call in delta["delta"].get("tool_calls", ())]
    assert texts == "Well. "
    assert [(c["index"], json.loads(c["function"]["arguments"])) for c in calls] == [(0, {"a": 1})]
    assert [d["finish_reason"] for d in deltas if d["finish_reason"]] == ["tool_calls"]


def test_a_conversation_that_the_template_does_not_take_is_refused(parser):
    with pytest.raises(ApiError, match="the user speaks last") as refused:
        asked(parser, [USER, {"role": "assistant", "content": "2"}])
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_arguments_that_are_no_json_are_refused(parser):
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{"}}
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": [called]}]
    with pytest.raises(ApiError, match="the arguments of c1 are no JSON"):
        asked(parser, turns)
