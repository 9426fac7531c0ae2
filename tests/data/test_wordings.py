"""Which wordings of a data set are refused, with both places."""

import pytest

from mlx_tune.data.rows import Message, Row
from mlx_tune.data.wordings import check_wordings, without_trained_paraphrases
from mlx_tune.errors import InputError


def row(line: int, question: str, answer: str = "Room 4.", *, file: str = "new.json", **others):
    said = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=said, place=f"{file}:{line}", **others)


def problems(new, earlier=()) -> list[str]:
    with pytest.raises(InputError) as caught:
        check_wordings(new, earlier)
    return str(caught.value).split("\n")


def test_wordings_of_one_answer_and_paraphrases_apart_are_fine():
    check_wordings(
        [
            row(1, "Where?", wordings=("In which room?", "Whereabouts?"), paraphrases=("Room?",)),
            row(2, "Where is it?", wordings=("in which room",)),  # the same answer
            Row(text="Whereabouts?", place="new.json:3"),  # asks nothing
        ],
        [row(1, "In which room?", "Room 9.", file="old", paraphrases=("Tell me: where?",))],
    )


@pytest.mark.parametrize(
    ("wordings", "problem"),
    [
        (("“ where ”",), 'wording 1, "“ where ”", is the row\'s own question again; remove it'),
        (("A?", "B?", "a"), 'wording 3, "a", is wording 1 again; remove it'),
    ],
)
def test_a_wording_stands_once_in_its_row(wordings, problem):
    assert problems([row(3, "Where?", wordings=wordings)]) == [f"new.json:3: {problem}"]


NEVER = "those measure and are never trained on, so remove one of the two"


def test_a_wording_is_no_paraphrase_of_any_row():
    new = [
        row(1, "Where?", wordings=("Which room?", "What  room?"), paraphrases=("which room",)),
        row(5, "When?", "At 9.", paraphrases=("What room?",)),
    ]
    old = [row(7, "How?", file="old", paraphrases=("And then?",))]
    assert problems([*new, row(9, "Next?", wordings=("And then?",))], old) == [
        f'new.json:1: wording 1, "Which room?", is a paraphrase of new.json:1; {NEVER}',
        f'new.json:1: wording 2, "What  room?", is a paraphrase of new.json:5; {NEVER}',
        f'new.json:9: wording 1, "And then?", is a paraphrase of old:7; {NEVER}',
    ]


def test_a_wording_is_compared_by_likeness_with_its_own_answers_paraphrases_alone():
    told = row(5, "When?", paraphrases=("what room",))
    other = row(5, "When?", "At 9.", paraphrases=("what room",))
    asked = row(1, "Where?", wordings=("What room?",))
    assert problems([asked, told]) == problems([asked], [told])
    assert problems([asked, told]) == [
        f'new.json:1: wording 1, "What room?", is a paraphrase of new.json:5; {NEVER}'
    ]
    check_wordings([asked, other])
    check_wordings([asked], [other])


def test_wordings_that_differ_in_case_alone_may_have_two_answers():
    check_wordings(
        [
            row(1, "Delete it?", "-d", wordings=("What of git branch -d?",)),
            row(2, "Delete it anyway?", "-D", wordings=("What of git branch -D?",)),
            row(3, "what of git branch -d?", "-D"),
        ]
    )


def test_a_wording_has_one_answer_in_the_data():
    new = [
        row(1, "Where?", wordings=("Which room?",)),
        row(4, "And B?", "Room 5.", wordings=(" Where? ",)),
        row(7, "And C?", "Room 6.", wordings=("Which room?",)),
    ]
    other = "too, with another answer; remove one of them"
    assert problems(new) == [
        f'new.json:4: wording 1, " Where? ", is asked at new.json:1 {other}',
        f'new.json:7: wording 1, "Which room?", is asked at new.json:1 {other}',
    ]


def test_what_was_said_before_is_part_of_a_wording():
    """The same words after other words are another question."""

    def later(line: int, question: str, answer: str, **others) -> Row:
        before = (Message(role="user", content="Who?"), Message(role="assistant", content="Bo."))
        alone = row(line, question, answer, **others)
        return Row(messages=before + alone.messages, place=alone.place, wordings=alone.wordings)

    long = later(1, "When is that?", "At 9.", wordings=("And when?",))
    check_wordings([long, row(6, "And when?", "At 10.")])
    assert problems([long, later(6, "And  when?", "At 10.")]) == [
        'new.json:1: wording 1, "And when?", is asked at new.json:6 too, with another answer; '
        "remove one of them"
    ]


def test_a_paraphrase_that_an_earlier_session_was_trained_on_measures_nothing():
    old = [row(2, "Where?", file="old", wordings=("Which room?",))]

    def found(text: str, answer: str) -> list[str]:
        return problems([row(3, "When?", answer, paraphrases=("What time?", text))], old)

    for text, answer in (("Which  room?", "At 9."), ("which room", "Room 4.")):
        assert found(text, answer) == [
            f'new.json:3: the paraphrase "{text}" is a wording of old:2, which was trained on, so '
            "it measures nothing; remove it"
        ]
    check_wordings([row(3, "When?", "At 9.", paraphrases=("which room",))], old)


@pytest.mark.parametrize(
    ("text", "answer"), [("Which room?", "Room 4."), ("which  room", "Room 4."), ("What?", "At 9.")]
)
def test_a_paraphrase_is_no_question_of_the_data(text, answer):
    """It would be trained on, and scored as if it were not."""
    asked = "Which room?" if answer == "Room 4." else " What?"
    new = [row(1, "Where?", paraphrases=("Room?", text)), row(4, asked, answer)]
    measures = "which is trained on, so it measures nothing; remove it"
    assert problems(new) == [
        f'new.json:1: the paraphrase "{text}" is asked at new.json:4 too, {measures}'
    ]
    own = row(1, "Where?", paraphrases=("where",))
    assert problems([own]) == [
        f'new.json:1: the paraphrase "where" is the row\'s own question, {measures}'
    ]
    check_wordings([row(1, "Where?", paraphrases=("which room",)), row(4, "Which room?", "9.")])
    assert without_trained_paraphrases([*new, own]) == [
        row(1, "Where?", paraphrases=("Room?",)), new[1], row(1, "Where?")
    ]  # fmt: skip


def test_a_paraphrase_is_no_question_of_an_earlier_session():
    old = [row(2, "Which room?", file="old")]
    assert problems([row(3, "Where?", paraphrases=("which room",))], old) == [
        'new.json:3: the paraphrase "which room" is the question of old:2, which was trained on, '
        "so it measures nothing; remove it"
    ]
    check_wordings([row(3, "Which room?", paraphrases=("Where?",))], old)


def test_at_most_twenty_problems_are_shown():
    lines = problems([row(n, f"{n}?", wordings=(f"{n}",)) for n in range(1, 24)])
    assert len(lines) == 21
    assert lines[-1] == "… and 3 more"
