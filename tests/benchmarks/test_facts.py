import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.facts import KINDS, facts, place, subject
from mlx_tune.data.read import read

SEEDS = st.integers(0, 2**32)


@settings(max_examples=20)
@given(SEEDS, st.integers(0, 99), st.integers(0, 60))
def test_the_same_seed_gives_the_same_facts_and_a_shorter_subject_is_a_longer_ones_beginning(
    seed, index, count
):
    assert subject(seed, index, count) == subject(seed, index, 60)[:count]


def test_another_seed_or_index_gives_other_facts():
    rows = [json.dumps(subject(*chosen, 30)) for chosen in ((0, 0), (0, 1), (1, 0))]
    assert len(set(rows)) == 3


@settings(max_examples=20)
@given(SEEDS)
def test_every_answer_holds_its_key_fact_and_no_question_gives_it_away(seed):
    for fact in facts(seed, 0, 60):
        assert fact.key in fact.answer
        assert fact.answer.endswith(".")
        assert not any(fact.key in asked for asked in (fact.question, *fact.paraphrases))


def test_all_kinds_come_and_urls_hold_the_marks_that_were_cut_once():
    drawn = facts(0, 0, 500)
    assert {fact.kind for fact in drawn} == set(KINDS)
    urls = "".join(fact.key for fact in drawn if fact.kind == "url")
    assert set("/@#?&=") <= set(urls)


@pytest.mark.parametrize("count", [30, 500])
def test_no_question_is_asked_twice_within_or_across_subjects(tmp_path, count):
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(json.dumps(subject(0, index, count)))
    rows = read(paths)
    wordings = [
        asked.topic
        for row in rows
        for asked in (row, *(row.with_question(text) for text in row.paraphrases))
    ]
    assert len(rows) == 3 * count
    assert len(set(wordings)) == len(wordings) == 9 * count


def test_a_small_subject_has_several_kinds_and_two_subjects_do_not_ask_the_same_of_two_places():
    here, there = facts(0, 0, 30), facts(0, 1, 30)
    assert len({fact.kind for fact in here}) > 3
    asked = [{f.question.rpartition(" in ")[0] for f in drawn} for drawn in (here, there)]
    assert len(asked[0] & asked[1]) < 10


def test_every_place_is_another():
    assert len({place(0, index) for index in range(1280)}) == 1280


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match=r"^1153 facts of \w+; there are 1152$"):
        subject(0, 0, 1153)
    with pytest.raises(ValueError, match=r"^subject 1280; expected 0 to 1279$"):
        place(0, 1280)
