"""The three subjects that come with the program: a continual-learning test in miniature."""

from collections import Counter
from pathlib import Path

import pytest

from mlx_tune.data.read import read

DATA = Path(__file__).parents[2] / "data"
SIZES = {"cs.json": 106, "housing.json": 60, "dining.json": 60}


def wordings(row):
    """The topics of a row's question in all its wordings."""
    return [row.topic, *(row.with_question(text).topic for text in row.paraphrases)]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_subject_has_its_number_of_questions_with_answers(name, size):
    rows = read([DATA / name])
    assert len(rows) == size
    assert all(row.question and row.answer for row in rows)


@pytest.mark.parametrize("name", SIZES)
def test_every_question_has_at_least_two_paraphrases(name):
    poor = [row.place for row in read([DATA / name]) if len(row.paraphrases) < 2]
    assert poor == []


def test_no_wording_is_asked_twice_in_the_three_subjects():
    rows = read([DATA / name for name in SIZES])
    times = Counter(wording for row in rows for wording in wordings(row))
    assert [wording for wording, count in times.items() if count > 1] == []
    assert len(times) >= 3 * sum(SIZES.values())
