"""The retention matrix and its measures, and the outcomes that records hold of it."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_tune.continual import retention
from mlx_tune.continual.answers import RULES
from mlx_tune.continual.in_force import current_rows
from mlx_tune.continual.retention import (
    RECITED,
    REWORDED,
    QuestionHistory,
    RetentionMatrix,
    questions,
    superseded,
    wilson,
)
from mlx_tune.data.rows import Message, Row


def tens(*rows):
    """A matrix of cells over ten questions each; None where nothing was measured."""
    return RetentionMatrix.of(
        [[None if right is None else (right, 10) for right in row] for row in rows]
    )


THREE = tens(
    (0, 1, 0),  # the base
    (9, 2, 0),
    (10, 10, 3),
    (8, 7, 10),
)

cells = st.none() | st.integers(0, 30).flatmap(
    lambda asked: st.tuples(st.integers(0, asked), st.just(asked))
)


@st.composite
def matrices(draw, cells=cells):
    length = draw(st.integers(1, 5))
    row = st.lists(cells, min_size=length, max_size=length)
    return RetentionMatrix.of(draw(st.lists(row, min_size=length + 1, max_size=length + 1)))


def test_accuracy_is_the_mean_of_what_is_known_now():
    acc = THREE.accuracy()
    assert acc.value == pytest.approx((0.8 + 0.7 + 1.0) / 3)
    assert (acc.sessions, acc.left_out, acc.questions) == ((1, 2, 3), (), 30)
    assert acc.interval == pytest.approx(wilson(25, 30))


def test_backward_transfer_compares_with_what_was_known_when_learned():
    bwt = THREE.backward_transfer()
    assert bwt.value == pytest.approx(((0.8 - 0.9) + (0.7 - 1.0)) / 2)
    assert (bwt.sessions, bwt.questions, bwt.interval) == ((1, 2), 20, None)


def test_forward_transfer_compares_what_was_known_before_it_was_taught_with_the_base():
    fwt = THREE.forward_transfer()
    assert fwt.value == pytest.approx(((0.2 - 0.1) + (0.3 - 0.0)) / 2)
    assert fwt.sessions == (2, 3)


def test_forgetting_compares_with_the_best_there_ever_was():
    forgotten = THREE.forgetting()
    assert forgotten.value == pytest.approx(((1.0 - 0.8) + (1.0 - 0.7)) / 2)
    better = tens((0, 0), (5, 0), (9, 9))
    assert better.forgetting().value == 0
    assert better.backward_transfer().value == pytest.approx(0.4)


def test_the_worst_session_is_the_one_known_least_now():
    assert THREE.worst() == 2
    assert tens((0, 0), (9, 0), (5, 5)).worst() == 1
    assert THREE.interval(3, 2) == pytest.approx(wilson(7, 10))


def test_what_was_not_measured_is_left_out_and_named():
    holes = tens((None, 1, 0), (None, 2, 0), (10, 10, None), (8, 7, None))
    assert holes.accuracy().value == pytest.approx(0.75)
    assert holes.accuracy().left_out == (3,)
    assert holes.accuracy().interval == pytest.approx(wilson(15, 20))
    assert holes.backward_transfer().value == pytest.approx(-0.3)
    assert holes.backward_transfer().left_out == (1,)
    assert holes.forgetting().left_out == (1,)
    assert holes.forward_transfer().value == pytest.approx(0.1)
    assert holes.forward_transfer().left_out == (3,)
    assert holes.interval(3, 3) is None


def test_one_session_has_nothing_to_forget():
    one = tens((0,), (9,))
    assert one.accuracy().value == 0.9
    for measure in (one.backward_transfer(), one.forward_transfer(), one.forgetting()):
        assert (measure.value, measure.sessions, measure.left_out) == (None, (), ())


def test_nothing_asked_is_nothing_known_and_nothing_divided():
    empty = RetentionMatrix.of([[(0, 0)], [(0, 0)]])
    assert empty.accuracy().value is None
    assert empty.worst() is None
    assert empty.rate(1, 1) is None


@pytest.mark.parametrize("rows", [[[(1, 2)]], [[(1, 2)], [(1, 2), (1, 2)]], [[(3, 2)], [(0, 2)]]])
def test_what_is_no_matrix_is_refused(rows):
    with pytest.raises(ValueError, match=r"rows need|right of"):
        RetentionMatrix.of(rows)


@given(matrices())
def test_every_measure_stays_within_its_bounds_and_names_every_session(made):
    everyone = set(range(1, made.length + 1))
    for measure, low, among in (
        (made.accuracy(), 0, everyone),
        (made.backward_transfer(), -1, everyone - {made.length}),
        (made.forward_transfer(), -1, everyone - {1}),
        (made.forgetting(), 0, everyone - {made.length}),
    ):
        assert measure.value is None or low <= measure.value <= 1
        assert set(measure.sessions) | set(measure.left_out) == among
        assert (measure.value is None) == (not measure.sessions)


@given(matrices(st.tuples(st.integers(0, 10), st.just(10))))
def test_forgetting_is_at_least_what_backward_transfer_lost(made):
    assume(made.length > 1)
    assert made.forgetting().value >= -made.backward_transfer().value - 1e-12


def test_wilson_gives_the_published_numbers():
    """Those of Newcombe 1998, Statistics in Medicine 17, 857–872: table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_the_share_and_mirrors_its_complement(counted):
    right, asked = counted
    low, high = wilson(right, asked)
    assert 0 <= low <= right / asked <= high <= 1
    assert low < high
    assert (1 - high, 1 - low) == pytest.approx(wilson(asked - right, asked), abs=1e-9)


