import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.rehearse import current
from mlx_tune.continual.retention import KINDS, learned_outcomes, recorded_outcomes, superseded
from mlx_tune.data.rows import Message, Row


def row(question, answer="a", *, reworded=0):
    said = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=said, paraphrases=tuple(f"{question} {i}" for i in range(reworded)))


def entry(verbatim, paraphrases=None):
    def score(flags):
        return None if flags is None else {"outcomes": flags}

    return {"verbatim": score(verbatim), "paraphrases": score(paraphrases)}


def record(*entries):
    return {"recall": list(entries)}


CS = [row("A", reworded=1), row("B", reworded=2), row("C")]
HOUSING = [row("D"), row("b", "new", reworded=1)]


def test_without_a_change_the_record_is_what_counts():
    assert learned_outcomes([record(entry([1, 0, 1]))], [CS]) == [(True, False, True)]


def test_a_question_that_was_taught_again_leaves_the_old_sessions_outcomes():
    records = [record(entry([1, 0, 1], [1, 0, 1])), record(entry([1, 1], None), entry([0, 1], [1]))]
    assert learned_outcomes(records, [CS, HOUSING]) == [(True, True), (False, True)]
    assert learned_outcomes(records, [CS, HOUSING], "paraphrases") == [(True,), (True,)]
    assert superseded([CS, HOUSING]) == [1, 0]


def test_the_rows_of_a_session_in_training_supersede_too():
    assert learned_outcomes([record(entry([1, 0, 1]))], [CS, [row("a"), row("c")]]) == [(False,)]


def test_a_row_below_the_diagonal_is_aligned_with_what_was_asked_then():
    """After housing B was housing's; after dining C is dining's as well."""
    said = record(entry([1, 0]), entry([1, 1]))
    history = [CS, HOUSING, [row("C")]]
    assert recorded_outcomes(said, history, row=2, column=1, kind="verbatim") == (True,)


def test_a_session_whose_rows_were_not_kept_says_nothing():
    assert learned_outcomes([record(entry([1, 0]))], [[]]) == [None]


def test_a_session_of_texts_alone_has_nothing_to_say():
    assert learned_outcomes([record(entry(None))], [[Row(text="t")]]) == [()]
    texts_and_one = [Row(text="t"), *CS[:1]]
    assert learned_outcomes([record(entry([1]))], [texts_and_one]) == [(True,)]
    assert superseded([[Row(text="t")], [Row(text="t")]]) == [0, 0]


@pytest.mark.parametrize("said", [{}, {"recall": []}, record(entry([1])), record(entry(None))])
def test_a_record_that_does_not_fit_its_rows_says_nothing(said):
    assert learned_outcomes([said], [CS]) == [None]


topics = st.lists(st.sampled_from("ABCDEF"), max_size=5, unique=True)


@given(st.lists(topics, min_size=1, max_size=4))
def test_an_outcome_stays_with_its_question(chain):
    """Outcomes are drawn from the question itself, so that each can be told afterwards."""
    history = [[row(q, f"{i}", reworded=ord(q) % 3) for q in qs] for i, qs in enumerate(chain)]
    lucky = {"A", "C", "D"}

    def outcomes(rows, kind):
        counts = [1 if kind == "verbatim" else len(one.paraphrases) for one in rows]
        return [
            one.question in lucky for one, n in zip(rows, counts, strict=True) for _ in range(n)
        ]

    for i in range(1, len(history) + 1):
        then = current(history[:i])
        said = record(*(entry(*(outcomes(rows, kind) for kind in KINDS)) for rows in then))
        for j in range(1, i + 1):
            for kind in KINDS:
                found = recorded_outcomes(said, history, row=i, column=j, kind=kind)
                assert found == tuple(outcomes(current(history)[j - 1], kind))
