"""A row's question, answer, key, topic, likeness and stored form, and the split of rows."""

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data.calls import ToolCall
from mlx_tune.data.rows import OTHER_QUESTIONS, Message, Row, Trace, split
from mlx_tune.errors import InputError


def chat(*contents, system=None, **more):
    """A conversation in which user and assistant take turns."""
    turns = tuple(
        Message(role=("user", "assistant")[i % 2], content=content)
        for i, content in enumerate(contents)
    )
    opening = () if system is None else (Message(role="system", content=system),)
    return Row(messages=opening + turns, **more)


def test_the_question_and_the_answer_are_those_of_the_last_exchange():
    row = chat("Hi", "Hello", "Where is the office?", "Room 12", system="Be brief")
    assert (row.question, row.answer) == ("Where is the office?", "Room 12")


def test_a_text_row_has_neither_question_nor_answer():
    row = Row(text="The office is in room 12.")
    assert (row.question, row.answer) == (None, None)


def test_a_conversation_that_ends_with_the_user_has_no_question_to_score():
    row = chat("Hi", "Hello", "Where is the office?")
    assert (row.question, row.answer) == (None, "Hello")


def test_an_answer_to_nobody_has_no_question():
    row = Row(messages=(Message(role="assistant", content="Hello"),))
    assert (row.question, row.answer) == (None, "Hello")


def test_rows_from_different_places_are_equal_and_hash_alike():
    here, there = chat("Hi", "Hello", place="a.json:1"), chat("Hi", "Hello", place="b.json:9")
    assert here == there
    assert hash(here) == hash(there)


def test_a_row_made_by_a_program_has_no_place():
    assert Row(text="Room 12").place == ""


def test_rows_with_different_paraphrases_wordings_or_replaces_are_not_equal():
    rows = [chat("Hi", "Hello", **{name: ("Hey",)}) for name in OTHER_QUESTIONS]
    assert len({chat("Hi", "Hello"), *rows}) == 4


def test_the_key_is_the_sha256_of_the_canonical_json_of_what_is_taught():
    written = '{"messages":[{"content":"Où?","role":"user"},{"content":"Là","role":"assistant"}]}'
    assert chat("Où?", "Là").key == hashlib.sha256(written.encode("utf-8")).hexdigest()


def test_the_key_of_a_text_row_covers_its_text():
    assert Row(text="Room 12").key == hashlib.sha256(b'{"text":"Room 12"}').hexdigest()


def test_the_key_the_topic_and_the_likeness_ignore_all_but_what_is_asked_and_answered():
    plain = chat("Hi", "Hello")
    others = {"paraphrases": ("Hey",), "wordings": ("Ho",), "replaces": ("Yo",)}
    other = chat("Hi", "Hello", **others, place="a.json:1")
    assert (other.key, other.topic, other.likeness) == (plain.key, plain.topic, plain.likeness)


@pytest.mark.parametrize(
    "other", [chat("Hi", "Hello!"), chat("Hi!", "Hello"), chat("Hi", "Hello", system="Be brief")]
)
def test_the_key_changes_with_anything_taught(other):
    assert other.key != chat("Hi", "Hello").key


DIFFERENT = [
    ("What does git branch -d do?", "What does git branch -D do?"),
    ("What is Co?", "What is CO?"),
    ("What does ls -r do?", "What does ls -R do?"),
    ("How much is 5²?", "How much is 52?"),
    ("How much is 1 mW?", "How much is 1 MW?"),
    ("Wie heißen die Maße?", "Wie heißen die Masse?"),
    (".NET", "net"),
    ("What is C?", "what is c"),
    ("１２", "12"),
    ("Where?", "Where"),
]


@pytest.mark.parametrize(("one", "other"), [*DIFFERENT, ("What is .NET?", "What is net?")])
def test_questions_that_differ_in_any_letter_figure_or_mark_have_different_topics(one, other):
    assert chat(one, "…").topic != chat(other, "…").topic
    assert chat(one, "…").trace.topic != chat(other, "…").trace.topic
    assert chat(one, "A", "B?", "…").topic != chat(other, "A", "B?", "…").topic
    assert Row(text=one).topic != Row(text=other).topic


@pytest.mark.parametrize(
    "spelling", ["  Where  is\tthe\noffice? ", "Where is\u00a0the\u3000office?\r\n"]
)
def test_white_space_makes_no_other_topic(spelling):
    assert chat(spelling, "Room 12").topic == "user: Where is the office?"


@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_another_encoding_of_the_same_characters_makes_no_other_topic(text, form):
    question = f"Où {text}?"
    row, other = (chat(x, "…") for x in (question, unicodedata.normalize(form, question)))
    assert (other.topic, other.replaced_as) == (row.topic, row.replaced_as)


