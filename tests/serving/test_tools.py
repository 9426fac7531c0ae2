import json
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.serving.tools import ToolCallFormat, ToolCallParser, ToolSet

WORDS = ToolCallFormat(
    start="<tool_call>", end="</tool_call>", parse=lambda text, _: json.loads(text)
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def parted(pieces, words=WORDS, tools=()):
    parser, text, calls = ToolCallParser(ToolSet(format=words, tools=tools)), "", []
    for number, piece in enumerate(pieces, start=1):
        shown, made = parser.add(piece, is_last=number == len(pieces))
        text, calls = text + shown, calls + made
    return text, [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_text_and_calls_are_the_same_however_the_answer_is_cut(cuts):
    whole = f"Let me see. {CALL}{CALL} <tool ends < here"
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {len(whole)})
    pieces = [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert parted(pieces) == ("Let me see.  <tool ends < here", [("add", '{"a": 1}')] * 2)


def test_a_call_that_cannot_be_read_is_shown_as_it_is():
    broken = "<tool_call>{no json</tool_call>!"
    assert parted(list(broken)) == (broken, [])


@pytest.mark.parametrize(
    "call",
    [
        {"name": "get weather", "arguments": {}},
        {"name": "weather.get", "arguments": {}},
        {"name": "a" * 65, "arguments": {}},
        {"name": "add\n", "arguments": {}},
        {"name": "", "arguments": {}},
        {"name": "add", "arguments": "Prague"},
        {"name": "add", "arguments": ["a"]},
        {"name": "add", "arguments": "7"},
        {"name": "add", "arguments": {"a": float("nan")}},
        {"name": "add", "arguments": {"a": "\ud800"}},
    ],
)
def test_a_call_that_no_program_could_send_back_is_text(call):
    said = f"<tool_call>{json.dumps(call)}</tool_call>"
    assert parted([said]) == (said, [])


@pytest.mark.parametrize("given", [{}, {"arguments": None}, {"arguments": ""}, {"arguments": {}}])
def test_a_call_without_arguments_has_an_empty_object(given):
    said = f"<tool_call>{json.dumps({'name': 'now', **given})}</tool_call>"
    assert parted([said]) == ("", [("now", "{}")])


def test_a_call_that_the_end_cuts_short_counts_where_it_is_whole():
    words = ToolCallFormat(start="[CALLS]", end="", parse=lambda text, _: json.loads(text))
    assert parted(['Yes [CALLS][{"name": "f"},', '{"name": "g"}]'], words) == (
        "Yes ", [("f", "{}"), ("g", "{}")],
    )  # fmt: skip


LLAMA_TEMPLATE = """{% if tools %}Answer as {"name": function name, "parameters": dictionary of
argument name and its value}{% endif %}""".replace("\n", " ")
ADD = [{"type": "function", "function": {"name": "add"}}]


def in_llamas_way(text):
    tokenizer = Mock(template=LLAMA_TEMPLATE, wrapper=Mock(has_tool_calling=False))
    return parted(list(text), ToolCallFormat.of(tokenizer), ADD)


def test_llama_calls_with_bare_json():
    call = '{"name": "add", "parameters": {"a": {"b": "}"}}}'
    arguments = '{"a": {"b": "}"}}'
    assert in_llamas_way(call) == ("", [("add", arguments)])
    assert in_llamas_way(f"{call}; {call}\n") == ("", [("add", arguments)] * 2)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "add"}',
        '{"name": "add", "parameters": {}} and more',
        '{"name": "add", "param',
        '{"names": 3}',
    ],
)
def test_json_that_is_no_call_of_an_offered_tool_is_text(text):
    assert in_llamas_way(text) == (text, [])


@pytest.mark.parametrize("text", ["", "plain", "a < b <tool_cal", "</tool_call>"])
def test_text_without_a_call_is_left_alone(text):
    assert parted(list(text) or [""]) == (text, [])


def test_nothing_of_a_mark_is_shown_before_it_is_known():
    parser = ToolCallParser(ToolSet(format=WORDS, tools=()))
    assert parser.add("Hi <tool", is_last=False) == ("Hi ", [])
    assert parser.add("box>", is_last=False) == ("<toolbox>", [])