def test_sessions_of_unequal_size_count_alike_and_widen_the_interval():
    made = RetentionMatrix.of([[(0, 10), (0, 90)], [(0, 10), (0, 90)], [(10, 10), (45, 90)]])
    acc = made.accuracy()
    assert acc.value == pytest.approx(0.75)
    assert acc.questions == 100
    assert acc.interval == pytest.approx(wilson(27, 36))  # 4 / (1/10 + 1/90) = 36 questions


def row(question, answer="a", *, reworded=0):
    said = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=said, paraphrases=tuple(f"{question} {i}" for i in range(reworded)))


def entry(verbatim, paraphrases=None, **graded):
    def score(outcomes, **more):
        return None if outcomes is None else {"outcomes": outcomes, **more}

    grades = {kind: score(outcomes, rules=RULES) for kind, outcomes in graded.items()}
    return {"verbatim": score(verbatim), "paraphrases": score(paraphrases), **grades}


def record(*entries):
    return {"recall": list(entries)}


def diagonal_outcomes(records, history, kind="verbatim"):
    return retention.diagonal_outcomes(records, QuestionHistory(history), kind)


def best_outcomes(records, history, kind="verbatim", **asked):
    return retention.best_outcomes(records, QuestionHistory(history), kind, **asked)


def lowest_losses(records, history):
    return retention.lowest_losses(records, QuestionHistory(history))


def recorded_outcomes(record, history, **where):
    return retention.recorded_outcomes(record, QuestionHistory(history), **where)


CS = [row("A", reworded=1), row("B", reworded=2), row("C")]
HOUSING = [row("D"), row("B ", "new", reworded=1)]


def test_without_a_change_the_record_is_what_counts():
    assert diagonal_outcomes([record(entry([1, 0, 1]))], [CS]) == [(True, False, True)]


def test_a_question_with_another_answer_now_leaves_the_old_sessions_outcomes():
    records = [record(entry([1, 0, 1], [1, 0, 1])), record(entry([1, 1], None), entry([0, 1], [1]))]
    assert diagonal_outcomes(records, [CS, HOUSING]) == [(True, True), (False, True)]
    assert diagonal_outcomes(records, [CS, HOUSING], "paraphrases") == [(True,), (True,)]
    assert superseded([CS, HOUSING]) == [1, 0]


def test_a_question_taught_again_with_its_answer_stays_in_the_old_sessions_outcomes():
    again = [row("A"), row("B ", "new"), row("c", "new")]
    assert diagonal_outcomes([record(entry([1, 0, 1]))], [CS, again]) == [(True, True)]
    assert superseded([CS, again]) == [1, 0]


def test_the_rows_of_a_session_in_training_supersede_too():
    training = [row(" A", "new"), row("C ", "new")]
    assert diagonal_outcomes([record(entry([1, 0, 1]))], [CS, training]) == [(False,)]


def test_a_row_below_the_diagonal_is_aligned_with_what_was_asked_then():
    """After housing B was housing's; after dining C is dining's as well."""
    said = record(entry([1, 0]), entry([1, 1]))
    history = [CS, HOUSING, [row("C", "new")]]
    assert recorded_outcomes(said, history, row=2, column=1, kind="verbatim") == (True,)


