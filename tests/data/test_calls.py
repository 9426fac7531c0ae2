"""Tools and calls in rows: the shapes that are read, and what is said of those that are none."""

import json

import pytest

from mlx_tune.data.calls import ToolCall, find_calls
from mlx_tune.data.read import check, dump, load
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import parse_json

WEATHER = {
    "name": "weather",
    "description": "How it is somewhere.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": WEATHER}]
PARIS = '{"city": "Paris"}'
TOOL = '{"type": "function", "function": {"name": "…", "parameters": {…}}}'
CALL = '{"type": "function", "function": {"name": "…", "arguments": "{…}"}}'
OBJECT = 'write an object, such as {"city": "Paris"}, or {} for none'


def rows_of(*values):
    """The rows of an array that starts on line 1 and has one value a line from line 2 on."""
    text = "[\n" + ",\n".join(map(json.dumps, values)) + "\n]"
    return check(parse_json(text.encode(), "cs.json"), "cs.json")


def problem_of(*values):
    with pytest.raises(InputError) as caught:
        rows_of(*values)
    return str(caught.value)


def user(text="How is it in Paris?"):
    return {"role": "user", "content": text}


def called(*calls, **more):
    return {"role": "assistant", "tool_calls": list(calls), **more}


def call(call_id="c1", name="weather", arguments=PARIS):
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def result(call_id="c1", content="7 degrees"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def said(text="7 degrees."):
    return {"role": "assistant", "content": text}


def row(*messages, tools=TOOLS):
    return {"messages": list(messages), "tools": tools}


READ = Row(
    messages=(
        Message(role="user", content="How is it in Paris?"),
        Message(
            role="assistant",
            content="",
            tool_calls=(ToolCall(id="c1", name="weather", arguments=PARIS),),
        ),
        Message(role="tool", content="7 degrees", tool_call_id="c1"),
        Message(role="assistant", content="7 degrees."),
    ),
    tools=json.dumps(TOOLS),
)


# As it is published


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), json.dumps(TOOLS, indent=2)])
@pytest.mark.parametrize("arguments", [PARIS, json.loads(PARIS), ' {"city":"Paris"}\n'])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_openai_fine_tuning_with_tools_is_read(tools, arguments, content):
    """Tools and arguments as JSON or as its text, which Hugging Face's tables have."""
    made = called(call(arguments=arguments), **content)
    (read,) = rows_of(row(user(), made, result(), said(), tools=tools))
    assert (read, read.passed_over) == (READ, ())


def test_openais_older_functions_are_read():
    (read,) = rows_of(
        {
            "messages": [
                user(),
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "weather", "arguments": PARIS},
                },
                {"role": "function", "name": "weather", "content": "7 degrees"},
                said(),
            ],
            "functions": [WEATHER],
            "function_call": "auto",
        }
    )
    assert without_ids(read) == without_ids(READ)
    assert read.passed_over == ("function_call",)


def test_sharegpt_with_tools_is_read():
    """As LLaMA-Factory's glaive_toolcall has it: tools are a text, and so is each call."""
    function_call = json.dumps({"name": "weather", "arguments": json.loads(PARIS)})
    entries = [
        ("human", "How is it in Paris?"), ("function_call", function_call),
        ("observation", "7 degrees"), ("gpt", "7 degrees."),
    ]  # fmt: skip
    (read,) = rows_of(
        {
            "conversations": [{"from": role, "value": text} for role, text in entries],
            "tools": json.dumps([WEATHER]),
        }
    )
    assert without_ids(read) == without_ids(READ)
    assert read.passed_over == ()


def without_ids(one):
    text = json.dumps(one.to_json())
    for message in one.messages:
        for made in message.tool_calls:
            text = text.replace(f'"{made.id}"', '"id"')
    return text


def test_calls_without_ids_get_some_that_every_template_takes():
    """Mistral's wants nine letters and figures."""
    made = [{"name": "weather", "arguments": {}}] * 2
    (read,) = rows_of(
        {
            "messages": [
                {"from": "human", "value": "?"},
                {"from": "function_call", "value": json.dumps(made)},
                {"from": "observation", "value": "1"},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "!"},
            ]
        }
    )
    assert [made.id for made in read.messages[1].tool_calls] == ["call00001", "call00002"]
    assert [one.tool_call_id for one in read.messages[2:4]] == ["call00001", "call00002"]