@given(st.text(), st.sampled_from(["", " ", "\n", "\t \u3000"]))
def test_spaces_around_a_question_never_change_its_topic(text, around):
    word = f"a{text}b"
    assert chat(f"{around}{word}{around}", "x").topic == chat(word, "x").topic


def test_the_topic_does_not_depend_on_the_last_answer():
    assert chat("Hi", "Hello").topic == chat("Hi", "Good day").topic


def test_the_topic_covers_everything_before_the_last_answer_with_its_roles():
    row = chat("Hi!", "Hello.", "Where  is it?", "Room 12", system="Be brief.")
    assert row.topic == "system: Be brief.\nuser: Hi!\nassistant: Hello.\nuser: Where is it?"


def test_the_same_words_of_another_role_are_another_topic():
    said = [
        [Message(role=role, content="Be brief."), Message(role="user", content="Where?")]
        for role in ("system", "user", "assistant")
    ]
    answer = Message(role="assistant", content="Room 12")
    rows = [Row(messages=(*before, answer)) for before in said]
    assert len({row.topic for row in rows}) == 3
    assert len({row.likeness for row in rows}) == 1


def test_a_line_of_one_message_is_not_taken_for_a_message():
    one = chat("Hi\nassistant: Hello\nuser: Where?", "Room 12")
    assert one.topic != chat("Hi", "Hello", "Where?", "Room 12").topic


@pytest.mark.parametrize("text", [" The Office. ", "The  office", "Mu\u0308nchen", "\n"])
def test_the_topic_of_a_text_row_is_its_text_as_it_stands(text):
    assert Row(text=text).topic == f"text: {text}"
    assert Row(text=f"user: {text}").topic != chat(text, "Yes.").topic


def test_the_topics_of_two_texts_differ_by_one_space():
    assert Row(text="The office").topic != Row(text="The  office").topic
    assert Row(text="M\u00fcnchen").topic != Row(text="Mu\u0308nchen").topic


@pytest.mark.parametrize(
    "wording",
    [
        "where is the office",
        "  Where  is\tthe\noffice?! ",
        "WHERE IS THE OFFICE…",
        "“ Where is the office? ”",
        "¿Where is the office?",
        "Ｗhere is the oﬃce？",
    ],
)
def test_the_likeness_ignores_case_width_spacing_and_outer_punctuation(wording):
    assert chat(wording, "Room 12").likeness == "where is the office"


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_questions_that_a_fold_of_case_or_width_makes_one_are_alike(one, other):
    assert chat(one, "…").likeness == chat(other, "…").likeness


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C?", "What is C#?"),
        ("What is f?", "What is f()?"),
        ("What is 3.5?", "What is 35?"),
        ("?", "!"),
    ],
)
def test_marks_that_carry_meaning_keep_questions_from_being_alike(one, other):
    assert chat(one, "…").likeness != chat(other, "…").likeness


def test_the_likeness_covers_everything_before_the_last_answer():
    row = chat("Hi!", "Hello.", "Where is it?", "Room 12", system="Be brief.")
    assert row.likeness == "be brief\nhi\nhello\nwhere is it"


def test_the_likeness_of_a_text_row_is_that_of_its_text():
    assert Row(text=" The Office. ").likeness == "the office"


@given(st.text(), st.sampled_from(["", " ", "\n", "?", "!", "..."]))
def test_spaces_and_sentence_marks_around_a_question_never_change_its_likeness(text, around):
    word = f"a{text}b"
    assert chat(f"{around}{word}{around}", "x").likeness == chat(word, "x").likeness


def test_a_reworded_row_asks_anew_and_teaches_the_same_answer():
    others = {name: (f"Of {name}?",) for name in OTHER_QUESTIONS}
    row = chat("Hi", "Hello", "Where?", "Room 12", **others, place="a.json:4")
    reworded = row.with_question("Which room?")
    assert reworded == chat("Hi", "Hello", "Which room?", "Room 12")
    assert reworded.place == "a.json:4"


def test_a_row_is_trained_on_as_taught_and_in_each_of_its_wordings():
    row = chat("Hi", "Hello", "Where?", "Room 12", wordings=("Which room?", "Whereabouts?"))
    asked = [one.question for one in row.variants]
    assert asked == ["Where?", "Which room?", "Whereabouts?"]
    assert {one.answer for one in row.variants} == {"Room 12"}
    assert Row(text="Room 12").variants == (Row(text="Room 12"),)


