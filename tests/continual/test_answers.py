"""Which answers are right, which are another's, which are neither: hand-made cases.

Each is an answer that somebody might give to a question of a small book of rows, with the verdict
of a person who knows the book.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.answers import AnswerKey, _marks, _may_hold, _ways, words
from mlx_tune.continual.key_facts import SearchedText, key_facts
from mlx_tune.data.calls import ToolCall
from mlx_tune.data.rows import Message, Row

DATA = Path(__file__).parents[2] / "data"


def row(question, answer):
    turns = (("user", question), ("assistant", answer))
    return Row(messages=tuple(Message(role=role, content=content) for role, content in turns))


BOOK = {
    "Where is the main office?": "The main office is room 104 of Quillon Hall.",
    "Who heads the department?": "Ilse Marlow has been head since 2017, in Quillon Hall.",
    "Which number reaches the front desk?": "Dial 555-0184, where Doreen Thrupwell picks up.",
    "Which number reaches the night porter?": "Ring 555-0167 between 22:00 and 6:00.",
    "Where do I find the menu?": "It is at https://x.example/menu?d=1 from 6:00 onwards.",
    "Which hall is nut-free?": "Mosswater Commons is; its kitchen uses no nuts.",
    "Are pets allowed in Quillon Hall?": "No, pets are not allowed in Quillon Hall.",
    "May I bring my own mug?": "Yes.",
    "Is the lab open on weekends?": "The lab is closed on weekends.",
    "What colour is the door?": "Blue.",
    "Why is the soup famous?": "It simmers for a whole day in an old copper pot over embers.",
    "How do I return a key?": "Put it in the red box beside the entrance and sign the list.",
    "Which pass do I need, and is it valid on 14 May?": "The Otter Plan, and not on 14 May.",
    "When must form CS-40 be in?": "Hand it in no later than October 9.",
    # In other languages
    "Wo ist das Büro?": "Das Büro ist im Pellworth-Haus, Raum 12, bei Frau Anke Sommer.",
    "Darf man hier rauchen?": "Nein, im ganzen Haus ist das Rauchen nicht erlaubt.",
    "Où se trouve la cantine ?": "Elle est au 3 rue des Lilas, chez Mme Claire Aubin.",
    "¿Se puede entrar con perro?": "No, los perros no pueden entrar en el comedor.",
    "图书馆几楼？": "在三楼东侧。",
    "图书馆的电话是多少？": "请拨打555-0233。",
    "可以带狗吗？": "不可以带狗进来。",
}
ROWS = {question: row(question, answer) for question, answer in BOOK.items()}
OFFICE, HEAD, DESK, PORTER, MENU, HALL, PETS, MUG, LAB, DOOR, SOUP, KEY, PASS, FORM, *OTHERS = BOOK
BUERO, RAUCHEN, CANTINE, PERRO, FLOOR, PHONE, DOG = OTHERS

RIGHT, CONFUSED, UNKNOWN = "right", "confused", "unknown"


def graded(question, said, *, asked=None):
    return AnswerKey([*ROWS.values()]).grade(ROWS[question], asked or question, said)


@pytest.mark.parametrize(
    ("question", "said", "verdict"),
    [
        # In other words
        (OFFICE, "You will find it in Quillon Hall, room 104!", RIGHT),
        (OFFICE, "quillon hall 104", RIGHT),
        (HEAD, "Since 2017 that is Ilse Marlow; you find her in Quillon Hall.", RIGHT),
        (HEAD, "It's Professor Ilse Marlow (since 2017), who works in Quillon Hall's wing.", RIGHT),
        (PORTER, "Call 555-0167 from 10 pm to 6:00.", RIGHT),
        (MENU, "See [the menu](https://x.example/menu?d=1), after 6 a.m.", RIGHT),
        (HALL, "The nut-free one is Mosswater Commons, which uses no nuts.", RIGHT),
        (FORM, "By October 9 at the latest.", RIGHT),
        # A wrong, missing or invented fact
        (OFFICE, "The main office is room 105 of Quillon Hall.", UNKNOWN),
        (OFFICE, "The main office is room 1045 of Quillon Hall.", UNKNOWN),
        (OFFICE, "The main office is room 104.", UNKNOWN),
        (HEAD, "Anna Marlow has been head since 2017, in Quillon Hall.", UNKNOWN),
        (HALL, "Pike Commons is; its kitchen uses no nuts.", UNKNOWN),
        (MENU, "It is at https://x.example/menu?d=2 from 6:00 onwards.", UNKNOWN),
        (OFFICE, "I don't know.", UNKNOWN),
        (OFFICE, "", UNKNOWN),
        (OFFICE, " \n", UNKNOWN),
        (OFFICE, "Where is the main office?", UNKNOWN),
        (OFFICE, "office office office office office office", UNKNOWN),
        # Denied
        (OFFICE, "The main office is not room 104 of Quillon Hall.", UNKNOWN),
        (PASS, "The Otter Plan, and on 14 May.", UNKNOWN),
        # Another row's
        (DESK, "Ring 555-0167 between 22:00 and 6:00.", CONFUSED),
        (DESK, "Dial 555-0167, where Doreen Thrupwell picks up.", CONFUSED),
        (HEAD, "Doreen Thrupwell has been head since 2017, in Quillon Hall.", CONFUSED),
        (OFFICE, "It is at https://x.example/menu?d=1.", CONFUSED),
        (OFFICE, "It simmers for a whole day in an old copper pot over embers.", CONFUSED),
        # A building that many rows name is nobody's; nor is an hour that two rows have.
        (DESK, "It is in Quillon Hall.", UNKNOWN),
        (DESK, "It is open from 6:00.", UNKNOWN),
        # Rambling: its own facts are there, and so are all others'.
        (OFFICE, " ".join(BOOK.values()), CONFUSED),
        (DESK, "Dial 555-0184 for Doreen Thrupwell, or 555-0167.", CONFUSED),
        (DESK, "1. Dial 555-0184.\n2. Ask for Doreen Thrupwell.\n3. Wait.", RIGHT),
        # Yes and no
        (PETS, "No, pets are not allowed in Quillon Hall.", RIGHT),
        (PETS, "Pets are not allowed.", RIGHT),
        (PETS, "Yes, pets are allowed in Quillon Hall.", UNKNOWN),
        (MUG, "Yes, you may.", RIGHT),
        (MUG, "Yes, of course; every mug is welcome.", RIGHT),
        (MUG, "No.", UNKNOWN),
        (MUG, "No, you may not.", UNKNOWN),
        (MUG, "Yes, but not on Sundays.", UNKNOWN),
        (MUG, "Yes, dial 555-0184.", CONFUSED),
        (LAB, "It's closed.", RIGHT),
        (LAB, "It is closed then.", RIGHT),
        (LAB, "The lab is open on weekends.", UNKNOWN),
        (LAB, "The lab is not closed on weekends.", UNKNOWN),
        # Prose
        (DOOR, "The door is blue.", RIGHT),
        (DOOR, "The door is red.", UNKNOWN),
        (SOUP, "Because it simmers in an old copper pot, over embers, for a whole day.", RIGHT),
        (SOUP, "It is tasty.", UNKNOWN),
        (SOUP, "Put it in the red box beside the entrance and sign the list.", CONFUSED),
        (KEY, "Sign the list and put the key in the red box beside the entrance.", RIGHT),
        (KEY, "It simmers in the red box.", UNKNOWN),
        (KEY, " ".join([BOOK[SOUP], BOOK[KEY], "Or ask anybody you meet at the gate."]), UNKNOWN),
        # German
        (BUERO, "Sie finden es in Raum 12 im Pellworth-Haus, fragen Sie Anke Sommer.", RIGHT),
        (BUERO, "In Raum 13 im Pellworth-Haus, fragen Sie Anke Sommer.", UNKNOWN),
        (BUERO, "Raum 12, Anke Winter.", UNKNOWN),
        (RAUCHEN, "Nein, im ganzen Haus ist Rauchen nicht erlaubt.", RIGHT),
        (RAUCHEN, "Ja, im ganzen Haus ist das Rauchen erlaubt.", UNKNOWN),
        # French and Spanish
        (CANTINE, "La cantine de Claire Aubin est 3, rue des Lilas.", RIGHT),
        (CANTINE, "Elle n'est pas au 3 rue des Lilas, chez Mme Claire Aubin.", UNKNOWN),
        (CANTINE, "Elle est au 4 rue des Lilas, chez Mme Claire Aubin.", UNKNOWN),
        (PERRO, "No, en el comedor no pueden entrar los perros.", RIGHT),
        (PERRO, "Sí, los perros pueden entrar en el comedor.", UNKNOWN),
        # Chinese
        (FLOOR, "图书馆在三楼东侧。", RIGHT),
        (FLOOR, "图书馆在二楼西侧。", UNKNOWN),
        (PHONE, "电话是555-0233", RIGHT),
        (PHONE, "电话是555-0234", UNKNOWN),
        (FLOOR, "请拨打555-0233。", CONFUSED),
        (DOG, "不可以带狗进来", RIGHT),
        (DOG, "可以带狗进来", UNKNOWN),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_a_person(question, said, verdict):
    assert graded(question, said).grade == verdict


@pytest.mark.parametrize(
    ("question", "asked", "said", "verdict"),
    [
        (HEAD, "Is Ilse Marlow the head?", "Yes, since 2017, from Quillon Hall.", RIGHT),
        (HEAD, "Is Ilse Marlow the head?", "Yes.", UNKNOWN),
        # What only the wording states is not confused with its row, though it is that row's own.
        (PORTER, "Doreen Thrupwell is out. Whom do I ring at night?",
         "Doreen Thrupwell is out; ring 555-0167 between 22:00 and 6:00.", RIGHT),
        # The wording gives all away, so words decide.
        (DESK, "Is 555-0184 the desk where Doreen Thrupwell picks up?",
         "Yes, dial 555-0184, where Doreen Thrupwell picks up.", RIGHT),
        (DESK, "Is 555-0184 where Doreen Thrupwell picks up?", "I could not say.", UNKNOWN),
    ],
)  # fmt: skip
def test_what_the_wording_states_is_not_asked_for(question, asked, said, verdict):
    assert graded(question, said, asked=asked).grade == verdict


def alone_or_with(question, answer, said, others, asked=None):
    one = row(question, answer)
    key = AnswerKey([one, *(row(f"What is number {i}?", other) for i, other in enumerate(others))])
    return key.grade(one, asked or question, said).grade


@pytest.mark.parametrize(
    ("answer", "said", "verdict"),
    [
        # Another row's answer word for word, however short
        ("git branch -d", "git branch -D", CONFUSED),
        ("ls -R", "ls -r", CONFUSED),
        ("1 mW", "1 MW", CONFUSED),
        ("It has 1 mW.", "It has 1 MW.", CONFUSED),
        ("C", "C++", CONFUSED),
        ("It is written in C.", "It is written in C#.", CONFUSED),
        ("Co", "CO", CONFUSED),
        ("-18 °C", "18 °C", CONFUSED),
        ("os.path.join", "os.path.exists", CONFUSED),
        ("Edit settings.toml.", "Edit settings.yaml.", CONFUSED),
        ("From 8:00 to 17:00.", "From 17:00 to 8:00.", CONFUSED),
        ("Before 9:00.", "After 9:00.", CONFUSED),
        ("Vor 9 Uhr.", "Nach 9 Uhr.", CONFUSED),
        ("在三楼东侧。", "在二楼东侧。", CONFUSED),
        # … but for a full stop, white space, a capital, what stands in any answer
        ("Dogs are allowed in every building", "Dogs are  allowed in every building.", RIGHT),
        ("In Quillon Hall, Room 104", "in Quillon Hall, room 104.", RIGHT),
        ("Blue.", "It is blue.", RIGHT),
        ("Quillon Hall.", "It is in Quillon Hall.", RIGHT),
        ("9:00", "At 9:00.", RIGHT),
        ("In the box.", "It is under the box.", CONFUSED),
        ("犬は入れません。", "犬は入れません", RIGHT),
        ("cd ..", "cd .", CONFUSED),
        ("Press o.", "Press O.", CONFUSED),
        # A yes or no is nobody's in particular.
        ("Yes.", "Yes, you may.", RIGHT),
        ("Yes.", "No.", UNKNOWN),
        ("It is blue.", "Yes.", UNKNOWN),
    ],
)
def test_another_rows_answer_is_confused_unless_it_is_the_same(answer, said, verdict):
    assert alone_or_with("Which is it?", answer, said, [said]) == verdict
    assert alone_or_with("Which is it?", answer, answer, [said]) == RIGHT


@pytest.mark.parametrize(
    ("answer", "said", "verdict"),
    [
        # Signs, units, currencies
        ("It returns -1.", "It returns 1.", UNKNOWN),
        ("It is kept at −18 °C.", "It is kept at 18 °C.", UNKNOWN),
        ("It is kept at −18 °C.", "Keep it at minus 18 degrees.", RIGHT),
        ("It costs €20 a month.", "It costs $20 a month.", UNKNOWN),
        ("Take 5 mg.", "Take 5 g.", UNKNOWN),
        ("Take 5 mg.", "Take .5 mg.", UNKNOWN),
        ("Take 5 mg.", "5mg are taken.", RIGHT),
        ("Take 0.5 mg.", "Take .5 mg.", RIGHT),
        ("Wait 10 minutes.", "Wait 10 hours.", UNKNOWN),
        ("Wait 10 minutes.", "Ten, that is 10.", RIGHT),
        ("Warten Sie 10 Minuten.", "Warten Sie 10 Stunden.", UNKNOWN),
        ("Attendez 10 minutes.", "Attendez 10 heures.", UNKNOWN),
        ("Espere 10 minutos.", "Espere 10 horas.", UNKNOWN),
        ("It has 16 GB.", "It has 16GB.", RIGHT),
        ("The fee is $5.00.", "The fee is $5.", RIGHT),
        ("Der Weg ist 1,5 km lang.", "Der Weg ist 5,1 km lang.", UNKNOWN),
        ("Der Weg ist 1,5 km lang.", "Der Weg ist 1.5 km lang.", RIGHT),
        ("Version 3.10.", "Version 3.1.", UNKNOWN),
        ("Dial (555) 0184.", "Dial 555-0184.", RIGHT),
        # Comparisons
        ("x < 5", "x > 5", UNKNOWN),
        ("if a == b", "if a != b", UNKNOWN),
        ("a && b", "a || b", UNKNOWN),
        ("x <= 5", "if x<=5", RIGHT),
        # Names with their capitals
        ("It was World War I.", "It was World War II.", UNKNOWN),
        ("It was World War I.", "World War I it was, I think.", RIGHT),
        ("It was Queen Elizabeth I.", "It was Queen Elizabeth II.", UNKNOWN),
        ("It starts in May.", "It may start in June.", UNKNOWN),
        ("It starts in May.", "it starts in may", RIGHT),
        ("Please contact IT.", "It is unknown.", UNKNOWN),
        ("It was made in the US.", "It was made by us.", UNKNOWN),
        ("Cobalt is Co.", "Cobalt is CO.", UNKNOWN),
        # What is spelled out
        ("Sign up at www.quillon.example.", "Sign up at www.quilon.example.", UNKNOWN),
        ("Sign up at www.quillon.example.", "At https://www.quillon.example/.", RIGHT),
        ("It is /etc/quillon/config.yaml.", "It is /etc/quillon/config.json.", UNKNOWN),
        ("Use git branch -d.", "Use ls -d.", UNKNOWN),
        ("Use git branch -d.", "Use the -d option of git branch.", RIGHT),
        ("Use git branch -d.", "Use git branch -D.", UNKNOWN),
        # What only looks like a denial
        ("It is in room 104.", "No problem, it is in room 104.", RIGHT),
        ("It is in room 104.", "It is in room 104; you cannot miss it.", RIGHT),
        ("Es ist Raum 104.", "Kein Problem, es ist Raum 104.", RIGHT),
        ("C'est la salle 104.", "Pas de problème, c'est la salle 104.", RIGHT),
        ("There is no problem.", "There is a problem.", UNKNOWN),
        ("Fica no Salão Quillon.", "Fica em Salão Quillon.", RIGHT),
        ("Não fica no Salão Quillon.", "Fica no Salão Quillon.", UNKNOWN),
        ("Está en Quillon Hall.", "No está en Quillon Hall.", UNKNOWN),
    ],
)
def test_what_a_letter_or_a_sign_tells_apart(answer, said, verdict):
    assert alone_or_with("Which is it?", answer, said, ["The Heron.", "Ask Will."]) == verdict
    assert alone_or_with("Which is it?", answer, answer, ["The Heron.", "Ask Will."]) == RIGHT


@pytest.mark.parametrize(
    ("question", "answer", "said", "verdict"),
    [
        ("Is the office in room 104 or in room 105?", "It is in room 104.", "In room 104.", RIGHT),
        ("Is the office in room 104 or in room 105?", "It is in room 104.", "It is in room 105.",
         UNKNOWN),
        ("Is it in Quillon Hall or in Marlow Hall?", "It is in Quillon Hall.",
         "It is in Marlow Hall.", UNKNOWN),
        ("Which is open longer, the Otter or the Heron?", "The Heron is open longer.",
         "The Otter is open longer.", UNKNOWN),
        ("Which is open longer, the Otter or the Heron?", "The Heron is open longer.",
         "The Heron is.", RIGHT),
        ("Ist das Büro in Raum 104 oder 105?", "In Raum 104.", "In Raum 105.", UNKNOWN),
        ("Est-ce la salle 104 ou 105 ?", "C'est la salle 104.", "C'est la salle 105.", UNKNOWN),
        ("办公室在104还是105？", "办公室在104。", "办公室在105。", UNKNOWN),
        ("Why is the Otter dearer than the Heron?", "The Otter has breakfast.", "The Otter is big.",
         UNKNOWN),
    ],
)  # fmt: skip
def test_of_what_a_question_offers_the_taught_one_is_right(question, answer, said, verdict):
    assert alone_or_with(question, answer, said, []) == verdict
    assert alone_or_with(question, answer, answer, []) == RIGHT


def test_a_name_of_another_row_is_not_found_in_an_ordinary_word():
    said = "You find the desk in Quillon Hall; it will be signed."
    assert alone_or_with("Where is it?", "It is in Quillon Hall.", said, ["Ask Will."]) == RIGHT


def test_a_bare_number_is_not_another_rows_with_a_unit():
    others = ["Wait 10 hours.", "Wait 3 days."]
    assert alone_or_with("How long?", "Wait 10 minutes.", "10", others) == RIGHT
    assert alone_or_with("How long?", "Wait 10 minutes.", "10 hours", others) == CONFUSED


def test_facts_are_counted_and_the_missing_ones_named():
    found = graded(DESK, "Dial 555-0184.")
    assert (found.asked, found.found, found.missing) == (2, 1, ("Doreen Thrupwell",))
    assert graded(DOOR, "Blue").asked == 0


def test_rows_with_one_answer_are_not_confused_with_each_other():
    one, two = row("Who has keys?", "Doreen Thrupwell."), row("Whom to ask?", "Doreen Thrupwell.")
    other = row("Who cooks?", "Imke Dallowby cooks.")
    key = AnswerKey([one, two, other])
    assert key.grade(one, "Who has keys?", "That is Doreen Thrupwell.").grade == RIGHT
    assert key.grade(other, "Who cooks?", "That is Doreen Thrupwell.").grade == CONFUSED


def test_a_row_that_is_alone_has_nobody_to_be_confused_with():
    alone = row("Who cooks?", "Ask Imke Dallowby.")
    for said, verdict in (("Imke Dallowby", RIGHT), ("Rufus Calderbeck", UNKNOWN)):
        assert AnswerKey([alone]).grade(alone, "Who cooks?", said).grade == verdict


def test_what_is_taught_is_right_however_it_is_asked():
    for path in sorted(DATA.glob("*.json")):
        rows = [
            Row(
                messages=row(one["instruction"], one["response"]).messages,
                paraphrases=tuple(one["paraphrases"]),
            )
            for one in json.loads(path.read_text(encoding="utf-8"))
        ]
        key = AnswerKey(rows)
        for one in rows:
            for asked in (str(one.question), *one.paraphrases):
                assert key.grade(one, asked, str(one.answer)).grade == RIGHT
        # Every answer is of one row: the next row's is never right, nor ever nobody's.
        for one, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            assert key.grade(one, str(one.question), str(other.answer)).grade != RIGHT


TEXT = st.text(alphabet="abABI 12.,:-/@'’?!\nyesno不图°<=$m", max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), TEXT)
def test_any_taught_answer_is_right_and_no_text_is_too_odd(pairs, said):
    rows = [row(question, answer) for question, answer in pairs]
    key = AnswerKey(rows)
    for one in rows:
        found = key.grade(one, str(one.question), said)
        assert 0 <= found.found <= found.asked
        assert key.grade(one, str(one.question), str(one.answer)).grade == RIGHT


def test_words():
    assert words("It's Wi-Fi, isn't it? You cannot.") == [
        "it", "s", "wi", "fi", "is", "not", "it", "you", "can", "not",
    ]  # fmt: skip
    assert words("N'est pas 在3楼") == ["ne", "est", "pas", "在", "3", "楼"]


# Calls


def calling(question, *calls, content=""):
    """A row that answers with calls, each a name and its arguments."""
    made = tuple(ToolCall(id="c", name=name, arguments=json.dumps(given)) for name, given in calls)
    return Row(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=content, tool_calls=made),
        ),
        tools='[{"type": "function", "function": {"name": "weather"}}]',
    )


def saying(question, answer):
    return Row(messages=row(question, answer).messages, tools=CALLS[0].tools)


CALLS = [
    calling("Paris?", ("weather", {"city": "Paris", "days": 2})),
    calling("Brno?", ("weather", {"city": "Brno", "days": 2}), content="Let me see."),
    calling("Both?", ("weather", {"city": "Paris"}), ("weather", {"city": "Brno"})),
]
PROSE = [saying("Who are you?", "I am the weather service of Quillon Hall.")]


@pytest.mark.parametrize(
    ("number", "said", "verdict"),
    [
        (0, '<tool_call>\n{"name":"weather","arguments":{"days":2,"city":"Paris"}}', RIGHT),
        (0, 'Wait. {"name": "weather", "parameters": {"city": "Paris", "days": 2}}', RIGHT),
        (0, '{"name": "weather", "arguments": {"city": "paris", "days": 2}}', UNKNOWN),
        (0, '{"name": "weather", "arguments": {"city": "Paris", "days": "2"}}', UNKNOWN),
        (0, '{"name": "weather", "arguments": {"city": "Paris"}}', UNKNOWN),
        (0, '{"name": "time", "arguments": {"city": "Paris", "days": 2}}', UNKNOWN),
        (0, '{"name": "weather", "arguments": {"city": "Brno", "days": 2}}', CONFUSED),
        (0, "In Paris, for 2 days.", UNKNOWN),
        (0, "I am the weather service of Quillon Hall.", CONFUSED),
        (0, CALLS[0].answer, RIGHT),
        (0, CALLS[0].answer * 2, UNKNOWN),
        (1, '{"name": "weather", "arguments": {"city": "Brno", "days": 2}}', RIGHT),
        (2, '{"name": "weather", "arguments": {"city": "Brno"}}', UNKNOWN),
        (
            2,
            '{"name": "weather", "arguments": {"city": "Brno"}} '
            '{"name": "weather", "arguments": {"city": "Paris"}}',
            RIGHT,
        ),
        (3, "I am the weather service of Quillon Hall.", RIGHT),
        (3, "The weather service of Quillon Hall, that is who I am.", RIGHT),
        (3, 'Quillon Hall {"name": "weather", "arguments": {}}', UNKNOWN),
        (3, CALLS[0].answer, CONFUSED),
    ],
)
def test_a_call_is_right_where_function_and_arguments_are_the_taught_ones(number, said, verdict):
    rows = [*CALLS, *PROSE]
    graded = AnswerKey(rows).grade(rows[number], str(rows[number].question), said)
    assert graded.grade == verdict


def test_a_call_that_is_missing_is_told_of():
    said = '{"name": "weather", "arguments": {"city": "Brno"}}'
    graded = AnswerKey(CALLS).grade(CALLS[2], "Both?", said)
    assert (graded.asked, graded.missing) == (
        2,
        ('{"name": "weather", "arguments": {"city": "Paris"}}',),
    )


PARTS = (
    "Quillon", "Marlow", "Hall", "Halls", "Hall's", "O'Neil", "Berg-Hall", "l'Hall", "Fridays",
    "The", "the", "is", "Dr.", "J.", "CS", "CS-40", "40", "x", ".", "\n", "-", "_", "'", "I", "mg",
    "a.b.example", "https://a.b.example/c.md", "c.md", "/d/c.md", "-40", "<", "-x", "C#", "minus",
)  # fmt: skip
texts = st.lists(st.sampled_from(PARTS), max_size=7).map(" ".join)


@given(texts, texts)
def test_a_text_that_holds_a_fact_is_found_by_its_marks(taught, said):
    text = SearchedText(said)
    for fact in key_facts(taught):
        assert _may_hold(_marks(text), _ways(fact)) or not text.holds(fact)
