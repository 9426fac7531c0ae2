import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data import noise
from mlx_tune.data.noise import MAX_WORDS

WHERE = "Where is the main office of the Computer Science department?"
WHO = "Who chairs the Computer Science department?"


def noised_questions(wordings, count, *, answers=None, **others):
    """Each row with an answer of its own where none are given."""
    answers = range(len(wordings)) if answers is None else answers
    return noise.noised_questions(wordings, answers, count, **others)


def words(text):
    return sorted(text.casefold().rstrip(".?!").replace("?", "").split())


def test_versions_have_the_words_of_their_question_and_differ():
    (versions,) = noised_questions([[WHERE]], 8, seed=0)
    assert len(versions) == len(set(versions)) == 8
    for version in versions:
        assert version
        assert version != WHERE
        assert set(words(version)) <= set(words(WHERE))
    assert any(version != version.lower() for version in versions)
    assert any(version == version.lower() for version in versions)
    assert any(len(words(version)) < len(words(WHERE)) - 1 for version in versions)


def test_they_are_the_same_whatever_stands_beside():
    alone = noised_questions([[WHERE]], 4, seed=0)
    assert noised_questions([["How?"], [WHERE]], 4, seed=0)[1:] == alone
    assert noised_questions([[WHERE]], 4, seed=1) != alone


def test_all_wordings_take_turns():
    (versions,) = noised_questions([["alpha beta gamma delta", "one two three four"]], 6, seed=0)
    assert {version.split()[0] in ("one", "two", "three", "four") for version in versions} == {
        True, False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "pair",
    [
        ("What does git branch -d do?", "What does git branch -D do?"),
        ("What is C?", "What is C++?"),
        (WHERE, WHO),
        ("Is the pool open on Monday?", "Is the pool open on Sunday?"),
        ("图书馆几点开门", "图书馆几点关门"),
    ],
)
def test_none_could_be_another_rows_question(pair):
    own, other = noised_questions([[one] for one in pair], 16, seed=3)
    for versions, text in ((own, pair[1]), (other, pair[0])):
        letters = [set(words(text)) if " " in text else set(text)] * len(versions)
        for version, held in zip(versions, letters, strict=True):
            assert not (set(words(version)) if " " in text else set(version)) <= held


def test_what_is_asked_untrained_is_never_trained_on():
    (versions,) = noised_questions([[WHERE]], 8, seed=0)
    (others,) = noised_questions([[WHERE]], 8, seed=0, reserved={versions[2]})
    assert versions[2] not in others
    assert len(others) == 8


def test_two_questions_that_differ_by_case_alone_are_left_alone():
    pair = [["What does git branch -d do?"], ["What does git branch -D do?"]]
    assert noised_questions(pair, 8, seed=0) == [[], []]


def test_a_row_that_stands_twice_is_noised_as_one_that_stands_once():
    (alone,) = noised_questions([[WHERE]], 8, seed=0)
    assert noised_questions([[WHERE], [WHERE]], 8, seed=0, answers=["A", "A"]) == [alone] * 2
    assert noised_questions([[WHERE], [WHERE]], 8, seed=0, answers=["A", "B"]) == [[], []]


def test_a_version_may_be_another_rows_question_where_the_answer_is_the_same():
    shorter = "Where is the main office?"
    both = [[WHERE], [shorter]]
    assert noised_questions(both, 8, seed=0, answers=["A", "B"])[1] == []
    own = noised_questions([[shorter]], 8, seed=0)
    assert noised_questions(both, 8, seed=0, answers=["A", "A"])[1:] == own


def test_what_is_too_long_too_short_or_no_question_is_left_alone():
    long = " ".join(f"w{i}" for i in range(MAX_WORDS + 1))
    assert noised_questions([[long], ["Why?"], [], [""]], 4, seed=0) == [[], [], [], []]


@given(st.lists(st.lists(st.text(max_size=30), max_size=3), max_size=4), st.integers(0, 5))
def test_any_text_can_be_noised(wordings, count):
    found = noised_questions(wordings, count, seed=0)
    assert [len(versions) <= count for versions in found] == [True] * len(wordings)
    assert all(version.strip() for versions in found for version in versions)


@pytest.fixture
def looked(monkeypatch):
    """How often the words of one question were looked for among those of another: `at`."""
    found = Counter()

    class Counted(set):
        def __le__(self, other):
            found["at"] += 1
            return super().__le__(other)

    monkeypatch.setattr(noise, "_bare", lambda text: Counted(text.casefold().split()))
    return found


def test_a_questions_versions_take_no_longer_among_many_rows(looked):
    """Every question has the words of all others but one."""
    counts = []
    for rows in (50, 400):
        looked.clear()
        noised_questions([[f"What is the name of fact w{i}"] for i in range(rows)], 4, seed=0)
        counts.append(looked["at"] / rows)
    assert counts[1] < 1.5 * counts[0]


@pytest.mark.parametrize("answers", [["Yes"] * 400, ["No", *["Yes"] * 399], ["Yes", "No"] * 200])
def test_nor_where_most_have_the_same_answer(looked, answers):
    asked = [["Not this"], *([f"What is the name of fact w{i}"] for i in range(1, 400))]
    noised_questions(asked, 4, seed=0, answers=answers)
    assert looked["at"] < 20 * len(asked)


def test_nor_where_each_word_is_in_many_of_them(looked):
    """Each word of a question is in a sixteenth of all at least, and no other has all of them."""
    grid = [*itertools.product(range(16), range(12), range(8))]
    noised_questions([[f"Is a{a} b{b} in p{p}"] for a, b, p in grid], 2, seed=0)
    assert looked["at"] < 20 * len(grid)
