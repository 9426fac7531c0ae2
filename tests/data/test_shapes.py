"""Which objects are rows, in the shapes of public data, and what is said of those that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data.read import check
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import parse_json

OTHERS = ("paraphrases", "wordings", "replaces")
QUESTIONS = ("instruction", "prompt", "question", "query", "inputs")
ANSWERS = ("response", "output", "completion", "answer", "targets")
ROW = '{"instruction": "…", "response": "…"}'
LEARNED = (
    "system, user, assistant, tool, developer, human, gpt, chatgpt, model, bot, function_call, "
    "function, observation"
)
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


def pair(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


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
        *({one: "Q", other: "A"} for one in QUESTIONS for other in ANSWERS),
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
    others = {"paraphrases": ["P", "R"], "wordings": ["S"], "replaces": ["q", "qu"]}
    read = {name: tuple(texts) for name, texts in others.items()}
    assert rows_of(value | others) == [Row(messages=CHAT, **read)]


def test_a_text_row_keeps_its_text_as_it_is():
    assert rows_of({"text": " a\nb "}) == [Row(text=" a\nb ")]


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "assistant"),
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant"),
        ("system", "user", "assistant", "user", "assistant"),
        ("user", "user", "assistant", "assistant"),
        ("assistant",),
        ("system", "assistant", "user", "assistant"),
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


def test_a_field_of_a_message_is_compared_with_a_messages_fields():
    value = (
        '{"messages": [\n{"role": "user",\n"contnet": "Q"}, {"role": "assistant", "text": "A"}]}'
    )
    assert problems_of(value) == [
        'cs.json:4: "contnet" is not a field; did you mean "content"?',
        'cs.json:4: message 2 has no "content"; add it',
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("respose", "response"),
        ("Question", "question"),
        ("SystemPrompt", "system_prompt"),
        ("Inputs", "inputs"),
        ("conversation", "conversations"),
        ("paraphrase", "paraphrases"),
    ],
)
def test_a_field_that_is_nearly_a_known_one_is_no_field_to_pass_over(name, near):
    assert problems_of({"text": "T", name: "x"}) == [
        f'cs.json:2: "{name}" is not a field; did you mean "{near}"?'
    ]


def test_a_field_nearly_that_of_another_in_the_row_is_refused_without_a_wrong_hint():
    assert problems_of({"question": "Q", "answer": "A", "answers": ["A"]}) == [
        'cs.json:2: "answers" is not a field; "answer" is there already, so remove it'
    ]


@pytest.mark.parametrize(
    "name",
    [
        "id", "source", "category", "score", "language", "prompt_id", "question_id", "questionId",
        "answer_start", "conversation_id", "conversationHash", "text-length", "original_text",
        "custom_instruction",
    ],
)  # fmt: skip
def test_a_field_that_teaches_nothing_is_passed_over_and_named(name):
    (row,) = rows_of({name: 7, "instruction": "Q", "response": "A"})
    assert (row, row.passed_over) == (Row(messages=CHAT), (name,))


def test_a_misspelt_field_with_null_in_it_is_passed_over():
    (row,) = rows_of({"respose": None, "instruction": "Q", "response": "A"})
    assert (row, row.passed_over) == (Row(messages=CHAT), ("respose",))


def test_fields_of_messages_and_of_their_parts_are_passed_over_and_named():
    part = {"type": "text", "text": "Q", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [part], "name": "Ann"},
        {"role": "assistant", "content": "A", "name": "Bot", "refusal": None},
    ]
    (row,) = rows_of({"messages": messages})
    assert row == Row(messages=CHAT)
    assert row.passed_over == (
        "messages[].name", "messages[].content[].cache_control", "messages[].refusal"
    )  # fmt: skip


def test_a_misspelt_role_is_named_with_its_line_and_the_nearest_role():
    value = '{"messages": [\n{"content": "Q",\n"role": "usr"}]}'
    assert problems_of(value) == ['cs.json:4: "usr" is not a role; did you mean "user"?']


def test_a_role_like_no_other_gets_the_list_of_roles():
    assert problems_of(turns("narrator")) == [
        f'cs.json:2: "narrator" is not a role; known are {LEARNED}'
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
    fix = "write it in quotes" if isinstance(value, int | float) else "write one text"
    assert problems_of(row) == [f'cs.json:2: "{name}" is {words}, not text; {fix}']


def test_a_number_as_a_messages_content_is_refused_on_its_own_line():
    value = '{"messages": [{"role": "user",\n"content": 7}, {"role": "assistant", "content": "A"}]}'
    assert problems_of(value) == ['cs.json:3: "content" is a number, not text; write it in quotes']


def test_a_role_that_is_not_text_is_refused():
    assert problems_of({"messages": [{"role": 7, "content": "Q"}]}) == [
        'cs.json:2: "role" is a number, not text; use one of system, user, assistant, tool'
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
        ("question", "answer"),
        ("answer", "question"),
        ("query", "response"),
        ("inputs", "targets"),
        ("targets", "inputs"),
    ],
)
def test_half_a_pair_is_refused_with_the_name_of_the_other_half(name, missing):
    value = '{"paraphrases": ["P"],\n' + f'"{name}": "x"}}'
    assert problems_of(value) == [f'cs.json:3: "{name}" without "{missing}"; add "{missing}"']


@pytest.mark.parametrize(
    ("given", "without"),
    [
        (("instruction", "input"), '"instruction" without "output"; add "output"'),
        (("instruction", "history"), '"instruction" without "output"; add "output"'),
        (("instruction", "context"), '"instruction" without "response"; add "response"'),
        (("question", "system_prompt"), '"question" without "response"; add "response"'),
        (
            ("input", "output"),
            '"output" without "instruction"; add "instruction", or rename "input" to it',
        ),
        (("context", "answer"), '"answer" without "question"; add "question"'),
    ],
)
def test_half_a_pair_is_told_of_the_other_half_that_its_kind_of_data_has(given, without):
    row = {name: [["q", "a"]] if name == "history" else "x" for name in given}
    assert problems_of(row) == [f"cs.json:2: {without}"]


@pytest.mark.parametrize(
    "row",
    [
        "{}", '{"id": 7, "body": "b"}', '{"system": "S"}', '{"input": "I", "id": 7}',
        *(f'{{"{name}": ["P"]}}' for name in OTHERS),
    ],
)  # fmt: skip
def test_a_row_with_nothing_to_learn_is_refused(row):
    assert problems_of(row) == [f"cs.json:2: a row without text to learn; write {ROW}"]


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("instruction", "response", "output"), '"response" and "output"'),
        (("instruction", "question", "response"), '"instruction" and "question"'),
        (("response", "input", "answer"), '"response" and "answer"'),
        (("text", "prompt"), '"text" and "prompt"'),
        (("text", "system"), '"text" and "system"'),
        (("question", "messages"), '"question" and "messages"'),
        (("messages", "input"), '"messages" and "input"'),
        (("messages", "history"), '"messages" and "history"'),
        (("messages", "conversations"), '"messages" and "conversations"'),
    ],
)
def test_fields_of_two_shapes_in_one_row_are_refused_on_the_second_ones_line(names, pair):
    values = {name: json.dumps("x") for name in names}
    values |= {name: json.dumps(turns("user", "assistant")["messages"]) for name in names
               if name in ("messages", "conversations")}  # fmt: skip
    value = "{" + ",\n".join(f'"{name}": {text}' for name, text in values.items()) + "}"
    line = 2 + names.index(pair.split('"')[3])
    assert problems_of(value) == [
        f"cs.json:{line}: {pair} in one row; keep the fields of one shape"
    ]


@pytest.mark.parametrize("pair", [("input", "context"), ("system", "system_prompt")])
def test_two_fields_for_one_optional_part_are_refused(pair):
    row = {"question": "Q", "answer": "A"} | dict.fromkeys(pair, "x")
    assert problems_of(row) == [f'cs.json:2: "{pair[0]}" and "{pair[1]}" in one row; keep one']


def test_columns_of_the_other_shape_with_nothing_in_them_are_no_fields_of_a_row():
    """As a table has them that was made of rows of several shapes."""
    rows = [
        {"instruction": "Q", "response": "A", "prompt": None, "text": "", "messages": []},
        {"text": "T", "instruction": None, "response": " ", "input": "", "history": None},
        {"messages": pair("Q", "A"), "prompt": None, "completion": None, "text": None},
    ]
    assert rows_of(*rows) == [Row(messages=CHAT), Row(text="T"), Row(messages=CHAT)]


# A field that says again what others say


def test_a_prompt_beside_messages_is_passed_over_where_a_user_says_it():
    (row,) = rows_of({"prompt": " Q ", "messages": pair("Q", "A")})
    assert (row, row.passed_over) == (Row(messages=CHAT), ("prompt",))


@pytest.mark.parametrize("prompt", ["A", "Else?"])
def test_a_prompt_that_no_user_of_the_messages_says_is_refused(prompt):
    assert problems_of({"messages": pair("Q", "A"), "prompt": prompt}) == [
        'cs.json:2: "messages" and "prompt" in one row; keep the fields of one shape'
    ]


@pytest.mark.parametrize("text", ["Q", "A", "Else"])
def test_a_text_beside_a_pair_that_does_not_hold_both_is_refused(text):
    assert problems_of({"instruction": "Q", "output": "A", "text": text}) == [
        'cs.json:2: "output" and "text" in one row; keep the fields of one shape'
    ]


def test_a_system_field_beside_messages_comes_first_and_is_not_said_twice():
    system = Message(role="system", content="S")
    with_one = [{"role": "system", "content": "S"}, *pair("Q", "A")]
    rows = rows_of(
        {"messages": pair("Q", "A"), "system": "S"}, {"messages": with_one, "system": "S"}
    )
    assert rows == [Row(messages=(system, *CHAT))] * 2
    assert [row.passed_over for row in rows] == [(), ("system",)]
    assert problems_of({"messages": with_one, "system": "Else"}) == [
        'cs.json:2: "system" beside another system message; keep one'
    ]


# A prompt and a completion of messages, as TRL has them


def test_lists_of_messages_are_one_conversation_of_which_only_the_completion_is_taught():
    (row,) = rows_of({"prompt": [*pair("Q", "A"), *pair("R", "B")[:1]],
                      "completion": pair("R", "B")[1:], "paraphrases": ["P"]})  # fmt: skip
    given = Message(role="assistant", content="A", is_taught=False)
    asked, answer = (Message(role=m["role"], content=m["content"]) for m in pair("R", "B"))
    assert row == Row(messages=(CHAT[0], given, asked, answer), paraphrases=("P",))


def test_a_system_field_comes_before_a_prompt_of_messages():
    prompt, completion = pair("Q", "A")[:1], pair("Q", "A")[1:]
    (row,) = rows_of({"system": "S", "prompt": prompt, "completion": completion})
    assert row == Row(messages=(Message(role="system", content="S"), *CHAT))


@pytest.mark.parametrize(("name", "value"), [("input", "I"), ("history", [["q", "a"]])])
def test_what_would_stand_around_a_question_is_refused_beside_messages(name, value):
    prompt, completion = pair("Q", "A")[:1], pair("Q", "A")[1:]
    assert problems_of({"prompt": prompt, "completion": completion, name: value}) == [
        f'cs.json:2: "{name}" beside a list of messages; put it into a message'
    ]


@pytest.mark.parametrize("name", ["prompt", "completion"])
def test_a_list_beside_a_text_is_refused(name):
    row = {"prompt": "Q", "completion": "A"} | {name: pair("Q", "A")}
    assert problems_of(row) == [f'cs.json:2: "{name}" is a list, not text; write one text']


# What sets of preferences have


def test_an_answer_that_nobody_wants_is_not_taught():
    assert problems_of({"prompt": "Q", "completion": "A", "label": False}) == [
        'cs.json:2: "label" false marks an answer that nobody wants; leave the row out'
    ]
    (row,) = rows_of({"prompt": "Q", "completion": "A", "label": True})
    assert (row, row.passed_over) == (Row(messages=CHAT), ("label",))


@pytest.mark.parametrize("label", ["False", "FALSE", "false "])
def test_a_table_marks_an_answer_that_nobody_wants_in_text(label):
    assert problems_of({"prompt": "Q", "completion": "A", "label": label}) == [
        'cs.json:2: "label" false marks an answer that nobody wants; leave the row out'
    ]
    assert rows_of({"text": "T", "label": label}) == [Row(text="T")]  # what a claim is


@pytest.mark.parametrize("label", [0, 1, "0", "True", "bad", None])
def test_a_label_may_be_that_of_a_class(label):
    assert rows_of({"prompt": "Q", "completion": "A", "label": label}) == [Row(messages=CHAT)]


TAUGHT = "to have it taught"


@pytest.mark.parametrize(
    ("row", "name", "fix"),
    [
        ({"prompt": "Q", "chosen": "A"}, "completion", TAUGHT),
        ({"prompt": pair("Q", "A")[:1], "chosen": pair("Q", "A")[1:]}, "completion", TAUGHT),
        ({"prompt": "Q", "chosen": pair("Q", "A")}, "messages", TAUGHT),
        ({"chosen": pair("Q", "A")}, "messages", TAUGHT),
        (
            {"chosen": "Human: Q\n\nAssistant: A"}, "text",
            'to have all of it learned, or write its turns as "messages"',
        ),
    ],
)  # fmt: skip
def test_a_chosen_and_a_rejected_answer_are_told_what_can_be_done_and_that_works(row, name, fix):
    assert problems_of(row | {"rejected": "B"}) == [
        'cs.json:2: "chosen" is an answer of a set of preferences, which are not trained on; '
        f'name it "{name}" {fix}'
    ]
    (read,) = rows_of({name if key == "chosen" else key: value for key, value in row.items()})
    assert read == (Row(text=row["chosen"]) if name == "text" else Row(messages=CHAT))


def test_preferences_beside_messages_are_passed_over():
    """HuggingFaceH4/ultrafeedback_binarized."""
    chat = pair("Q", "A")
    row = {"prompt": "Q", "prompt_id": "h", "chosen": chat, "rejected": chat, "messages": chat}
    (read,) = rows_of(row | {"score_chosen": 8.5})
    assert (read, {"chosen", "rejected"} - {*read.passed_over}) == (Row(messages=CHAT), set())


# What a row says in fields that are not read


@pytest.mark.parametrize("name", ["image", "images", "audio", "audios", "video", "videos"])
@pytest.mark.parametrize("row", [{"messages": pair("Q", "A")}, {"prompt": "Q", "completion": "A"}])
def test_a_row_with_more_than_text_is_refused(row, name):
    for value in ("a.jpg", ["a.jpg"], {"path": "a.jpg"}):
        assert problems_of(row | {name: value}) == [
            f'cs.json:2: "{name}" is not read, only texts are; leave the row out, or the field if '
            "the text says all"
        ]
    for value in ("", [], {}, None, False):
        assert rows_of(row | {name: value}) == [Row(messages=CHAT)]


@pytest.mark.parametrize("name", ["options", "choices"])
def test_options_that_the_question_does_not_name_are_refused(name):
    row = {"question": "Which is prime?", "answer": "B"}
    for value in (["4", "7"], {"label": ["A", "B"], "text": ["4", "7"]}, "A. 4 B. 7"):
        (problem,) = problems_of(row | {name: value})
        assert problem.startswith(
            f'cs.json:2: "{name}" is not read, and "question" may ask about it; '
        )
    for value in (["4", "7"], [], None, {"temperature": 1}):
        (read,) = rows_of(row | {"question": "Which is prime, 4 or 7?", name: value})
        assert read.passed_over == (name,)
    chat = {"messages": pair("Which is prime? A. 4 B. 7", "B"), name: ["four", "seven"]}
    assert rows_of(chat)[0].passed_over == (name,)


@pytest.mark.parametrize("name", ["article", "passage"])
def test_a_text_that_a_question_is_about_is_refused_by_another_name_than_context(name):
    row = {"question": "Who?", "answer": "Ann did."}
    assert problems_of(row | {name: "Ann did."}) == [
        f'cs.json:2: "{name}" is not read, and "question" may ask about it; name it "context", or '
        "leave the field out"
    ]
    assert rows_of(row | {"context": "Ann did.", name: "Ann did."})[0].passed_over == (name,)
    assert problems_of(row | {"context": "So did Bob.", name: "Ann did."}) == [
        f'cs.json:2: "{name}" is not read, and "question" may ask about it; write it into the '
        "question, or leave the field out"
    ]
    assert rows_of({"text": "T", name: "Ann did."})[0].passed_over == (name,)


def test_one_message_of_a_tree_is_no_text_to_learn():
    """OpenAssistant/oasst1, one message a row."""
    row = {"message_id": "2", "parent_id": None, "text": "4", "role": "assistant", "lang": "en"}
    assert problems_of(row) == [
        'cs.json:2: "text" with "role" and "parent_id" is one message of a tree; write each '
        'conversation as one row of "messages"'
    ]
    assert rows_of({"text": "4", "role": "clerk"}) == [Row(text="4")]


def test_blanks_around_the_name_of_a_field_are_no_part_of_it():
    (row,) = rows_of({"instruction": "Q", "input ": "I", " output": "A", "id ": 1})
    assert (row.question, row.answer, row.passed_over) == ("Q\n\nI", "A", ("id",))
    assert rows_of({"messages": [{" role": "user", "content ": "Q"}, *pair("Q", "A")[1:]]}) == [
        Row(messages=CHAT)
    ]
    assert problems_of({"instruction": "Q", "output": "A", "input": "I", "input ": "J"}) == [
        'cs.json:2: "input " is not a field; "input" is there already, so remove it'
    ]


# Conversations


def test_a_developers_message_is_the_systems():
    messages = [{"role": "developer", "content": "S"}, *pair("Q", "A")]
    assert rows_of({"messages": messages}) == [
        Row(messages=(Message(role="system", content="S"), *CHAT))
    ]


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
        (("system", "system", "user", "assistant"), 2),
        (("user", "assistant", "system", "assistant"), 3),
        (("user",), 'the last message is "user"; end with the assistant\'s answer'),
        (
            ("user", "assistant", "user"),
            'the last message is "user"; end with the assistant\'s answer',
        ),
        (("system",), 'the last message is "system"; end with the assistant\'s answer'),
    ],
)
def test_messages_out_of_turn_are_refused(roles, problem):
    if isinstance(problem, int):
        problem = (
            f'message {problem} is "system"; only the first may be, so join them or leave it out'
        )
    assert problems_of(turns(*roles)) == [f"cs.json:2: {problem}"]


def test_an_empty_system_message_is_left_out_alone():
    messages = [{"role": "system", "content": ""}, *pair("Q", "A")]
    assert problems_of({"messages": messages}) == [
        'cs.json:2: "content" is empty; write its text, or leave the message out'
    ]


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_entries_name_role_and_content_in_either_way(field):
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert rows_of({field: sharegpt}, {field: pair("Q", "A")}) == [Row(messages=CHAT)] * 2


@pytest.mark.parametrize("role", ["assistant", "gpt", "chatgpt", "model", "bot"])
def test_every_name_of_the_assistant_is_read(role):
    entries = [{"from": "system", "value": "S"}, {"from": "user", "value": "Q"}]
    (row,) = rows_of({"conversations": [*entries, {"from": role, "value": "A"}]})
    assert row == Row(messages=(Message(role="system", content="S"), *CHAT))


def test_a_sharegpt_entry_is_told_what_it_misses_in_its_own_words():
    entries = '[{"from": "human"},\n{"value": "A"},\n{"from": "gpt", "role": "user", "value": "A"}]'
    assert problems_of(f'{{"conversations": {entries}}}') == [
        'cs.json:2: message 1 has no "value"; add it',
        'cs.json:3: message 2 has no "from"; add it',
        'cs.json:4: "role" and "from" in one message; keep one',
    ]


# Weights


def weighted(*weights):
    """A user's message, then an assistant's of each weight; None for none."""
    answers = [{"role": "assistant", "content": "A"} | ({} if one is None else {"weight": one})
               for one in weights]  # fmt: skip
    return {"messages": [{"role": "user", "content": "Q"}, *answers]}


def test_an_answer_of_weight_nought_is_given_and_not_taught():
    (row,) = rows_of(weighted(0, 0.0, False, 1, 1.0, True, None))
    assert [message.is_taught for message in row.messages[1:]] == [False] * 3 + [True] * 4
    assert (row.question, row.answer) == ("Q", "A")


def test_a_row_whose_last_answer_is_not_taught_is_not_asked():
    (row,) = rows_of(weighted(1, 0))
    assert (row.question, row.answer) == (None, "A")
    assert problems_of(weighted(1, 0) | {"wordings": ["q?"]}) == [
        'cs.json:2: "wordings" lists questions, and the row ends with no taught answer to one; '
        "remove it"
    ]


def test_a_conversation_without_a_taught_answer_is_refused():
    assert problems_of(weighted(0, 0)) == [
        "cs.json:2: every answer is marked as given, so none is taught; mark one otherwise, or "
        "leave the row out"
    ]


@pytest.mark.parametrize("name", ["train", "training", "loss"])
def test_other_names_for_whether_an_answer_is_taught_are_read(name):
    """Axolotl's two and ms-swift's."""
    wrong, right = ({"role": "assistant", "content": "A", name: one} for one in (False, True))
    (row,) = rows_of({"messages": [{"role": "user", "content": "Q", name: False}, wrong, right]})
    assert [message.is_taught for message in row.messages] == [True, False, True]
    assert row.passed_over == ()
    assert not rows_of({"messages": [*pair("Q", "A"), right | {"weight": 0}]})[0].question
    assert problems_of({"messages": [*pair("Q", "A"), wrong | {name: "no"}]}) == [
        f'cs.json:2: the "{name}" of message 3 is "no"; write true or false'
    ]
    (row,) = rows_of({"messages": [*pair("Q", "A"), right | {"trait": "kind", "lost": 1}]})
    assert row.passed_over == ("messages[].trait", "messages[].lost")


@pytest.mark.parametrize(("weight", "shown"), [(0.5, "0.5"), ("1", '"1"'), ([], "[]"), (-1, "-1")])
def test_another_weight_is_refused(weight, shown):
    assert problems_of(weighted(weight)) == [
        f'cs.json:2: the "weight" of message 2 is {shown}; write 0 or 1'
    ]


def test_a_users_message_has_no_weight_but_nought():
    first = {"from": "human", "value": "Q", "weight": 0.0}
    last = {"from": "gpt", "value": "A", "weight": 1.0}
    assert rows_of({"conversations": [first, last]}) == [Row(messages=CHAT)]
    assert problems_of({"conversations": [first | {"weight": 1}, last]}) == [
        'cs.json:2: message 1 is "user" with "weight" 1, and only answers are taught; leave it out'
    ]


# Content in parts


def test_the_texts_of_parts_are_joined():
    parts = [{"type": "input_text", "text": "Wh"}, {"type": "text", "text": "o?"}]
    answer = [{"type": "output_text", "text": "Me."}]
    (row,) = rows_of({"messages": pair(parts, answer)})
    assert [message.content for message in row.messages] == ["Who?", "Me."]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (
            {"type": "image_url", "image_url": {"url": "u"}},
            'message 1: "image_url" is not read; only texts are',
        ),
        ({"type": "input_audio"}, 'message 1: "input_audio" is not read; only texts are'),
        ({"text": "Q"}, "a part of message 1 is no text; write {}"),
        ({"type": "text"}, "a part of message 1 is no text; write {}"),
        ("Q", "a part of message 1 is text, not an object; write {}"),
    ],
)
def test_any_other_part_is_refused(part, problem):
    problem = problem.replace("{}", '{"type": "text", "text": "…"}')
    for content in ([part], [{"type": "text", "text": "Q"}, part]):
        assert problems_of({"messages": pair(content, "A")}) == [f"cs.json:2: {problem}"]


def test_no_parts_are_an_empty_content():
    assert problems_of({"messages": pair([], "A")}) == [
        'cs.json:2: "content" is empty; write its text, or leave the row out'
    ]


# Input, system and history


@pytest.mark.parametrize("name", ["input", "context"])
def test_the_context_of_a_question_follows_it(name):
    rows = rows_of(
        {"instruction": "Q", name: "I\nJ", "output": "A"},
        *({"instruction": "Q", name: nothing, "output": "A"} for nothing in ("", " ", None)),
    )
    assert [row.question for row in rows] == ["Q\n\nI\nJ", "Q", "Q", "Q"]
    assert all(row.passed_over == () for row in rows)
    assert problems_of({"instruction": "Q", name: 7, "output": "A"}) == [
        f'cs.json:2: "{name}" is a number, not text; write it in quotes'
    ]


SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction")


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_system_field_is_the_first_message(name):
    rows = rows_of(*({"question": "Q", "answer": "A", name: text} for text in ("S", "", None)))
    assert rows == [
        Row(messages=(Message(role="system", content="S"), *CHAT)),
        *[Row(messages=CHAT)] * 2,
    ]


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ("x", '"history" is text, not a list; write [["question", "answer"], …]'),
        (["x"], 'turn 1 of "history" is no pair; write ["question", "answer"]'),
        ([["q", "a"], ["q"]], 'turn 2 of "history" is no pair; write ["question", "answer"]'),
        ([["q", 7]], 'answer 1 of "history" is a number, not text; write it in quotes'),
        ([["", "a"]], 'question 1 of "history" is empty; write its text, or leave the row out'),
    ],
)
def test_a_history_that_is_no_list_of_pairs_is_refused(history, problem):
    assert problems_of({"instruction": "Q", "output": "A", "history": history}) == [
        f"cs.json:2: {problem}"
    ]


# Public data, as it is published


def said(row):
    return [(message.role, message.content) for message in row.messages]


def test_alpaca_is_read():
    """tatsu-lab/alpaca: whose `text` has the prompt and the answer again."""
    frame = "Below is an instruction that describes a task.\n\n### Instruction:\n"
    rows = rows_of(
        {
            "instruction": "Give three tips for staying healthy.", "input": "", "output": "1. Eat.",
            "text": frame + "Give three tips for staying healthy.\n\n### Response:\n1. Eat.",
        },
        {
            "instruction": "Evaluate this sentence for spelling.", "input": "He finnished.",
            "output": "He finished.",
            "text": frame + "Evaluate this sentence for spelling.\n\n### Input:\nHe finnished."
            "\n\n### Response:\nHe finished.",
        },
    )  # fmt: skip
    assert [said(row) for row in rows] == [
        [("user", "Give three tips for staying healthy."), ("assistant", "1. Eat.")],
        [
            ("user", "Evaluate this sentence for spelling.\n\nHe finnished."),
            ("assistant", "He finished."),
        ],
    ]
    assert [row.passed_over for row in rows] == [("text",)] * 2


def test_dolly_is_read():
    """databricks/databricks-dolly-15k."""
    rows = rows_of(
        {"instruction": "When did it begin?", "context": "It began in 2000.", "response": "2000",
         "category": "closed_qa"},
        {"instruction": "Why?", "context": "", "response": "Because.", "category": "open_qa"},
    )  # fmt: skip
    assert [row.question for row in rows] == ["When did it begin?\n\nIt began in 2000.", "Why?"]
    assert [row.passed_over for row in rows] == [("category",)] * 2


def test_openorca_is_read():
    rows = rows_of(
        {"id": "niv.242684", "system_prompt": "", "question": "Q", "response": "A"},
        {"id": "flan.564327", "system_prompt": "Be brief.", "question": "Q", "response": "A"},
    )
    assert [said(row) for row in rows] == [
        [("user", "Q"), ("assistant", "A")],
        [("system", "Be brief."), ("user", "Q"), ("assistant", "A")],
    ]
    assert rows[0].passed_over == ("id",)


def test_sharegpt_is_read():
    """As vicuna's: it may begin with an answer, and one may say several things in turn."""
    entries = [
        ("gpt", "Welcome."), ("human", "Who?"), ("human", "Say."),
        ("gpt", "Me."), ("gpt", "Or her."),
    ]  # fmt: skip
    chat = [{"from": role, "value": text} for role, text in entries]
    (row,) = rows_of({"id": "QWJhYvA_0", "conversations": chat})
    assert [role for role, _ in said(row)] == [
        "assistant",
        "user",
        "user",
        "assistant",
        "assistant",
    ]
    assert (row.question, row.answer, row.passed_over) == ("Say.", "Or her.", ("id",))


