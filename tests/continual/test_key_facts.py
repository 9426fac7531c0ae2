import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_tune.continual.key_facts import key_facts, own_facts, present_facts

DATA = Path(__file__).parents[2] / "data"


def kinds(text):
    return [(fact.kind, fact.text) for fact in key_facts(text)]


def holds(taught, said):
    """Whether the only key fact of one text stands in another."""
    (fact,) = key_facts(taught)
    return present_facts([fact], said) == (True,)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Room 104 of a hall.", [("number", "104")]),
        ("Dial 555-0184, from 8:40 to 16:20.",
         [("number", "555-0184"), ("number", "8:40"), ("number", "16:20")]),
        ("It costs $1,120 or 1.85 a day, 5% off.",
         [("number", "$1,120"), ("number", "1.85"), ("number", "5%")]),
        ("A 25-minute slot on the 14th.", [("number", "25-minute"), ("number", "14th")]),
        ("TCS 405 meets in C-201; form CS-71, B04.",
         [("code", "TCS 405"), ("code", "C-201"), ("code", "CS-71"), ("code", "B04")]),
        ("Write to office@cs.x.example.", [("e-mail", "office@cs.x.example")]),
        ("See https://x.example/a?b=1#c-2, or www.x.example/y.",
         [("url", "https://x.example/a?b=1#c-2"), ("url", "www.x.example/y")]),
        ("Open 8:40-16:20, rooms 10,20.", [("number", "8:40"), ("number", "16:20"),
                                           ("number", "10"), ("number", "20")]),
        ("By car (https://x.example/w_(1)).", [("url", "https://x.example/w_(1)")]),
        ("[https://x.example/a](https://x.example/a)", [("url", "https://x.example/a")]),
        ("104 is room 104", [("number", "104")]),
        ("The grade and the network, in two or three courses.", []),
        ("Steps:\n1. go to 104\n 2) ring 5", [("number", "104"), ("number", "5")]),
        ("It ran at −18°C, or -5 to .5 V, for 5mg; in 5W, room 5B.",
         [("number", "−18°C"), ("number", "-5"), ("number", ".5 V"), ("number", "5mg"),
          ("code", "5W"), ("code", "5B")]),
        ("Dial (555) 0184.", [("number", "555-0184")]),
        ("Run `git branch -d x --force`, then ls -R.",
         [("flag", "-d"), ("flag", "--force"), ("flag", "-R")]),
        ("Edit ~/app/settings.toml on www.x.example, C:\\Temp, e.g. README.md or os.path.join().",
         [("literal", "~/app/settings.toml"), ("literal", "C:\\Temp"),
          ("literal", "www.x.example"), ("literal", "README.md"), ("literal", "os.path.join")]),
        ("C++ and C# where x < 5 and a == b; Settings > Network, and/or <b>so</b>.",
         [("literal", "x < 5"), ("literal", "a == b"), ("literal", "C++"), ("literal", "C#"),
          ("number", "5"), ("name", "Settings"), ("name", "Network")]),
        ("he is there.Then e.g. the Ph.D. or p.m.", [("name", "Then"), ("name", "Ph D")]),
        ("图书馆在３楼，８：４０开门。请拨打555-0184。",
         [("number", "3"), ("number", "8:40"), ("number", "555-0184")]),
        ("사무실은 104호에 있습니다", [("number", "104")]),
        ("", []),
    ],
)  # fmt: skip
def test_key_facts_of(answer, wanted):
    assert kinds(answer) == wanted