def test_the_best_score_on_record_is_that_of_any_later_session():
    later = [row("D"), row("E")]
    records = [
        record(entry([1, 0, 0], [1, 0, 0])),
        record(entry([1, 1, 0], [0, 0, 0]), entry([1, 1])),
        record(entry([0, 0, 1], None), entry([1, 0]), entry([1])),
    ]
    history = [CS, later, [row("F")]]
    assert best_outcomes(records, history) == [(True, True, False), (True, True), (True,)]
    assert best_outcomes(records, history, "paraphrases")[0] == (True, False, False)
    assert best_outcomes(records, [CS, later, [row("B", "new")]])[0] == (True, False)
    assert best_outcomes([record(), record()], [CS, later]) == [None, None]


def test_the_best_score_is_the_best_of_what_is_asked_now():
    """The first record asked four and has three right, the second asked two: both are right."""
    cs, later = [row("A", reworded=4)], [row("D")]
    first = entry([1], [0] * 4, other_words=["unknown", "right", "right", "right"])
    second = entry([1], [0] * 4, other_words=["right", "right", None, None])
    records = [record(first), record(second, entry([1]))]
    best = best_outcomes(records, [cs, later], "other_words")
    assert best[0] == (False, True, True, True)
    best = best_outcomes(records, [cs, later], "other_words", asked=[{0, 1}, ()])
    assert best[0] == (True, True, None, None)


def test_losses_are_those_of_the_record_where_they_were_lowest_together():
    def lost(*losses):
        return {"verbatim": {"outcomes": [0] * len(losses), "losses": list(losses)}}

    records = [record(lost(5.0, 4.0, 3.0)), record(lost(1.0, 6.0, 1.0), lost(2.0))]
    assert lowest_losses(records, [CS, [row("D")]]) == [(1.0, 6.0, 1.0), (2.0,)]
    assert lowest_losses([record(entry([1, 0, 1]))], [CS]) == [None]


def test_losses_of_a_conversation_are_not_compared_once_fewer_of_its_turns_are_taught():
    messages = (*row("Hi", "Hello!").messages, *row("then").messages)
    talks, later = [row("B"), Row(messages=messages)], [row("Hi", "Good day.")]
    kept = {"verbatim": {"outcomes": [1, 1], "losses": [2.0, 9.0]}}
    after = {"verbatim": {"outcomes": [1, 1], "losses": [1.0, 3.0]}}
    assert lowest_losses([record(kept)], [talks]) == [(2.0, 9.0)]
    assert lowest_losses([record(kept)], [talks, later]) == [(2.0, None)]
    records = [record(kept), record(after, entry([1]))]
    assert lowest_losses(records, [talks, later])[0] == (1.0, None)
    assert lowest_losses(records, [talks, later, [row("Hi", "Hello!")]])[0] == (1.0, None)


def test_a_question_counts_once_however_often_it_stands_in_the_data():
    rows = [*(row("A") for _ in range(5)), row("B"), row("A", "other"), Row(text="t")]
    assert [(one.question, one.answer) for one in questions(rows)] == [
        ("A", "a"), ("B", "a"), ("A", "other"),
    ]  # fmt: skip
    older = record(entry([1, 1, 1, 1, 1, 0, 0]))  # from when each stood for itself
    assert diagonal_outcomes([older], [rows]) == [(True, False, False)]


def test_equal_rows_are_asked_in_the_other_words_of_each():
    rows = [row("A", reworded=1), row("B"), row("A", reworded=3)]
    assert [one.paraphrases for one in questions(rows)] == [("A 0", "A 1", "A 2"), ()]
    newer = record(entry([1, 1], [0, 1, 0]))
    assert diagonal_outcomes([newer], [rows], "paraphrases") == [(False, True, False)]
    older = record(entry([1, 1], [1]))  # of the first alone
    assert diagonal_outcomes([older], [rows], "paraphrases") == [None]


def test_a_paraphrase_that_is_trained_on_now_leaves_the_outcomes():
    said = record(entry([1, 0, 1], [1, 0, 1]))
    later = [row("B 0", "new")]
    assert diagonal_outcomes([said], [CS, later]) == [(True, False, True)]
    assert diagonal_outcomes([said], [CS, later], "paraphrases") == [(True, True)]
    # As it was recorded before that was left out.
    after = record(entry([1, 0, 1], [1, 0, 1]), entry([1]))
    found = recorded_outcomes(after, [CS, later], row=2, column=1, kind="paraphrases")
    assert found == (True, True)


