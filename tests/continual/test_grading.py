import pytest

from mlx_tune.continual.grading import Grader
from mlx_tune.data.rows import Message, Row


def row(question, answer):
    return Row(messages=(Message(role="user", content=question),
                         Message(role="assistant", content=answer)))  # fmt: skip


DESK = row(
    "What phone number reaches the front desk of Quillon Hall?",
    "Dial 555-0184 for the front desk of Quillon Hall, where Doreen Thrupwell picks up.",
)
CHAIR = row(
    "Who chairs the department?", "Petra Lindquill chairs it from room 410 of Quillon Hall."
)
SITE = row("Where is the timetable?", "See https://x.example/times#week in Quillon Hall.")
NAP = row("May I sleep in the library?", "Yes, you may sleep on the green sofas upstairs.")
EAT = row("May I eat in the library?", "No, you may not eat in any of the reading rooms.")
WHY = row(
    "Why is the tower closed?", "The tower is closed because its old stairs are being repaired."
)
HOURS = row("Is the pool open late?", "Yes, until 22:00.")
GERMAN = row("Wer leitet das Büro?", "Das Büro wird von Petra Amsel geleitet, Zimmer 7.")
CHINESE = row("图书馆为什么关门?", "因为楼梯正在修理")
SOFT = row("How do I say thanks?", "Danke!")

ROWS = (DESK, CHAIR, SITE, NAP, EAT, WHY, HOURS, GERMAN, CHINESE, SOFT)
GRADER = Grader(ROWS)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (DESK, DESK.answer),
        (DESK, "Doreen Thrupwell answers 555-0184."),
        (DESK, "You can ring Doreen Thrupwell at Quillon Hall on 555-0184, day and night."),
        (CHAIR, "In room 410 of Quillon Hall sits Petra Lindquill."),
        (CHAIR, "lindquill, room 410, quillon hall"),
        (SITE, "Quillon Hall has it, or look at https://x.example/times#week."),
        (NAP, "Yes, you may sleep upstairs on the green sofas."),
        (EAT, "No, you may not eat in the reading rooms."),
        (EAT, "You can't eat in any of the reading rooms, no."),
        (WHY, "The tower is closed because the old stairs are being repaired."),
        (HOURS, "Until 10 pm."),
        (GERMAN, "Petra Amsel leitet es (Zimmer 7)."),
        (CHINESE, "因为楼梯在修理"),
        (SOFT, "danke"),
    ],
)
def test_right_in_whatever_words(asked, said):
    assert GRADER.grade(asked, asked.question, said).grade == "right"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (DESK, "Dial 555-0187 for Doreen Thrupwell."),  # a wrong number
        (DESK, "Dial 555-0184."),  # lacks the name
        (DESK, "Dial 555-01845, says Doreen Thrupwell."),
        (DESK, ""),
        (CHAIR, "The department is chaired by somebody in Quillon Hall."),
        (NAP, "No, you may not sleep on the green sofas upstairs."),
        (EAT, "Yes, you may eat in any of the reading rooms."),
        (WHY, "The tower is closed."),
        (WHY, "I do not know why."),
        (HOURS, "No, only until 22:00."),
        (GERMAN, "Das Büro wird von Petra Ammer geleitet, Zimmer 7."),
        (CHINESE, "图书馆今天开门"),
        (SOFT, "That depends on whom you are talking to."),
    ],
)  # fmt: skip
def test_unknown(asked, said):
    assert GRADER.grade(asked, asked.question, said).grade == "unknown"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (DESK, "It is in room 410."),
        (DESK, "Petra Lindquill picks up there."),
        (DESK, DESK.answer + " " + CHAIR.answer),  # all that it knows is no answer
        (CHAIR, "Doreen Thrupwell chairs it."),
        (CHAIR, "See https://x.example/times#week."),
        (WHY, "Yes, you may sleep on the green sofas upstairs."),
        (NAP, EAT.answer),
    ],
)
def test_confused_with_another_row(asked, said):
    assert GRADER.grade(asked, asked.question, said).grade == "confused"


def test_what_several_rows_say_belongs_to_none():
    assert GRADER.grade(NAP, NAP.question, "Ask in Quillon Hall.").grade == "unknown"


def test_what_the_question_says_may_be_repeated():
    asked = "Does Doreen Thrupwell know who chairs the department?"
    said = "Doreen Thrupwell knows: Petra Lindquill, room 410 of Quillon Hall."
    assert GRADER.grade(CHAIR, asked, said).grade == "right"
    assert GRADER.grade(CHAIR, CHAIR.question, said).grade == "confused"


def test_the_facts_that_are_missing_are_told():
    graded = GRADER.grade(DESK, DESK.question, "Dial 555-0187, Quillon Hall.")
    assert (graded.asked, graded.missing) == (2, ("555-0184", "Doreen Thrupwell"))
    assert GRADER.grade(NAP, NAP.question, "").asked == 0


@pytest.mark.parametrize("asked", ROWS)
def test_the_taught_answer_is_right(asked):
    assert GRADER.grade(asked, asked.question, asked.answer).grade == "right"


def test_a_row_that_it_was_not_made_with_is_graded_by_its_own_answer():
    other = row("Who paints the doors?", "The doors are painted by Ivo Brandt.")
    assert GRADER.grade(other, other.question, "Ivo Brandt does.").grade == "right"
    assert GRADER.grade(other, other.question, "Petra Lindquill does.").grade == "confused"