def test_a_conversation_without_a_user_is_read_and_asks_nothing():
    rows = rows_of(turns("assistant"), turns("system", "assistant"))
    assert [row.question for row in rows] == [None, None]
    assert [row.exchanges for row in rows] == [(), ()]
    assert len({row.topic for row in rows}) == 2


def test_squad_is_read():
    """rajpurkar/squad_v2: of several answers the first; a question without one is refused."""
    row = {
        "id": "56be", "title": "Ann", "context": "Ann did.", "question": "Who did?",
        "answers": {"text": ["Ann", "Ann did"], "answer_start": [0, 0]},
    }  # fmt: skip
    (read,) = rows_of(row)
    assert (read.question, read.answer) == ("Who did?\n\nAnn did.", "Ann")
    assert read.passed_over == ("id", "title")
    assert problems_of(row | {"answers": {"text": [], "answer_start": []}}) == [
        'cs.json:2: "answer" is empty; write its text, or leave the row out'
    ]
    for answers in ({"spans": []}, ["Ann"], "Ann", {"text": "Ann"}):
        assert problems_of(row | {"answers": answers}) == [
            'cs.json:2: "answers" is not a field; did you mean "answer"?'
        ]


def test_capybara_is_read():
    """LDJnr/Capybara."""
    turns = [{"input": "Q", "output": "A"}, {"input": "R", "output": "B"}]
    (row,) = rows_of({"source": "TaskSource", "conversation": turns})
    assert said(row) == [("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
    assert row.passed_over == ("source",)
    assert problems_of('{"conversation": [{"input": "Q",\n"output": 7}]}') == [
        'cs.json:3: "content" is a number, not text; write it in quotes'
    ]
    assert problems_of({"conversation": [*turns, {"input": "Q", "output": "A", "image": "a"}]}) == [
        'cs.json:2: "conversation" is not a field; did you mean "conversations"?'
    ]


def test_llama_factory_is_read():
    (row,) = rows_of(
        {
            "instruction": "And now?", "input": "", "output": "Fine.", "system": "Be kind.",
            "history": [["How are you?", "Well."], ["Sure?", "Yes."]],
        }
    )  # fmt: skip
    assert said(row) == [
        ("system", "Be kind."),
        ("user", "How are you?"), ("assistant", "Well."),
        ("user", "Sure?"), ("assistant", "Yes."),
        ("user", "And now?"), ("assistant", "Fine."),
    ]  # fmt: skip
    assert all(message.is_taught for message in row.messages)


def test_ultrachat_is_read():
    """HuggingFaceH4/ultrachat_200k."""
    messages = [*pair("How can I knit?", "Take wool."), *pair("And then?", "Knit.")]
    (row,) = rows_of({"prompt": "How can I knit?", "prompt_id": "f0e37e9f", "messages": messages})
    assert [role for role, _ in said(row)] == ["user", "assistant"] * 2
    assert row.passed_over == ("prompt_id", "prompt")


def test_openai_chat_fine_tuning_is_read():
    messages = [
        {"role": "system", "content": "Marv is sarcastic."},
        {"role": "user", "content": [{"type": "text", "text": "Capital of France?"}]},
        {"role": "assistant", "content": "Paris", "weight": 0},
        {"role": "user", "content": "Be sarcastic?", "name": "Ann"},
        {"role": "assistant", "content": "Paris, as if nobody knew.", "weight": 1},
    ]
    (row,) = rows_of({"messages": messages})
    assert [message.is_taught for message in row.messages] == [True, True, False, True, True]
    assert row.messages[1].content == "Capital of France?"
    assert [answer for _, answer in row.exchanges] == ["Paris, as if nobody knew."]
    assert row.passed_over == ("messages[].name",)


# Paraphrases, wordings and replaces


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ("P", '"{}s" is text, not a list; write ["…", "…"]'),
        (["P", 7], "{} 2 is a number, not text; write it in quotes"),
        (["P", " "], "{} 2 is empty; write its text, or leave it out"),
    ],
)
def test_other_questions_must_be_texts(name, texts, problem):
    row = {"instruction": "Q", "response": "A", name: texts}
    called = "replaced question" if name == "replaces" and texts[:1] == ["P"] else name[:-1]
    assert problems_of(row) == [f"cs.json:2: {problem.format(called)}"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("nothing", [None, [], ""])
def test_no_other_questions_are_none(name, nothing):
    assert rows_of({"instruction": "Q", "response": "A", name: nothing}) == [Row(messages=CHAT)]
    assert rows_of({"text": "T", name: nothing}) == [Row(text="T")]


@pytest.mark.parametrize("name", OTHERS)
def test_a_text_row_asks_nothing_in_other_words_and_replaces_no_question(name):
    assert problems_of({"text": "T", name: ["P"]}) == [
        f'cs.json:2: "{name}" lists questions, and "text" asks none; remove it'
    ]


# All at once


def test_every_problem_of_every_row_is_told_in_the_order_of_the_lines():
    assert problems_of(
        '{"paraphrases": [""],\n"instruction": "",\n"respose": 7}',
        "7",
        {"text": "fine"},
        {"text": 7},
    ) == [
        "cs.json:2: paraphrase 1 is empty; write its text, or leave it out",
        'cs.json:3: "instruction" is empty; write its text, or leave the row out',
        'cs.json:4: "respose" is not a field; did you mean "response"?',
        f"cs.json:5: a row is an object, not a number; write {ROW}",
        'cs.json:7: "text" is a number, not text; write it in quotes',
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "weight",
                    "messages",
                    "conversations",
                    "from",
                    "value",
                    "text",
                    "type",
                    "prompt",
                    "answer",
                    "input",
                    "system",
                    "history",
                    "tools",
                    "tool_calls",
                    "tool_call_id",
                    "function",
                    "arguments",
                    "name",
                    *OTHERS,
                    "x",
                ]
            ),
            inner | st.sampled_from(["user", "assistant", "system", "tool", "text", "{}"]),
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
