"""Which objects are rows, and what is said of those that are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data.read import check, report
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import parse_json

ROW = '{"instruction": "…", "response": "…"}'
KNOWN = "instruction, prompt, response, output, completion, messages, text, paraphrases"
TURNS = "after an optional system message, user and assistant take turns"
CHAT = (Message(role="user", content="Q"), Message(role="assistant", content="A"))


def rows_of(*values):
    """The rows of an array that starts on line 1 and has one value a line from line 2 on."""
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    text = "[\n" + ",\n".join(lines) + "\n]"
    return check(parse_json(text.encode(), "cs.json"), "cs.json")


def problems_of(*values):
    with pytest.raises(InputError) as caught:
        rows_of(*values)
    return str(caught.value).split("\n")


def turns(*roles):
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


# What is a row


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": "Q", "response": "A"},
        {"instruction": "Q", "output": "A"},
        {"prompt": "Q", "completion": "A"},
        {"completion": "A", "prompt": "Q"},
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"content": "A", "role": "assistant"},
            ]
        },
    ],
)
def test_every_question_shape_gives_the_same_conversation(value):
    assert rows_of(value) == [Row(messages=CHAT)]
    with_paraphrases = value | {"paraphrases": ["P", "R"]}
    assert rows_of(with_paraphrases) == [Row(messages=CHAT, paraphrases=("P", "R"))]


def test_a_text_row_keeps_its_text_as_it_is():
    assert rows_of({"text": " a\nb "}) == [Row(text=" a\nb ")]


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "assistant"),
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant"),
        ("system", "user", "assistant", "user", "assistant"),
    ],
)
def test_a_conversation_may_have_a_system_message_and_many_turns(roles):
    (row,) = rows_of(turns(*roles))
    assert tuple(message.role for message in row.messages) == roles


def test_each_row_may_have_its_own_shape_and_knows_its_place():
    rows = rows_of({"text": "T"}, {"prompt": "Q", "completion": "A"})
    assert rows == [Row(text="T"), Row(messages=CHAT)]
    assert [row.place for row in rows] == ["cs.json:2", "cs.json:3"]


def test_no_items_are_no_rows():
    assert check([], "cs.json") == []


# Names


def test_a_misspelt_field_is_named_with_its_own_line_and_the_nearest_known_name():
    value = '{"instruction": "Q",\n\n"respose": "A"}'
    assert problems_of(value) == ['cs.json:4: "respose" is not a field; did you mean "response"?']


def test_a_field_in_capitals_is_near_its_small_form():
    assert problems_of({"INSTRUCTION": "Q", "response": "A"}) == [
        'cs.json:2: "INSTRUCTION" is not a field; did you mean "instruction"?'
    ]


def test_a_field_like_no_other_gets_the_list_of_fields():
    assert problems_of({"instruction": "Q", "response": "A", "id": 7}) == [
        f'cs.json:2: "id" is not a field; known are {KNOWN}'
    ]


def test_a_field_of_a_message_is_compared_with_a_messages_fields():
    value = (
        '{"messages": [\n{"role": "user",\n"contnet": "Q"}, {"role": "assistant", "text": "A"}]}'
    )
    assert problems_of(value) == [
        'cs.json:4: "contnet" is not a field; did you mean "content"?',
        'cs.json:4: "text" is not a field; known are role, content',
    ]


def test_a_misspelt_role_is_named_with_its_line_and_the_nearest_role():
    value = '{"messages": [\n{"content": "Q",\n"role": "usr"}]}'
    assert problems_of(value) == ['cs.json:4: "usr" is not a role; did you mean "user"?']


def test_a_role_like_no_other_gets_the_list_of_roles():
    assert problems_of(turns("bot")) == [
        'cs.json:2: "bot" is not a role; known are system, user, assistant'
    ]


# Values


@pytest.mark.parametrize("empty", ["", " ", "\n\t\u3000"])
@pytest.mark.parametrize("name", ["instruction", "response"])
def test_an_empty_text_is_refused(name, empty):
    value = {"instruction": "Q", "response": "A"} | {name: empty}
    assert problems_of(value) == [
        f'cs.json:2: "{name}" is empty; write its text, or leave the row out'
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "a number"),
        (0.5, "a number"),
        (True, "true"),
        (None, "null"),
        (["A"], "a list"),
        ({"a": "A"}, "an object"),
    ],
)
@pytest.mark.parametrize(
    ("name", "other"), [("completion", "prompt"), ("prompt", "completion"), ("text", None)]
)
def test_what_is_not_text_where_text_belongs_is_refused(name, other, value, words):
    row = {name: value} | ({other: "x"} if other else {})
    assert problems_of(row) == [f'cs.json:2: "{name}" is {words}, not text; write it in quotes']


def test_a_number_as_a_messages_content_is_refused_on_its_own_line():
    value = '{"messages": [{"role": "user",\n"content": 7}, {"role": "assistant", "content": "A"}]}'
    assert problems_of(value) == ['cs.json:3: "content" is a number, not text; write it in quotes']


def test_a_role_that_is_not_text_is_refused():
    assert problems_of({"messages": [{"role": 7, "content": "Q"}]}) == [
        'cs.json:2: "role" is a number, not text; use one of system, user, assistant'
    ]


@pytest.mark.parametrize(
    ("row", "words"), [("7", "a number"), ('"Q"', "text"), ("[]", "a list"), ("null", "null")]
)
def test_a_row_that_is_no_object_is_refused(row, words):
    assert problems_of(row) == [f"cs.json:2: a row is an object, not {words}; write {ROW}"]


# Shapes


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("instruction", "response"),
        ("response", "instruction"),
        ("output", "instruction"),
        ("prompt", "completion"),
        ("completion", "prompt"),
    ],
)
def test_half_a_pair_is_refused_with_the_name_of_the_other_half(name, missing):
    value = '{"paraphrases": ["P"],\n' + f'"{name}": "x"}}'
    assert problems_of(value) == [f'cs.json:3: "{name}" without "{missing}"; add "{missing}"']


@pytest.mark.parametrize("row", ["{}", '{"paraphrases": ["P"]}'])
def test_a_row_with_nothing_to_learn_is_refused(row):
    assert problems_of(row) == [f"cs.json:2: a row without text to learn; write {ROW}"]


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("instruction", "completion"), '"instruction" and "completion"'),
        (("instruction", "response", "output"), '"response" and "output"'),
        (("instruction", "response", "text"), '"response" and "text"'),
        (("text", "prompt"), '"text" and "prompt"'),
    ],
)
def test_fields_of_two_shapes_in_one_row_are_refused_on_the_second_ones_line(names, pair):
    value = "{" + ",\n".join(f'"{name}": "x"' for name in names) + "}"
    line = 1 + len(names)
    assert problems_of(value) == [
        f"cs.json:{line}: {pair} in one row; keep the fields of one shape"
    ]


def test_messages_and_a_pair_in_one_row_are_refused():
    assert problems_of(turns("user", "assistant") | {"prompt": "Q"}) == [
        'cs.json:2: "messages" and "prompt" in one row; keep the fields of one shape'
    ]


# Conversations


@pytest.mark.parametrize(
    ("messages", "found"),
    [("x", "is text, not a list"), ({}, "is an object, not a list"), ([], "is empty")],
)
def test_messages_must_be_a_list_with_something_in_it(messages, found):
    example = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    assert problems_of({"messages": messages}) == [
        f'cs.json:2: "messages" {found}; write {example}'
    ]


def test_a_message_that_is_no_object_is_refused():
    example = '{"role": "user", "content": "…"}'
    assert problems_of({"messages": ["Q"]}) == [
        f"cs.json:2: message 1 is text, not an object; write {example}"
    ]


def test_a_message_without_role_or_content_is_refused():
    value = '{"messages": [{"role": "user"},\n{"content": "A"}, {}]}'
    assert problems_of(value) == [
        'cs.json:2: message 1 has no "content"; add it',
        'cs.json:3: message 2 has no "role"; add it',
        'cs.json:3: message 3 has no "role"; add it',
        'cs.json:3: message 3 has no "content"; add it',
    ]


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (("assistant",), f'message 1 is "assistant" where "user" belongs; {TURNS}'),
        (("user", "user"), f'message 2 is "user" where "assistant" belongs; {TURNS}'),
        (("system", "assistant"), f'message 2 is "assistant" where "user" belongs; {TURNS}'),
        (("system", "system"), f'message 2 is "system" where "user" belongs; {TURNS}'),
        (("user", "assistant", "system"), f'message 3 is "system" where "user" belongs; {TURNS}'),
        (("user",), 'the last message is "user"; end with the assistant\'s answer'),
        (
            ("user", "assistant", "user"),
            'the last message is "user"; end with the assistant\'s answer',
        ),
        (("system",), 'the last message is "system"; end with the assistant\'s answer'),
    ],
)
def test_messages_out_of_turn_are_refused(roles, problem):
    assert problems_of(turns(*roles)) == [f"cs.json:2: {problem}"]


def test_a_message_out_of_turn_is_refused_on_its_own_line():
    user = '{"role": "user", "content": "x"}'
    assert problems_of(f'{{"messages": [{user},\n{user}]}}') == [
        f'cs.json:3: message 2 is "user" where "assistant" belongs; {TURNS}'
    ]


# Paraphrases


@pytest.mark.parametrize(
    ("paraphrases", "problem"),
    [
        ([], '"paraphrases" is empty; write ["…", "…"], or leave it out'),
        ("P", '"paraphrases" is text, not a list; write ["…", "…"]'),
        (["P", 7], "paraphrase 2 is a number, not text; write it in quotes"),
        (["P", " "], "paraphrase 2 is empty; write its text, or leave the row out"),
    ],
)
def test_paraphrases_must_be_texts(paraphrases, problem):
    row = {"instruction": "Q", "response": "A", "paraphrases": paraphrases}
    assert problems_of(row) == [f"cs.json:2: {problem}"]


def test_a_text_row_has_no_paraphrases():
    assert problems_of({"text": "T", "paraphrases": ["P"]}) == [
        'cs.json:2: "paraphrases" reword a question, and "text" asks none; remove them'
    ]


# All at once


def test_every_problem_of_every_row_is_told_in_the_order_of_the_lines():
    assert problems_of(
        '{"paraphrases": [],\n"instruction": "",\n"respose": 7}', "7", {"text": "fine"}, {"text": 7}
    ) == [
        'cs.json:2: "paraphrases" is empty; write ["…", "…"], or leave it out',
        'cs.json:3: "instruction" is empty; write its text, or leave the row out',
        'cs.json:4: "respose" is not a field; did you mean "response"?',
        f"cs.json:5: a row is an object, not a number; write {ROW}",
        'cs.json:7: "text" is a number, not text; write it in quotes',
    ]


@pytest.mark.parametrize(
    ("number", "last"), [(1, "p0"), (20, "p19"), (21, "… and 1 more"), (1221, "… and 1,201 more")]
)
def test_a_report_shows_twenty_problems_and_counts_the_rest(number, last):
    problems = [f"p{i}" for i in range(number)]
    lines = report(problems).split("\n")
    assert lines[:20] == problems[:20]
    assert lines[-1] == last
    assert len(lines) == min(number, 21)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "messages", "text", "prompt", "paraphrases", "x"]),
            inner | st.sampled_from(["user", "assistant"]),
        )
    ),
    max_leaves=15,
)


@given(st.lists(json_values, max_size=4))
def test_any_json_is_rows_or_refused_with_lines_that_exist(values):
    try:
        rows = rows_of(*map(json.dumps, values))
    except InputError as error:
        numbers = [int(line.split(":")[1]) for line in str(error).split("\n")]
        assert numbers == sorted(numbers)
        assert all(2 <= number <= len(values) + 1 for number in numbers)
    else:
        assert len(rows) == len(values)
        assert all((row.text is None) != (not row.messages) for row in rows)