@pytest.mark.parametrize("nothing", [None, [], "", "[]", {}])
def test_a_field_of_tools_or_calls_with_nothing_in_it_says_nothing(nothing):
    messages = [user("Q"), {**said("A"), "tool_calls": nothing, "function_call": nothing}]
    (read,) = rows_of({"messages": messages, "tools": nothing})
    plain = (Message(role="user", content="Q"), Message(role="assistant", content="A"))
    assert (read, read.passed_over) == (Row(messages=plain), ())


def test_a_question_with_an_answer_may_have_tools_too():
    (read,) = rows_of({"question": "Q", "answer": "A", "tools": TOOLS})
    assert (read.tools, read.answer) == (json.dumps(TOOLS), "A")


def test_parallel_calls_are_answered_by_their_ids_and_may_say_something_first():
    made = called(call("a"), call("b"), content="Let me see.", weight=0)
    (read,) = rows_of(row(user(), made, result("b", ""), result("a"), said()))
    first = read.messages[1]
    assert (first.content, first.is_taught, len(first.tool_calls)) == ("Let me see.", False, 2)
    assert [one.tool_call_id for one in read.messages[2:4]] == ["b", "a"]


def test_an_id_may_come_again_once_it_was_answered():
    messages = [user(), called(call()), result(), called(call()), result(), said()]
    assert len(rows_of(row(*messages))[0].messages) == 6


def test_what_teaches_nothing_of_tools_and_calls_is_passed_over_and_named():
    made = {**call(), "index": 0}
    made["function"]["parsed"] = None
    (read,) = rows_of(row(user(), called(made), {**result(), "name": "weather"}, said()))
    assert read == READ
    assert read.passed_over == (
        "messages[].tool_calls[].index",
        "messages[].tool_calls[].function.parsed",
        "messages[].name",
    )


def test_a_tool_is_kept_whole_with_its_fields_as_the_server_has_them():
    """Templates print them as they stand, and a request's have one order."""
    shuffled = {"returns": {"type": "string"}, **dict(reversed(WEATHER.items())), "strict": None}
    (read,) = rows_of(row(user(), said(), tools=[shuffled]))
    (function,) = [tool["function"] for tool in read.tools_for_template()]
    assert [*function] == ["name", "description", "parameters", "returns"]


# Kept


def test_a_row_with_tools_is_stored_as_it_is_rendered_and_read_back():
    """Sorted keys would be rendered in another order than those that were trained on."""
    arguments = {"b": 1, "a": {"d": "é", "c": None}}
    parameters = {"type": "object", "properties": {"b": {}, "a": {}}}
    tool = {"name": "f", "parameters": parameters}
    (read,) = rows_of(row(user(), called(call(arguments=arguments)), tools=[tool]))
    (again,) = load(dump([read]), "data.jsonl")
    assert again == read
    (made,) = again.messages[1].for_template()["tool_calls"]
    assert json.dumps(made["function"]["arguments"]) == json.dumps(arguments)
    assert json.dumps(again.tools_for_template()[0]["function"]) == json.dumps(tool)