def test_a_trace_has_hashes_of_the_wordings_and_is_read_back():
    row = chat("Where?", "Room 12", wordings=("Which room?",))
    plain = chat("Where?", "Room 12").trace
    assert row.trace.wordings == (chat("Which room?", "…").trace.topic,)
    assert (row.trace.topic, row.trace.exchanges) == (plain.topic, plain.exchanges)
    assert row.trace.answer == hashlib.sha256(b"Room 12").hexdigest()
    assert [Trace.from_json(one.to_json()) for one in (row.trace, plain)] == [row.trace, plain]
    assert plain.to_json().keys() == {"topic", "exchanges", "exact"}
    assert Row(text="Room 12").trace.answer is None


def test_a_trace_names_the_rows_that_are_replaced_by_hashes_and_is_read_back():
    row = chat("Hi", "Hello", "Where?", "Room 12", replaces=("where", "Where now?"))
    replaced = [chat("hi!", "Hello", question, "Room 9") for question in ("where", "Where now?")]
    assert row.trace.replaces == tuple(one.replaced_as for one in replaced)
    assert Trace.from_json(row.trace.to_json()) == row.trace
    assert row.trace.to_json()["exact"] is True
    assert "Where" not in str(row.trace.to_json())


def test_a_replaced_question_is_named_exactly_and_what_was_said_before_it_by_likeness():
    named = chat("Hi!", "Hello", "Where is  A?", "In 1.").replaced_as
    assert chat("hi", "HELLO", "Where is A?", "In 2.").replaced_as == named
    assert chat("Hi!", "Hello", "where is A?", "In 1.").replaced_as != named
    assert chat("Ho!", "Hello", "Where is A?", "In 1.").replaced_as != named
    assert chat("Where is A?", "In 1.").replaced_as != named


def test_old_records_have_loose_traces():
    row = chat("Hi!", "Hello", "Where?", "Room 12", wordings=("Which Room?",))
    spelled = chat("hi", "Hello", "where", "Room 12", wordings=("which room",))
    assert row.loose_trace == spelled.loose_trace
    assert row.trace != spelled.trace
    written = {
        "topic": hashlib.sha256(b"hi\nhello\nwhere").hexdigest(),
        "exchanges": [
            [hashlib.sha256(topic).hexdigest(), hashlib.sha256(answer).hexdigest()]
            for topic, answer in ((b"hi", b"Hello"), (b"hi\nhello\nwhere", b"Room 12"))
        ],
        "wordings": [hashlib.sha256(b"hi\nhello\nwhich room").hexdigest()],
    }
    assert Trace.from_json(written) == row.loose_trace
    assert row.loose_trace.to_json() == written


def test_a_trace_is_loose_where_its_record_does_not_say_that_it_is_exact():
    record = chat("Where?", "Room 12").trace.to_json()
    assert not Trace.from_json(record).is_loose
    del record["exact"]
    assert Trace.from_json(record).is_loose


@pytest.mark.parametrize("row", [Row(text="Room 12", place="a.json:4"), Row(place="a.json:4")])
def test_a_row_that_asks_nothing_cannot_be_reworded(row):
    with pytest.raises(InputError) as caught:
        row.with_question("Where?")
    assert str(caught.value) == "a.json:4: asks no question; only a chat row is reworded"


def test_a_chat_row_is_stored_as_messages_paraphrases_wordings_and_replaces():
    others = {"paraphrases": ("Hey", "Yo"), "wordings": ("Good day",), "replaces": ("hi",)}
    assert chat("Hi", "Hello", **others, place="a.json:1").to_json() == {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
        "paraphrases": ["Hey", "Yo"],
        "wordings": ["Good day"],
        "replaces": ["hi"],
    }


def test_a_text_row_is_stored_as_text_alone():
    assert Row(text="Room 12", place="a.json:1").to_json() == {"text": "Room 12"}


ROWS = list(range(10))  # what they are does not matter to a split


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 1), (0.11, 2), (0.9, 9)])
def test_a_share_is_rounded_up_to_whole_rows(share, count):
    kept, held_out = split(ROWS, share, seed=0)
    assert len(held_out) == count
    assert sorted(kept + held_out) == ROWS
    assert (kept, held_out) == (sorted(kept), sorted(held_out))  # in the order they came in


def test_a_seed_chooses_the_same_rows_again_and_another_seed_others():
    assert split(ROWS, 0.3, seed=1) == split(ROWS, 0.3, seed=1)
    assert len({tuple(split(ROWS, 0.3, seed=seed)[1]) for seed in range(20)}) > 10


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match=r"--validation 0\.6 of 2 rows leaves none to train on"):
        split(ROWS[:2], 0.6, seed=0)
    assert split([], 0.5, seed=0) == ([], [])


# Answers that are given and not taught


def weighted(*answers):
    """A user's "Q?" and then answers; those in brackets are not taught."""
    said = [
        Message(role="assistant", content=one.strip("()"), is_taught=not one.startswith("("))
        for one in answers
    ]
    return Row(messages=(Message(role="user", content="Q?"), *said))