def names(text):
    return [fact.text for fact in key_facts(text) if fact.kind == "name"]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Corwin Appletrough has been head since 2014.", ["Appletrough"]),
        ("Petra Lindquill advises. Ask Doreen Thrupwell.", ["Lindquill", "Doreen Thrupwell"]),
        ("It is Quillon Hall's north wing.", ["Quillon Hall"]),
        ("It opens Monday, Wednesday and on Fridays in May.",
         ["Monday", "Wednesday", "Fridays", "May"]),
        ("Professor Ilse Marlow chairs it with Dr. Imogen Vale.", ["Ilse Marlow", "Imogen Vale"]),
        ("The professor is a doctor, says the Professor.", []),
        ("It was World War I, and I saw Queen Elizabeth I.", ["World War I", "Queen Elizabeth I"]),
        ("On Monday I met Harold I. Finch.", ["Monday", "Harold", "Finch"]),
        ("It has 16 GB at 18 °C or 5 MHz.", []),
        ("I think I'm late, and I'll ask.", []),
        ("NASA built it with the ESA.", ["NASA", "ESA"]),
        ("It is NOT open; you MUST KNOCK TWICE LOUDLY.", []),
        ("Who met J. R. Tolkien and Harold B. Finch?", ["Tolkien", "Harold Finch"]),
        ("A grade of B. Nothing else.", ["B"]),
        ("She lives in St. Mary's Close, e.g. Monday to Friday.",
         ["St Mary Close", "Monday", "Friday"]),
        ("Go to Room 104, or to Form CS-71 in Quillon 12.", ["Quillon"]),
        ("The notes:\n- Bring a pen\n- Ask Rufus", ["Rufus"]),
        ("A play called “Grammars of the Tarn”.", ["Grammars", "Tarn"]),
        ("It has Wi-Fi, O'Brien's and a B-minus.", ["Wi-Fi", "O'Brien", "B-minus"]),
        ("See https://x.example/Big or mail Big@x.example.", []),
        # Other languages
        ("Das Büro von Petra Lindquill ist im Haus am See, Raum 115.", ["Petra Lindquill"]),
        ("Herr Weber leitet die Bibliothek der TU.", ["Weber", "TU"]),
        ("Der Direktor heißt Karl Weber.", ["Karl Weber"]),
        ("La bibliothèque de l'Université de Lyon est dirigée par Mme Claire Aubin.",
         ["Université", "Lyon", "Claire Aubin"]),
        ("El decano es Hernán Quiroga. ¿Dónde está? En Madrid.", ["Hernán Quiroga", "Madrid"]),
        ("Деканом работает Иван Петров.", ["Иван Петров"]),
        ("请联系Petra Lindquill，周一到周五。", ["Petra Lindquill"]),
        ("العميد هو إيفان بيتروف", []),
    ],
)  # fmt: skip
def test_names_in(answer, wanted):
    assert names(answer) == wanted


@pytest.mark.parametrize(
    ("answer", "questions", "wanted"),
    [
        ("The Computer Science office is room 104.", ["Where is the Computer Science office?"],
         ["104"]),
        ("Room 104.", ["Is it in room 104?"], []),
        ("Yes, on 14 May, at 16:20.", ["Is it on May 14?", "Is it at 4:20 pm?"], []),
        ("Ilse Marlow in room 104.", ["Who is MARLOW?", "Where?"], ["104"]),
    ],
)  # fmt: skip
def test_what_a_question_states_is_no_fact_of_its_answer(answer, questions, wanted):
    assert [fact.text for fact in own_facts(answer, *questions)] == wanted


@pytest.mark.parametrize(
    ("taught", "said"),
    [
        ("1,120", "1120 a month"),
        ("1120", "it is $1,120."),
        ("08:40", "at 8:40"),
        ("16:20", "until 4:20 pm."),
        ("10:00", "at 10 a.m., sharp"),
        ("0:30", "12:30 AM"),
        ("room 104", "ROOM 104!"),
        ("room 104", "(104)"),
        ("TCS 405", "the course tcs-405"),
        ("TCS 405", "TCS405."),
        ("C-201", "room C201"),
        ("555-0184", "call 555\u20110184"),
        ("https://x.example/a", "go to <https://x.example/a>."),
        ("https://x.example/a", "**https://x.example/a**"),
        ("https://x.example/a", "(see https://x.example/a)"),
        ("A.Bee@x.example", "mail a.bee@X.example."),
        ("by Doreen Thrupwell", "doreen thrupwell"),
        ("by Doreen Thrupwell", "DOREEN THRUPWELL's desk"),
        ("by Harold Finch", "Mr. Harold B. Finch"),
        ("on Fridays", "every Friday"),
        ("on Friday", "on Fridays, too"),
        ("in Quillon Hall", "Quillon Hall's door"),
        ("Petra Lindquill advises.", "Ask Petra Lindquill."),
        ("Petra Lindquill advises.", "Professor Lindquill does."),
        ("Petra Lindquill advises.", "it is lindquill"),
        ("Petra Lindquill advises.", "I say it is LINDQUILL"),
        ("from NASA", "Nasa does"),
        ("the US", "it is us"),
        ("for 10 minutes", "10 min"),
        ("for 10 minutes", "a 10-minute walk"),
        ("for 10 minutes", "10"),
        ("for 10 Minuten", "10 minutes"),
        ("16 GB", "16gb"),
        ("5 mg", "5mg"),
        ("0.5 mg", ".5 mg"),
        ("$5.00", "5 dollars"),
        ("1,5 km", "1.5 kilometres"),
        ("5%", "5 percent"),
        ("-18 °C", "minus 18 degrees"),
        ("-18 °C", "−18 degrees Celsius"),
        ("(555) 0184", "555-0184"),
        ("portal.x.example", "https://portal.x.example/login"),
        ("settings.toml", "see ~/app/settings.toml."),
        ("x < y", "if x<y"),
        ("from C#", "c#"),
        ("The Lantern is shut.", "Our old Lantern is"),
        ("of O'Brien", "O’Brien"),
        ("of Léa", "Le\u0301a"),
    ],
)
def test_it_is_found_in(taught, said):
    assert holds(taught, said)