# Refused


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({"name": "f"}, f'"tools" is an object, not a list; write [{TOOL}]'),
        ("none", '"tools" is text that is no JSON; write it as JSON'),
        ('[{"name": "f", "name": "g"}]', '"tools": duplicate key "name"; write it as JSON'),
        (["f"], f"tool 1 is text, not an object; write {TOOL}"),
        ([{"function": "f"}], f"the function of tool 1 is text; write {TOOL}"),
        ([*TOOLS, {"function": {}}], 'tool 2 has no "name"; add it'),
        ([{"description": "d"}], 'tool 1 has no "name"; add it'),
        ([{"name": " "}], 'the "name" of tool 1 is empty; write that of its function'),
        ([{"name": 7}], 'the "name" of tool 1 is a number, not text; write that of its function'),
        ([{"type": "web_search"}], 'tool 1 has another "type" than "function"; leave it out'),
        (
            [{"name": "f", "parameters": ["city"]}],
            'the "parameters" of "f" is a list, not an object; write a JSON schema',
        ),
    ],
)
def test_tools_that_are_none_are_refused(tools, problem):
    assert problem_of(row(user(), said(), tools=tools)) == f"cs.json:2: {problem}"


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        (["f"], f"call 1 is text, not an object; write {CALL}"),
        ("f()", '"tool_calls" is text that is no JSON; write it as JSON'),
        ([{"id": "c1"}], 'call 1 has no "name"; add it'),
        ([call(), call(name=None)], 'call 2 has no "name"; add it'),
        ([call(7)], 'the "id" of call 1 is a number, not text; quote it'),
        ([{**call(), "type": "custom"}], 'call 1 has another "type" than "function"; leave it out'),
        (
            [call(arguments="Paris")],
            'the "arguments" of "weather" is text that is no JSON; write it as JSON',
        ),
        (
            [call(arguments="")],
            f'the "arguments" of "weather" is text, not an object; {OBJECT}',
        ),
        (
            [call(arguments='{"a": 1, "a": 2}')],
            'the "arguments" of "weather": duplicate key "a"; write it as JSON',
        ),
        (
            [call(arguments='["Paris"]')],
            f'the "arguments" of "weather" is a list, not an object; {OBJECT}',
        ),
        ([call(arguments=None)], f'the "arguments" of "weather" is null, not an object; {OBJECT}'),
    ],
)
def test_calls_that_are_none_are_refused_and_their_results_are_not_blamed(calls, problem):
    messages = [user(), {"role": "assistant", "tool_calls": calls}, result(), said()]
    assert problem_of(row(*messages)) == f"cs.json:2: message 2: {problem}"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            [user(), called(call()), result("c2"), said()],
            'message 3 answers no call "c2" before it; name its call, or leave the row out',
        ),
        (
            [user(), called(call()), result(), result(), said()],
            'message 4 answers no call "c1" before it; name its call, or leave the row out',
        ),
        (
            [user(), {"role": "tool", "content": "7"}, said()],
            "message 2 answers no call before it; name its call, or leave the row out",
        ),
        (
            [user(), called(call()), {"role": "function", "name": "g", "content": "7"}, said()],
            'message 3 answers no call "g" before it; name its call, or leave the row out',
        ),
        (
            [user(), called(call()), result()],
            'the last message is "tool"; end with the assistant\'s answer',
        ),
        (
            [user(), {**called(call()), "function_call": {"name": "f", "arguments": "{}"}}],
            '"tool_calls" and "function_call" in one message; keep one',
        ),
        (
            [{**user(), "tool_calls": [call()]}, said()],
            'message 1 is "user" with "tool_calls", and only the assistant calls; leave it out',
        ),
        (
            [user(), {**said(), "tool_call_id": "c1"}],
            'message 2 is "assistant" with "tool_call_id", and only a call\'s result has one; '
            "leave it out",
        ),
        (
            [{**user(), "tools": TOOLS}, said()],
            '"tools" stands in message 1; put it beside the messages',
        ),
        (
            [user(), called(call()), result(content=None), said()],
            '"content" is null, not text; write one text',
        ),
    ],
)
def test_calls_and_results_out_of_place_are_refused(messages, problem):
    assert problem_of({"messages": messages}) == f"cs.json:2: {problem}"


def test_calls_of_a_row_and_tools_of_a_text_are_refused():
    assert problem_of({"question": "Q", "answer": "A", "tool_calls": [call()]}) == (
        'cs.json:2: "tool_calls" stands in no message; put it into the assistant\'s'
    )
    assert problem_of({"text": "T", "tools": TOOLS}) == (
        'cs.json:2: "text" and "tools" in one row; keep the fields of one shape'
    )
    assert problem_of({"messages": [user(), said()], "tools": TOOLS, "functions": [WEATHER]}) == (
        'cs.json:2: "tools" and "functions" in one row; keep one'
    )


# Found in an answer


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"a": 1, "b": [{}]}}',
        '<tool_call>\n{"name": "f", "arguments": {"b": [{}], "a": 1}}\n</tool_call>',
        'So: {"name":"f","parameters":{"a":1.0,"b":[{}]}}',
        '[TOOL_CALLS] [{"arguments": "{\\"a\\": 1, \\"b\\": [{}]}", "name": "f", "id": "c1"}]',
        '{"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '
        '{"a": 1, "b": [{}]}}}]} {"name": "g"} {',
    ],
)
def test_a_call_is_found_however_it_is_rendered(text):
    assert find_calls(text) == ['{"name": "f", "arguments": {"a": 1, "b": [{}]}}']


@pytest.mark.parametrize("text", ["", "f(a=1)", '{"name": "f"}', '{"name": 1, "arguments": {}}'])
def test_a_text_without_a_call_has_none(text):
    assert find_calls(text) == []


def test_several_calls_are_found_and_sorted():
    one, other = (ToolCall(id="", name=name, arguments="{}").text for name in "fg")
    assert find_calls(f"{other}{one}; {other}") == [one, other, other]


def test_braces_without_an_end_are_no_call():
    assert find_calls('{"a":' * 5000) == []
