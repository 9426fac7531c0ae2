"""Which old rows come along, and how often."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.in_force import current_rows, rows_in_force
from mlx_tune.continual.rehearse import learnable, mixture, rehearse, replacing
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


def measured(question: str, answer: str, *paraphrases: str) -> Row:
    return replace(row(question, answer), paraphrases=paraphrases)


def untaught(row: Row, *answers: int) -> Row:
    """The row with the messages of these indices no longer taught."""
    messages = [replace(m, is_taught=i not in answers) for i, m in enumerate(row.messages)]
    return replace(row, messages=tuple(messages))


def told(pairs) -> list[tuple[str, str, str]]:
    """Of (new, old): the question of the new one and both answers."""
    return [(new.question, new.answer, old.answer) for new, old in pairs]


def questions(rows) -> list[str]:
    return [found.question for found in rows]


def test_old_rows_take_turns_session_after_session():
    history = [[row("a1"), row("a2"), row("a3")], [row("b1")], [row("c1"), row("c2")]]
    found = rehearse([row("new")], history)
    assert questions(found.old) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_question_taught_again_leaves_rehearsal_and_with_another_answer_the_old_score_too():
    history = [[row("Where is A?", "In 1."), row("Where is B?", "In 2.")]]
    new = [row("Where  is A?", "In 9."), row("Where is B?", "In 2.")]
    found = rehearse(new, history)
    assert found.old == ()
    assert [(n.answer, o.answer) for n, o in found.changed] == [("In 9.", "In 1.")]
    assert questions(found.repeated) == ["Where is B?"]
    assert found.alike == ()
    assert questions(current_rows([*history, new])[0]) == ["Where is B?"]


def test_a_question_taught_again_with_its_answer_stays_each_sessions_and_is_trained_once():
    history = [
        [row("Where is A?", "In 1."), Row(text="A text.")],
        [row("Where is A? ", "In 1."), Row(text="A text.")],
        [row("Where is B?", "In 2.")],
    ]
    assert current_rows(history) == history
    assert rows_in_force(history) == [[], *history[1:]]
    traces = [one.trace for one in history[1]]
    assert current_rows([history[0], traces, history[2]]) == [history[0], [], history[2]]
    # What was taught again by rows that were not kept is rehearsed by those of before.
    assert rows_in_force([history[0], traces, history[2]]) == [history[0], [], history[2]]


def test_an_answer_that_was_another_meanwhile_stays_the_last_sessions_alone():
    history = [[row("Where is A?", answer)] for answer in ("In 1.", "In 9.", "In 1.")]
    assert current_rows(history) == rows_in_force(history) == [[], [], history[2]]


SMALL = row("What does git branch -d do?", "It deletes a merged branch.")
LARGE = row("What does git branch -D do?", "It deletes any branch.")


def test_questions_that_differ_in_case_alone_are_both_kept_and_told():
    history = [[SMALL]]
    found = rehearse([LARGE], history)
    assert found.old == (SMALL,)
    assert (found.changed, found.repeated, found.contradictions) == ((), (), ())
    assert found.alike == ((LARGE, SMALL),)
    assert current_rows([*history, [LARGE]]) == [[SMALL], [LARGE]]
    assert rows_in_force([*history, [LARGE]]) == [[SMALL], [LARGE]]


def test_texts_that_differ_in_one_space_are_both_kept_and_not_told():
    history = [[Row(text="if a:\n  b")]]
    found = rehearse([Row(text="if a:\n   b"), Row(text="IF a:\n  b")], history)
    assert found.old == tuple(history[0])
    assert (found.changed, found.repeated, found.alike, found.duplicates) == ((), (), (), ())


def test_a_question_and_what_it_is_like_are_not_told_where_their_answers_are_the_same():
    found = rehearse([row("where is a", "In 1.")], [[row("Where is A?", "In 1.")]])
    assert questions(found.old) == ["Where is A?"]
    assert (found.alike, found.repeated) == ((), ())


def test_only_what_may_be_trained_again_is_told_to_be_alike():
    history = [[row("Where is A?", "In 1.")], [row("Where is A?", "In 2.")]]
    found = rehearse([row("where is a", "In 9.")], history)
    assert [(n.answer, o.answer) for n, o in found.alike] == [("In 9.", "In 2.")]
    same = [row("Where is A?", "In 3."), row("where is a", "In 9.")]
    assert [(n.question, o.question) for n, o in rehearse(same, history).alike] == [
        ("where is a", "Where is A?")
    ]


def test_a_row_that_replaces_what_it_is_alike_takes_it_away():
    history = [[SMALL, row("Where is A?")], [row("Where is B?")]]
    (new,) = replacing([LARGE], history)
    assert (new.replaces, new.key, new.topic) == ((SMALL.question,), LARGE.key, LARGE.topic)
    found = rehearse([new], history)
    assert questions(found.old) == ["Where is A?", "Where is B?"]
    assert found.changed == ((new, SMALL),)
    assert found.alike == ()
    for rows in (current_rows, rows_in_force):
        assert rows([*history, [new]]) == [[row("Where is A?")], history[1], [new]]
        assert rows([*history, [new.trace]])[0] == [row("Where is A?")]


def test_what_was_replaced_stays_so_until_it_is_taught_again():
    (new,) = replacing([LARGE], [[SMALL]])
    history = [[SMALL], [new], [row("Where is A?")]]
    assert rehearse([SMALL], history).old == (new, row("Where is A?"))
    again = [*history, [SMALL]]
    assert current_rows(again) == [[], [new], [row("Where is A?")], [SMALL]]
    assert rows_in_force(again) == current_rows(again)
    assert rehearse([row("Where is B?")], again).changed == ()


def test_a_row_replaces_no_row_with_its_answer_and_none_of_another_question():
    history = [[row("where is a", "In 1."), row("Where is AA?", "In 2."), Row(text="Where is A?")]]
    new = [row("Where is A?", "In 1.")]
    assert replacing(new, history) == new
    assert questions(rehearse(new, history).old) == ["where is a", "Where is AA?", None]


def test_what_a_row_named_itself_is_kept_beside_what_it_is_alike():
    named = replace(LARGE, replaces=("Where is A?",))
    history = [[SMALL, row("Where is A?", "In 1.")]]
    (new,) = replacing([named], history)
    assert new.replaces == ("Where is A?", SMALL.question)
    assert questions(rehearse([named], history).old) == [SMALL.question]
    found = rehearse([new], history)
    assert found.old == ()
    assert found.changed == ((new, SMALL), (new, history[0][1]))


def test_alike_rows_of_the_new_data_are_told_and_do_not_replace_each_other():
    new = [SMALL, LARGE]
    assert rehearse(new, []).alike == ((LARGE, SMALL),)
    assert rehearse(new, []).contradictions == ()
    assert replacing(new, []) == new
    other = row("what does git branch -d do", "No idea.")
    assert rehearse(new, [[other]]).alike == ((SMALL, other), (LARGE, other), (LARGE, SMALL))
    assert [one.replaces for one in replacing(new, [[other]])] == [(other.question,)] * 2


def test_a_row_whose_question_comes_again_is_no_others_to_replace():
    history = [[SMALL]]
    new = [SMALL, LARGE]
    assert replacing(new, history) == new
    assert rehearse(new, history).repeated == (SMALL,)


@pytest.mark.parametrize("said", ["where is A?", "Where is a", "Ｗhere is A?"])
def test_conversations_whose_earlier_messages_differ_in_case_alone_can_be_replaced(said):
    old = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    history = [[old, row("And B?", "In 3.")]]
    new = [row("And B?", "In 9.", before=((said, "In 1."),))]
    assert rehearse(new, history).alike == ((new[0], old),)
    assert rehearse(new, history).old == tuple(history[0])
    replaced = replacing(new, history)
    found = rehearse(replaced, history)
    assert found.old == tuple(history[0][1:])
    assert found.changed == ((replaced[0], old),)


def test_an_old_record_supersedes_by_likeness_as_it_did():
    history = [
        [SMALL, row("Where is A?", "In 1."), row("Where is B?", "In 2.", "Room of B?")],
        [LARGE, row("where is a", "In 1."), row("Where is C?", "In 3.", "room of b")],
        [row("Where is D?")],
    ]
    traces = [Trace.from_json(one.loose_trace.to_json()) for one in history[1]]
    assert all(trace.is_loose for trace in traces)
    old = [history[0], traces, history[2]]
    assert questions(current_rows(old)[0]) == ["Where is A?", "Where is B?"]
    assert rows_in_force(old)[0] == [row("Where is A?", "In 1."), row("Where is B?", "In 2.")]
    kept = [history[0], [replace(one, replaces_alike=True) for one in history[1]], history[2]]
    assert rows_in_force(kept)[0] == [row("Where is B?", "In 2.")]
    exact = [history[0], [one.trace for one in history[1]], history[2]]
    assert current_rows(exact)[0] == rows_in_force(exact)[0] == history[0]


def test_an_old_record_answers_inside_a_conversation_by_likeness_too():
    old = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    later = row("where is a", "In 9.")
    assert current_rows([[old], [later.loose_trace]]) == [[untaught(old, 1)], []]
    assert current_rows([[old], [later.trace]]) == [[old], []]


def test_rows_that_were_not_kept_still_take_the_place_of_older_ones():
    """Else rehearsal would bring back the answer that they had corrected."""
    talk = row("c", before=(("d", "old"),))
    history = [
        [row("Where is A?", "In 1."), row("Where is B?"), talk],
        [row("Where is  A?", "In 9."), row("d", "new")],
        [row("e")],
    ]
    traces = [one.trace for one in history[1]]
    assert all(Trace.from_json(trace.to_json()) == trace for trace in traces)
    assert "In 9." not in str(traces)
    kept = current_rows([history[0], traces, history[2]])
    assert kept == [current_rows(history)[0], [], history[2]]
    assert kept[0] == [row("Where is B?"), untaught(talk, 1)]


def test_an_answer_replaced_inside_a_longer_conversation_is_given_and_no_longer_taught():
    """Taught on the way it would teach the old answer again; the last question has its own."""
    long = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    history = [[long, row("Where is C?", "In 3.")]]
    new = [row("Where is A?", "In 9.")]
    found = rehearse(new, history)
    assert found.old == (untaught(long, 1), row("Where is C?", "In 3."))
    assert found.changed == ()
    assert told(found.turns) == [("Where is A?", "In 9.", "In 1.")]
    assert current_rows([*history, new])[0] == list(found.old)
    assert learnable(found.rows) == [True] * 3
    same = rehearse([row("Where is A?", "In 1.")], history)
    assert same.old == tuple(history[0])
    assert (same.changed, same.turns) == ((), ())


def test_conversations_that_open_alike_are_all_kept():
    """Fifty may begin with a greeting, and a later one answers it in other words."""
    old = [row(f"Where is A{i}?", f"In {i}.", before=(("Hi", "Hello!"),)) for i in range(50)]
    for new in (
        row("Hi", "Hello, I am Quill."),
        row("When?", "At 5.", before=(("Hi", "Hello."),)),
        row("Who?", "Bo.", "Hi"),  # a wording of another question
    ):
        found = rehearse([new], [old])
        assert found.old == tuple(untaught(one, 1) for one in old)
        assert current_rows([old, [new]])[0] == list(found.old)
        assert found.changed == ()
    found = rehearse([row("When?", "At 5.", before=(("Hi", "Hello."),))] * 2, [old])
    assert told(found.turns) == [("Hi", "Hello.", "Hello!")]
    again = [old, [row("Hi", "Good day.")], [row("Hi", "Hello!")]]
    assert current_rows(again)[0] == old


def test_only_what_was_said_before_and_asked_last_is_replaced():
    old = row("And B?", "In 2.", before=(("Where is A?", "In 1."),))
    other = row("And B?", "In 9.", before=(("Where is A?", "In 7."),))
    assert rehearse([other], [[old]]).changed == ()
    again = row("And  B?", "In 9.", before=(("Where is A?", "In 1."),))
    found = rehearse([again], [[old]])
    assert (found.old, found.changed, found.turns) == ((), ((again, old),), ())


def test_a_question_answered_otherwise_inside_a_conversation_is_told_and_both_are_taught():
    old = row("Where is A?", "In 1.")
    new = row("Since when?", "Monday.", before=(("Where is A?", "In 9."),))
    found = rehearse([new], [[old]])
    assert (found.old, found.changed) == ((old,), ())
    assert told(found.turns) == [("Where is A?", "In 9.", "In 1.")]
    assert current_rows([[old], [new]]) == [[old], [new]]
    assert learnable(found.rows) == [False, False]
    within = rehearse([old, new], [])
    assert told(within.turns) == [("Where is A?", "In 9.", "In 1.")]
    assert told(rehearse([new, old], []).turns) == [("Where is A?", "In 1.", "In 9.")]
    assert within.contradictions == ()


def test_an_answer_is_another_by_its_text_alone():
    """Not by white space in the question, nor by what is taught before the answer."""
    one = row("Where is A?", "In 1.", before=(("Hi", "Hello!"),))
    for other in (untaught(one, 1), row("Where  is A?", "In 1.", before=(("Hi", "Hello!"),))):
        found = rehearse([other], [[one]])
        assert (found.old, found.repeated, found.changed) == ((), (other,), ())
        found = rehearse([one, other], [])
        assert (found.duplicates, found.contradictions) == ((other,), ())
        assert learnable([one, other]) == [True, True]


def test_a_wording_with_another_answer_leaves_the_old_row_which_goes_on_without_it():
    old = row("Where is A?", "In 1.", "Whereabouts is A?", "Which room has A?")
    history = [[old, row("Where is B?", "In 2.", "Room of B?")]]
    new = [
        row("Whereabouts is  A?", "In 9."),
        row("C?", "In 3.", "Room of B?"),
        row("D?", "In 1.", "Which room has A?"),  # the same answer
    ]
    found = rehearse(new, history)
    assert [(one.question, one.wordings) for one in found.old] == [
        ("Where is A?", ("Which room has A?",)),
        ("Where is B?", ()),
    ]
    assert [(n.question, n.answer, o.question, o.answer) for n, o in found.reworded] == [
        ("Whereabouts is  A?", "In 9.", "Whereabouts is A?", "In 1."),
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
    new = [row("A now?", "In 9.", "Where is  A?"), row("C now?", "In 3.", "Where is C?", "D?")]
    found = rehearse(new, history)
    assert found.old == (untaught(talk, 1), *history[0][2:])
    assert [(n.question, n.answer, o.question) for n, o in found.changed] == [
        ("Where is  A?", "In 9.", "Where is A?"),
    ]
    assert found.repeated == ()


def test_wordings_of_rows_that_were_not_kept_count_too():
    history = [
        [row("Where is A?", "In 1.", "A?"), row("B?", "In 2.")],
        [row("Where now?", "In 9.", " A?", "B? ")],
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
        [row("A? ", "In 1.")],
    ]
    assert rows_in_force(history)[0] == history[0]
    assert rows_in_force(history)[1] == [row("Other?", "In 9.")]


@pytest.mark.parametrize("answer", ["In 1.", "In 9."])
@pytest.mark.parametrize(
    "ask",
    [
        lambda answer: row("Spot of  A?", answer),
        lambda answer: row("A?", answer, "Spot of A?"),
        lambda answer: row("Since when?", "Monday.", before=(("Spot of A?", answer),)),
    ],
)
def test_a_paraphrase_that_a_later_session_trains_on_measures_no_more(ask, answer):
    old = measured("Where is A?", "In 1.", "Spot of A?", "Room of A?")
    other = measured("Where is B?", "In 2.", "Spot of B?")
    new, left = [ask(answer)], measured("Where is A?", "In 1.", "Room of A?")
    found = rehearse(new, [[old, other]])
    assert questions(found.old) == ["Where is A?", "Where is B?"]
    assert found.changed == ()
    assert told(found.unmeasured) == [(new[0].question, new[0].answer, "In 1.")]
    for history in ([[old, other], new], [[old, other], [new[0].trace]]):
        assert current_rows(history)[0] == [left, other]
        assert rehearse([row("C?")], history).unmeasured == ()
    loosely = [replace(new[0], replaces_alike=True).loose_trace]
    assert current_rows([[old, other], loosely])[0] == [left, other]
    assert current_rows([[old, other, *new]])[0][0] == left  # taught together before it was refused


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
    rows = [row("A?", "1."), row(" A?", "2."), row("B?"), row("B?"), Row(text="A text.")]
    assert learnable(rows) == [False, False, True, True, False]
    assert learnable([SMALL, LARGE]) == [True, True]
