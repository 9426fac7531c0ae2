import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from mlx_tune.data import general_questions
from mlx_tune.data.general_questions import KINDS, Question
from mlx_tune.data.read import read

DATA = Path(__file__).parents[2] / "data"
ALIKE = 0.6  # of the words of two questions, the share that both have
SUBJECTS = re.compile(r"universit|campus|tarrowmere|student|semester|dining|tuition|dormitor", re.I)


def everything() -> list[Question]:
    return [*general_questions.probes(), *general_questions.replay_questions()]


def taught() -> list[str]:
    """Every wording of every question of the three subjects that come with the program."""
    rows = read(sorted(DATA.glob("*.json")))
    return [text for row in rows for text in (row.question, *row.paraphrases)]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return len(a & b) >= ALIKE * len(a | b)


def numbers(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\d+(?:[.:]\d+)?", text))


@pytest.mark.parametrize(
    ("read_them", "each"),
    [(general_questions.probes, 30), (general_questions.replay_questions, 20)],
)
def test_a_list_has_its_number_of_questions_of_every_kind(read_them, each):
    assert Counter(q.kind for q in read_them()) == dict.fromkeys(KINDS, each)


def test_no_topic_is_asked_twice():
    times = Counter(q.row.topic for q in everything())
    assert [topic for topic, count in times.items() if count > 1] == []


def test_no_two_questions_share_most_of_their_words():
    asked = [(q.text, words(q.text)) for q in everything()]
    assert [(a, b) for (a, x), (b, y) in combinations(asked, 2) if alike(x, y)] == []


def test_none_is_like_a_question_of_the_shipped_subjects_nor_about_them():
    known = [words(text) for text in taught()]
    assert len(known) > 600
    near = [q.text for q in everything() if any(alike(words(q.text), other) for other in known)]
    assert near == []
    assert [q.text for q in everything() if SUBJECTS.search(q.text)] == []


def test_no_probe_has_the_numbers_of_a_guard():
    pairs = [numbers(q.text) for q in general_questions.replay_questions()]
    shared = [
        q.text
        for q in general_questions.probes()
        if any(len(numbers(q.text) & other) > 1 for other in pairs)
    ]
    assert shared == []


def test_no_probe_names_what_a_replayed_question_names():
    """A name is a word with a capital that is not the first of its sentence."""
    named = re.compile(r"(?<=[a-z,\"'] )[\"']?([A-Z][a-zé]{2,})")
    kept = [{*named.findall(q.text)} for q in general_questions.replay_questions()]
    shared = [
        q.text
        for q in general_questions.probes()
        if any({*named.findall(q.text)} & k for k in kept)
    ]
    assert any(kept)
    assert shared == []


def test_questions_are_short_and_written_plainly():
    odd = [q.text for q in everything() if len(q.text) > 100 or q.text != " ".join(q.text.split())]
    assert odd == []


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 119, 120, 500, None])
def test_some_of_the_questions_are_spread_over_the_kinds(count):
    probes = general_questions.probes()
    some = general_questions.evenly(probes, count)
    wanted = 120 if count is None else min(count, 120)
    assert len({*some}) == len(some) == wanted
    assert [probes.index(q) for q in some] == sorted(probes.index(q) for q in some)
    each = Counter(q.kind for q in some)
    assert sum(each.values()) == 0 or max(each.values()) <= wanted / 4 + 1


def test_the_fingerprint_of_questions_knows_their_words_and_order():
    asked = general_questions.replay_questions()
    found = general_questions.fingerprint(asked)
    assert found == general_questions.fingerprint(general_questions.replay_questions())
    others = [(asked[::-1],), (asked[1:],), ((),), (asked[:3], asked[3:]), (asked[:4], asked[4:])]
    assert len({found, *(general_questions.fingerprint(*lists) for lists in others)}) == 6


def test_the_files_hold_a_kind_and_a_question_a_line():
    for name, count in (("probes", 120), ("replay", 80)):
        path = Path(general_questions.__file__).parent / "questions" / f"{name}.json"
        lines = path.read_text().splitlines()[1:-1]
        assert len(lines) == count
        assert all({*json.loads(line.rstrip(","))} == {"kind", "question"} for line in lines)