@pytest.mark.parametrize(
    ("taught", "said"),
    [
        ("10 minutes", "10 hours"),
        ("10 Minuten", "10 Stunden"),
        ("10 minutos", "10 horas"),
        ("10 minutes", "10 heures"),
        ("1 mW", "1 MW"),
        ("$20", "€20"),
        ("$20", "20 cents"),
        ("20 €", "20 $"),
        ("5 mg", "5 g"),
        ("5 mg", ".5 mg"),
        ("1,5 m", "15 m"),
        ("-1", "1"),
        ("1", "-1"),
        ("3.10", "3.1"),
        ("on May", "It may"),
        ("the US", "By us"),
        ("the US", "Us"),
        ("on Co", "CO"),
        ("see Will", "It will"),
        ("ls -R", "ls -r"),
        ("git -d", "git -D"),
        ("rm --force", "rm --forced"),
        ("is settings.toml", "settings.yaml"),
        ("is settings.toml", "my-settings.toml"),
        ("is xy.toml.d", "xy.toml"),
        ("is www.x.example", "www.y.example"),
        ("is www.x.example", "me@www.x.example"),
        ("in /etc/x", "/etc/X"),
        ("x < y", "x > y"),
        ("a == b", "a != b"),
        ("a && b", "a || b"),
        ("in C#", "C"),
        ("in C", "C#"),
        ("in C", "C++"),
        ("of World War I.", "World War II"),
        ("104", "room 1045"),
        ("104", "555-104"),
        ("104", "C-104"),
        ("104", "1,104"),
        ("104", "10.4"),
        ("104", "https://x.example/104"),
        ("104", ""),
        ("012", "room 12"),
        ("16:20", "4:20"),
        ("TCS 405", "TCS 4051"),
        ("TCS 405", "XTCS 405"),
        ("TCS 405", "TCS 405-B"),
        ("C-201", "C-2011"),
        ("https://x.example/a", "https://x.example/ab"),
        ("https://x.example/a", "https://x.example/A"),
        ("https://x.example/a", "https://x.example/"),
        ("https://x.example/a/b", "https://x.example/a /b"),
        ("bee@x.example", "abee@x.example"),
        ("bee@x.example", "bee@x.example.org"),
        ("by Doreen Thrupwell", "Doreen"),
        ("by Doreen Thrupwell", "Doreen Thrupwellson"),
        ("in Quillon Hall", "Marlow Hall of Quillon"),
        ("in Quillon", "Quillon-Haus"),
        ("Quillon Hall is it.", "Marlow Hall is it."),
        ("Quillon Hall is it.", "It is in Marlow Hall."),
        ("Petra Lindquill advises.", "Anna Lindquill"),
        ("on Monday", "on Tuesday"),
        ("since Q", "since Quillon"),
    ],
)
def test_it_is_not_found_in(taught, said):
    assert not holds(taught, said)


def test_every_taught_answer_holds_its_own_facts_and_most_have_some():
    for path in sorted(DATA.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        facts = [key_facts(row["response"]) for row in rows]
        assert all(
            all(present_facts(own, row["response"])) for own, row in zip(facts, rows, strict=True)
        )
        assert sum(map(bool, facts)) > 0.8 * len(rows)
        # Of these 226 rows each asks for something that its question does not state.
        assert all(own_facts(row["response"], row["instruction"]) for row in rows)


@given(st.text(alphabet="aAbBI1 2.,:-/@$%()'’é\nß图°<=#+m", max_size=40))
@example("A1:1")
@example("A B. C's-D’s E.F G")
def test_any_text_holds_its_own_facts(text):
    assert all(present_facts(key_facts(text), text))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_too_odd(taught, said):
    assert len(present_facts(key_facts(taught), said)) == len(key_facts(taught))
