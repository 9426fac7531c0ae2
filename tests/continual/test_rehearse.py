"""Which old rows come along, and how often."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.rehearse import (
    current_rows,
    learnable,
    mixture,
    rehearse,
    rows_in_force,
)
from mlx_tune.data.rows import Message, Row, Trace


def row(
    question: str,
    answer: str = "Yes.",
    *wordings: str,
    before: tuple[tuple[str, str], ...] = (),
) -> Row:
    said = [text for exchange in before for text in exchange] + [question, answer]
    roles = ["user", "assistant"] * (len(said) // 2)
    messages = tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=True))
    return Row(messages=messages, wordings=wordings)


def questions(rows) -> list[str]:
    return [found.question for found in rows]


def test_old_rows_take_turns_session_after_session():
    history = [[row("a1"), row("a2"), row("a3")], [row("b1")], [row("c1"), row("c2")]]
    found = rehearse([row("new")], history)
    assert questions(found.old) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_question_taught_again_leaves_rehearsal_and_the_old_sessions_score():
    history = [[row("Where is A?", "In 1."), row("Where is B?", "In 2.")]]
    new = [row("where is a", "In 9."), row("Where is B?", "In 2.")]
    found = rehearse(new, history)
    assert found.old == ()
    assert [(n.answer, o.answer) for n, o in found.changed] == [("In 9.", "In 1.")]
    assert questions(found.repeated) == ["Where is B?"]
    assert current_rows([*history, new])[0] == []


def test_rows_that_were_not_kept_still_take_the_place_of_older_ones():
    """Else rehearsal would bring back the answer that they had corrected."""
    history = [
        [row("Where is A?", "In 1."), row("Where is B?"), row("c", before=(("d", "old"),))],
        [row("where is a", "In 9."), row("d", "new")],
        [row("e")],
    ]
    traces = [one.trace for one in history[1]]
    assert all(Trace.from_json(trace.to_json()) == trace for trace in traces)
    assert "In 9." not in str(traces)
    kept = current_rows([history[0], traces, history[2]])
    assert kept == [current_rows(history)[0], [], history[2]]
    assert questions(kept[0]) == ["Where is B?"]


def test_an_answer_replaced_inside_a_longer_conversation_is_not_rehearsed_either():
    """What is taught of it on the way would teach the old answer again."""
    long = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    history = [[long, row("Where is C?", "In 3.")]]
    found = rehearse([row("Where is A?", "In 9.")], history)
    assert questions(found.old) == ["Where is C?"]
    assert [(n.question, o.question) for n, o in found.changed] == [("Where is A?", "And B?")]
    same = rehearse([row("Where is A?", "In 1.")], history)
    assert questions(same.old) == ["And B?", "Where is C?"]
    assert same.changed == ()


def test_a_wording_with_another_answer_leaves_the_old_row_which_goes_on_without_it():
    old = row("Where is A?", "In 1.", "Whereabouts is A?", "Which room has A?")
    history = [[old, row("Where is B?", "In 2.", "Room of B?")]]
    new = [
        row("whereabouts is a", "In 9."),
        row("C?", "In 3.", "Room of B?"),
        row("D?", "In 1.", "Which room has A?"),  # the same answer
    ]
    found = rehearse(new, history)
    assert [(one.question, one.wordings) for one in found.old] == [
        ("Where is A?", ("Which room has A?",)),
        ("Where is B?", ()),
    ]
    assert [(n.question, n.answer, o.question, o.answer) for n, o in found.reworded] == [
        ("whereabouts is a", "In 9.", "Whereabouts is A?", "In 1."),
        ("Room of B?", "In 3.", "Room of B?", "In 2."),
    ]
    assert found.changed == ()
    # What the old session is measured by stays as it was taught.
    assert current_rows([*history, new])[0] == history[0]
    # It is told once, by the session that changes it.
    later = rehearse([row("E?")], [*history, new])
    assert later.reworded == ()
    assert later.old[0].wordings == ("Which room has A?",)


def test_an_old_question_that_is_a_wording_now_is_replaced_where_the_answer_is_another():
    talk = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    history = [[row("Where is A?", "In 1."), talk, row("Where is C?", "In 3."), Row(text="D?")]]
    new = [row("A now?", "In 9.", "where is a"), row("C now?", "In 3.", "Where is C?", "D?")]
    found = rehearse(new, history)
    assert [one.question for one in found.old] == ["Where is C?", None]
    assert [(n.question, n.answer, o.question) for n, o in found.changed] == [
        ("where is a", "In 9.", "Where is A?"),
        ("where is a", "In 9.", "And B?"),
    ]
    assert found.repeated == ()


def test_wordings_of_rows_that_were_not_kept_count_too():
    history = [
        [row("Where is A?", "In 1.", "A?"), row("B?", "In 2.")],
        [row("Where now?", "In 9.", "a", "b")],
        [row("e")],
    ]
    traces = [one.trace for one in history[1]]
    for rows in (current_rows, rows_in_force):
        kept = rows([history[0], traces, history[2]])
        assert kept == [rows(history)[0], [], history[2]]
    assert rows_in_force(history)[0] == [row("Where is A?", "In 1.")]


def test_a_wording_that_got_its_old_answer_back_is_rehearsed_again():
    history = [
        [row("Where is A?", "In 1.", "A?")],
        [row("Other?", "In 9.", "A?")],
        [row("a", "In 1.")],
    ]
    assert rows_in_force(history)[0] == history[0]
    assert rows_in_force(history)[1] == [row("Other?", "In 9.")]


def sources(**given):
    defaults = {
        "new": 30,
        "old": 0,
        "general": 60,
        "epochs": 10,
        "replay": "auto",
        "general_replay": 0.0,
    }
    return mixture(**(defaults | given)).sources


@pytest.mark.parametrize(
    ("old", "epochs", "places"),
    [
        (0, 10, 0),
        (20, 10, 20),  # fewer than the new ones: all of them
        (60, 10, 30),  # as many as the new ones; ⌈3 · 60 / 10⌉ = 18 are fewer
        (200, 10, 60),  # ⌈3 · 200 / 10⌉
        (205, 10, 62),
        (50, 2, 50),  # ⌈3 · 50 / 2⌉ = 75: all of them
    ],
)
def test_by_itself_as_many_old_rows_as_new_come_or_as_many_as_three_rounds_take(
    old, epochs, places
):
    assert sources(old=old, epochs=epochs)[1].per_epoch == places


@pytest.mark.parametrize(
    ("replay", "places", "rounds"),
    [("all", 200, None), ("none", 0, None), ("0.05", 10, None), ("1", 200, None), ("auto", 60, 3)],
)
def test_replay_in_words_or_as_a_share(replay, places, rounds):
    old = sources(old=200, replay=replay)[1]
    assert (old.per_epoch, old.min_passes) == (places, rounds)


@given(new=st.integers(1, 60), old=st.integers(0, 300), epochs=st.integers(1, 40))
def test_every_old_row_is_seen_at_least_three_times_or_once_an_epoch(new, old, epochs):
    found = mixture(new=new, old=old, general=0, epochs=epochs, replay="auto", general_replay=0.0)
    met = Counter()
    for number in range(epochs):
        chosen = found.epoch(number, [1.0] * found.num_examples)
        assert set(range(new)) <= set(chosen)
        met.update(chosen)
    assert min((met[new + i] for i in range(old)), default=3) >= min(3, epochs)
    assert found.epochs_of_min_passes <= epochs


def test_rows_come_as_often_in_several_wordings_as_in_one():
    plain = sources(old=200)
    worded = sources(old=200, variants=([5] * 30, [1] * 199 + [3]))
    assert [(s.size, s.per_epoch, s.min_passes) for s in worded] == [
        (s.size, s.per_epoch, s.min_passes) for s in plain
    ]
    assert [source.num_examples for source in worded] == [150, 202, 60]
    assert sources(old=200, variants=([1] * 30, [1] * 200)) == plain


def test_general_questions_have_their_share_of_an_epoch():
    assert sources(new=95, general_replay=0.05)[2].per_epoch == 5
    assert (
        sources(new=30, old=30, general_replay=0.05)[2].per_epoch == 4
    )  # 3.2 of 60 + 3.2, rounded up
    assert sources(new=95, general_replay=0.05, general=2)[2].per_epoch == 2
    assert sources(general_replay=0.0)[2].per_epoch == 0


def test_what_contradicts_itself_and_texts_cannot_be_known_word_for_word():
    rows = [row("A?", "1."), row("a", "2."), row("B?"), row("B?"), Row(text="A text.")]
    assert learnable(rows) == [False, False, True, True, False]
