"""Which old rows come along, and how often."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.rehearse import current_rows, learnable, mixture, rehearse
from mlx_tune.data.rows import Message, Row, Trace
from mlx_tune.training.mixture import Forms


def row(question: str, answer: str = "Yes.", *, before: tuple[tuple[str, str], ...] = ()) -> Row:
    said = [text for exchange in before for text in exchange] + [question, answer]
    roles = ["user", "assistant"] * (len(said) // 2)
    return Row(messages=tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=True)))


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


def sources(**given):
    defaults = {
        "new": 30,
        "old": 0,
        "general": 60,
        "epochs": 10,
        "replay": "auto",
        "general_replay": 0.0,
    }
    chosen = defaults | given
    rows = {name: [Forms()] * chosen[name] for name in ("new", "old")}
    return mixture(**(chosen | rows)).sources


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
    found = mixture(
        new=[Forms()] * new,
        old=[Forms()] * old,
        general=0,
        epochs=epochs,
        replay="auto",
        general_replay=0.0,
    )
    met = Counter()
    for number in range(epochs):
        chosen = found.epoch(number, [1.0] * found.size)
        assert set(range(new)) <= set(chosen)
        met.update(chosen)
    assert min((met[new + i] for i in range(old)), default=3) >= min(3, epochs)
    assert found.epochs_of_min_passes <= epochs


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


def test_rows_in_several_forms_take_no_more_of_an_epoch():
    forms = [Forms(wordings=5, noised=8)] * 3
    found = mixture(new=forms, old=forms[:2], general=4, epochs=10, replay="auto",
                    general_replay=0.4, general_weight=2.0)  # fmt: skip
    assert found.rows_per_epoch == sum(len(found.epoch(n, [1.0] * found.size)) for n in [0]) == 9
    assert found.size == 5 * 13 + 4
    assert [source.forms for source in found.sources] == [(*forms,), (*forms[:2],), ()]
    assert found.sources[2].weight == 2.0


def reworded(question, answer, *wordings):
    return replace(row(question, answer), wordings=wordings)


def test_an_old_row_stays_without_the_wordings_that_have_another_answer_now():
    old = reworded("Where is A?", "In 1.", "Find A", "The place of A")
    new = reworded("Where is B?", "In 2.", "find a!")
    found = rehearse([new], [[old]])
    assert [(r.question, r.wordings) for r in found.old] == [("Where is A?", ("The place of A",))]
    assert [(n.question, o.question, o.answer) for n, o in found.changed] == [
        ("Where is B?", "Find A", "In 1.")
    ]
    asked = rehearse([row("Find A", "In 3.")], [[old]])
    assert [r.wordings for r in asked.old] == [("The place of A",)]
    # The same answer takes nothing away.
    assert rehearse([row("Find A", "In 1.")], [[old]]).old == (old,)
    assert rehearse([row("Find A", "In 1.")], [[old]]).changed == ()


def test_a_wording_with_another_answer_replaces_the_old_row_that_asks_so():
    new = reworded("Where is B?", "In 2.", "Where is A?")
    found = rehearse([new], [[row("Where is A?", "In 1."), row("Where is C?", "In 3.")]])
    assert questions(found.old) == ["Where is C?"]
    assert [(n.question, o.question) for n, o in found.changed] == [("Where is B?", "Where is A?")]
    same = reworded("Where is B?", "In 1.", "Where is A?")
    assert questions(rehearse([same], [[row("Where is A?", "In 1.")]]).old) == ["Where is A?"]


def test_of_three_sessions_the_latest_wording_counts():
    first = reworded("A?", "1.", "about a")
    second = reworded("B?", "2.", "about a")
    assert [r.wordings for r in rehearse([row("C?", "3.")], [[first], [second]]).old] == [
        (), ("about a",),
    ]  # fmt: skip
