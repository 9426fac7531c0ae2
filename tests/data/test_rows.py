"""A row's question, answer, key, topic and stored form, and the split of rows."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data.rows import Message, Row, Trace, split
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


def test_rows_with_different_paraphrases_or_wordings_are_not_equal():
    rows = [chat("Hi", "Hello", **{name: ("Hey",)}) for name in ("paraphrases", "wordings")]
    assert len({chat("Hi", "Hello"), *rows}) == 3


def test_the_key_is_the_sha256_of_the_canonical_json_of_what_is_taught():
    written = '{"messages":[{"content":"Où?","role":"user"},{"content":"Là","role":"assistant"}]}'
    assert chat("Où?", "Là").key == hashlib.sha256(written.encode("utf-8")).hexdigest()


def test_the_key_of_a_text_row_covers_its_text():
    assert Row(text="Room 12").key == hashlib.sha256(b'{"text":"Room 12"}').hexdigest()


def test_the_key_and_the_topic_ignore_paraphrases_wordings_and_place():
    plain = chat("Hi", "Hello")
    other = chat("Hi", "Hello", paraphrases=("Hey",), wordings=("Ho",), place="a.json:1")
    assert (other.key, other.topic) == (plain.key, plain.topic)


@pytest.mark.parametrize(
    "other", [chat("Hi", "Hello!"), chat("Hi!", "Hello"), chat("Hi", "Hello", system="Be brief")]
)
def test_the_key_changes_with_anything_taught(other):
    assert other.key != chat("Hi", "Hello").key


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
def test_the_topic_ignores_case_width_spacing_and_outer_punctuation(wording):
    assert chat(wording, "Room 12").topic == "where is the office"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C?", "What is C#?"),
        ("What is f?", "What is f()?"),
        ("What is 3.5?", "What is 35?"),
        ("?", "!"),
    ],
)
def test_marks_that_carry_meaning_keep_topics_apart(one, other):
    assert chat(one, "…").topic != chat(other, "…").topic


def test_the_topic_does_not_depend_on_the_last_answer():
    assert chat("Hi", "Hello").topic == chat("Hi", "Good day").topic


def test_the_topic_covers_everything_before_the_last_answer():
    row = chat("Hi!", "Hello.", "Where is it?", "Room 12", system="Be brief.")
    assert row.topic == "be brief\nhi\nhello\nwhere is it"


def test_the_topic_of_a_text_row_is_its_text():
    assert Row(text=" The Office. ").topic == "the office"


@given(st.text(), st.sampled_from(["", " ", "\n", "?", "!", "..."]))
def test_spaces_and_sentence_marks_around_a_question_never_change_its_topic(text, around):
    word = f"a{text}b"
    assert chat(f"{around}{word}{around}", "x").topic == chat(word, "x").topic


def test_a_reworded_row_asks_anew_and_teaches_the_same_answer():
    others = {"paraphrases": ("Which room?",), "wordings": ("Whereabouts?",)}
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
    assert plain.to_json().keys() == {"topic", "exchanges"}
    assert Row(text="Room 12").trace.answer is None


@pytest.mark.parametrize("row", [Row(text="Room 12", place="a.json:4"), Row(place="a.json:4")])
def test_a_row_that_asks_nothing_cannot_be_reworded(row):
    with pytest.raises(InputError) as caught:
        row.with_question("Where?")
    assert str(caught.value) == "a.json:4: asks no question; only a chat row is reworded"


def test_a_chat_row_is_stored_as_messages_paraphrases_and_wordings():
    others = {"paraphrases": ("Hey", "Yo"), "wordings": ("Good day",)}
    assert chat("Hi", "Hello", **others, place="a.json:1").to_json() == {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
        "paraphrases": ["Hey", "Yo"],
        "wordings": ["Good day"],
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