def test_records_of_before_a_conversation_outlived_its_turns_tell_of_the_others():
    messages = (*row("A").messages, *row("then").messages)
    talks = [row("B"), Row(messages=messages), row("C")]
    later = [row("A", "new")]
    older = record(entry([1, 0]), entry([1]))
    history = [talks, later]
    assert recorded_outcomes(older, history, row=2, column=1, kind="verbatim") is None
    newer = record(entry([1, 1, 0]), entry([1]))
    found = recorded_outcomes(newer, history, row=2, column=1, kind="verbatim")
    assert found == (True, True, False)
    replaced = [*history, [Row(messages=(*messages[:-1], row("", "other").messages[1]))]]
    assert recorded_outcomes(older, replaced, row=2, column=1, kind="verbatim") == (True, False)


def test_what_older_records_left_out_is_not_told_by_them():
    """A question taught again with its answer was not asked of the old session any more."""
    again = [row("A", reworded=1), row("D")]
    older = record(entry([1, 0], [1, 0]), entry([1, 1], [1]))
    assert recorded_outcomes(older, [CS, again], row=2, column=1, kind="verbatim") is None
    newer = record(entry([0, 1, 0], [1, 1, 0]), entry([1, 1], [1]))
    found = recorded_outcomes(newer, [CS, again], row=2, column=1, kind="verbatim")
    assert found == (False, True, False)


def test_grades_are_flags_and_what_was_not_asked_is_neither():
    kinds = {"as_taught": ["right", "unknown", None], "other_words": ["confused", None, "right"]}
    said = record(entry([1, 0, 1], [0, 0, 0], **kinds))
    assert diagonal_outcomes([said], [CS], "as_taught") == [(True, False, None)]
    assert diagonal_outcomes([said], [CS], "other_words") == [(False, None, True)]
    assert diagonal_outcomes([said], [CS, HOUSING], "as_taught") == [(True, None)]
    assert diagonal_outcomes([said], [CS, HOUSING], "other_words") == [(False,)]


def test_grades_that_are_missing_or_by_other_rules_are_not_told():
    older = record(entry([1, 0, 1], [0, 0, 0]))
    assert diagonal_outcomes([older], [CS], "other_words") == [None]
    assert diagonal_outcomes([record(entry([1], None))], [[row("A")]], "other_words") == [()]
    other = record(entry([1, 0, 1], [0, 0, 0], other_words=["right"] * 3))
    for rules in (RULES - 1, RULES + 1):
        other["recall"][0]["other_words"]["rules"] = rules
        assert diagonal_outcomes([other], [CS], "other_words") == [None]


def test_a_session_whose_rows_were_not_kept_says_nothing():
    assert diagonal_outcomes([record(entry([1, 0]))], [[]]) == [None]


def test_a_session_of_texts_alone_has_nothing_to_say():
    assert diagonal_outcomes([record(entry(None))], [[Row(text="t")]]) == [()]
    texts_and_one = [Row(text="t"), *CS[:1]]
    assert diagonal_outcomes([record(entry([1]))], [texts_and_one]) == [(True,)]
    assert superseded([[Row(text="t")], [Row(text="t")]]) == [0, 0]


@pytest.mark.parametrize("said", [{}, {"recall": []}, record(entry([1])), record(entry(None))])
def test_a_record_that_does_not_fit_its_rows_says_nothing(said):
    assert diagonal_outcomes([said], [CS]) == [None]


topics = st.lists(st.sampled_from("ABCDEF"), max_size=5, unique=True)


@given(st.lists(topics, min_size=1, max_size=4))
def test_an_outcome_stays_with_its_question(chain):
    """Outcomes are drawn from the question itself, so that each can be told afterwards."""
    history = [[row(q, f"{i}", reworded=ord(q) % 3) for q in qs] for i, qs in enumerate(chain)]
    lucky = {"A", "C", "D"}

    def outcomes(rows, kind):
        counts = [len(one.paraphrases) if kind in REWORDED else 1 for one in rows]
        return [
            one.question in lucky for one, n in zip(rows, counts, strict=True) for _ in range(n)
        ]

    for i in range(1, len(history) + 1):
        then = current_rows(history[:i])
        said = record(*(entry(*(outcomes(rows, kind) for kind in RECITED)) for rows in then))
        for j in range(1, i + 1):
            for kind in RECITED:
                found = recorded_outcomes(said, history, row=i, column=j, kind=kind)
                assert found == tuple(outcomes(current_rows(history)[j - 1], kind))
