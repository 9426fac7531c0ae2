from dataclasses import replace

import pytest

from mlx_tune.data.read import read
from mlx_tune.data.rows import Message, Row
from mlx_tune.data.wordings import check_wordings
from mlx_tune.errors import InputError


def row(question, answer, number, **others):
    messages = (
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    )
    return Row(messages=messages, place=f"cs.json:{number}", **others)


A = row("Where is A?", "In 1.", 1, wordings=("Find A", "A, please"))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([replace(A, paraphrases=("find a?",))],
         'cs.json:1: the wording "Find A" is a paraphrase of cs.json:1, which is never trained on; '
         "remove one of them"),
        ([A, row("B?", "In 2.", 2, paraphrases=("Find A",))],
         'cs.json:1: the wording "Find A" is a paraphrase of cs.json:2, which is never trained on; '
         "remove one of them"),
        ([A, row("find a", "In 2.", 2)],
         'cs.json:1: the wording "Find A" is asked with another answer at cs.json:2; '
         "keep one of them"),
        ([A, row("B?", "In 2.", 2, wordings=("FIND A",))],
         'cs.json:2: the wording "FIND A" is asked with another answer at cs.json:1; '
         "keep one of them"),
        ([replace(A, wordings=("where is a",))],
         'cs.json:1: the wording "where is a" stands in its row already; remove it'),
        ([replace(A, wordings=("Find A", "find A"))],
         'cs.json:1: the wording "find A" stands in its row already; remove it'),
    ],
)  # fmt: skip
def test_a_wording_that_spoils_something_is_refused_with_both_places(rows, problem):
    with pytest.raises(InputError) as error:
        check_wordings(rows)
    assert str(error.value) == problem


def test_others_pass():
    check_wordings([A, A, row("B?", "In 1.", 2, wordings=("Find A",)), row("C?", "In 3.", 3)])
    check_wordings([Row(text="Find A"), A])


def test_a_file_is_checked_when_it_is_read(tmp_path):
    path = tmp_path / "cs.json"
    path.write_text('[{"prompt": "A?", "completion": "1", "wordings": ["a"]}]')
    with pytest.raises(InputError, match=r"cs\.json:1: the wording .a. stands in its row"):
        read([path])
    path.write_text('[{"prompt": "A?", "completion": "1", "wordings": ["Say A"]}]')
    assert [r.wordings for r in read([path])] == [("Say A",)]
    assert read([path])[0].to_json()["wordings"] == ["Say A"]
    assert [r.question for r in read([path])[0].reworded] == ["Say A"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [("[]", '"wordings" is empty'), ('"b"', '"wordings" is text, not a list'),
     ("[1]", "wording 1 is a number"), ('[" "]', "wording 1 is empty")],
)  # fmt: skip
def test_wordings_are_checked_as_paraphrases_are(tmp_path, value, problem):
    path = tmp_path / "cs.json"
    path.write_text(f'[{{"prompt": "A?", "completion": "1", "wordings": {value}}}]')
    with pytest.raises(InputError, match=problem):
        read([path])