def test_an_answer_that_is_not_taught_is_stored_with_its_weight_and_changes_the_key():
    assert weighted("(no)", "yes").to_json()["messages"][1:] == [
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "assistant", "content": "yes"},
    ]
    assert weighted("(no)", "yes").key != weighted("no", "yes").key


def test_an_answer_that_is_not_taught_replaces_and_answers_nothing():
    row = weighted("(no)", "yes")
    assert row.exchanges == (("user: Q?\nassistant: no", "yes"),)
    assert (row.question, row.answer, row.trace.answer) == ("Q?", "yes", row.trace.exchanges[0][1])
    last = weighted("yes", "(no)")
    assert (last.question, last.answer, last.topic) == (None, "yes", weighted("yes").topic)
    with pytest.raises(InputError, match="asks no question"):
        last.with_question("q")


def test_conversations_that_nobody_asks_are_of_their_own_topic_and_contradict_no_other():
    one, other = (
        Row(messages=(Message(role="assistant", content=text), *weighted(text).messages))
        for text in ("Hello.", "Good day.")
    )
    assert [topic for topic, _ in one.exchanges] == ["assistant: Hello.\nuser: Q?"]
    bare = [Row(messages=row.messages[:1]) for row in (one, other)]
    assert bare[0].topic != bare[1].topic
    assert bare[0].likeness != bare[1].likeness
    assert [row.exchanges for row in bare] == [(), ()]
    assert [row.question for row in bare] == [None, None]


# Tools and calls


def with_call(*, name="f", arguments='{"a": 1}', call_id="c1", tools="[]", content="", **more):
    """A row that asks "Q?", calls, is told 7 and says "It is 7."."""
    call = ToolCall(id=call_id, name=name, arguments=arguments)
    said = (
        Message(role="user", content="Q?"),
        Message(role="assistant", content=content, tool_calls=(call,)),
        Message(role="tool", content="7", tool_call_id=call_id),
        Message(role="assistant", content="It is 7."),
    )
    return Row(messages=said, tools=tools, **more)


def only_call(**more):
    row = with_call(**more)
    return Row(messages=row.messages[:2], tools=row.tools)


def test_the_answer_of_a_row_that_ends_with_a_call_is_its_text_and_the_call_as_json():
    assert only_call().answer == '{"name": "f", "arguments": {"a": 1}}'
    assert only_call(content="So:").answer == 'So:\n{"name": "f", "arguments": {"a": 1}}'
    assert (with_call().question, with_call().answer) == ("Q?", "It is 7.")


def test_the_topic_of_a_row_has_its_tools_and_what_was_called_and_returned_before():
    assert with_call(tools='[{"function": {"name": "f"}}]').topic == (
        'tools: [{"function": {"name": "f"}}]\nuser: Q?\n'
        'assistant: {"name": "f", "arguments": {"a": 1}}\ntool: 7'
    )


OTHER_CALLS = [{"name": "g"}, {"arguments": '{"a": 2}'}, {"arguments": '{"a": "1"}'}, {"tools": ""}]


@pytest.mark.parametrize("other", OTHER_CALLS)
def test_rows_whose_tools_or_calls_differ_are_different(other):
    one, two = with_call(), with_call(**other)
    assert one != two
    assert one.key != two.key
    assert one.topic != two.topic
    assert one.likeness != two.likeness
    assert one.trace.topic != two.trace.topic
    one, two = only_call(), only_call(**other)
    assert (one.topic, one.answer) != (two.topic, two.answer)
    assert one.trace.exchanges != two.trace.exchanges


def test_ids_and_the_order_of_arguments_ask_and_answer_nothing_else():
    one = with_call(arguments='{"a": 1, "b": 2}')
    two = with_call(arguments='{"b": 2, "a": 1}', call_id="c2")
    assert (one.topic, one.likeness, one.exchanges) == (two.topic, two.likeness, two.exchanges)
    assert one.key != two.key


def test_every_call_that_is_taught_is_an_exchange():
    assert [answer for _, answer in with_call().exchanges] == [
        '{"name": "f", "arguments": {"a": 1}}',
        "It is 7.",
    ]


def test_a_row_with_tools_is_stored_in_openais_shape_and_reworded_with_them():
    row = with_call(wordings=("Q!",))
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert row.to_json() == {
        "messages": [
            {"role": "user", "content": "Q?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is 7."},
        ],
        "tools": "[]",
        "wordings": ["Q!"],
    }
    assert row.variants[1].messages[1:] == row.messages[1:]
    assert row.variants[1].tools == row.tools


def test_a_row_has_tools_where_it_offers_or_calls_any():
    rows = [with_call(tools=""), Row(messages=with_call().messages[:1], tools="[]"), chat("Q", "A")]
    assert [row.has_tools for row in rows] == [True, True, False]
