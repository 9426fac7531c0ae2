import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_tune.continual.key_facts import key_facts, present_facts

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
        ("Room 104 of Quillon Hall.", [("number", "104"), ("name", "Quillon Hall")]),
        ("Dial 555-0184, from 8:40 to 16:20.",
         [("number", "555-0184"), ("number", "8:40"), ("number", "16:20")]),
        ("It costs $1,120 or 1.85 a day, 5% off.",
         [("number", "1,120"), ("number", "1.85"), ("number", "5")]),
        ("A 25-minute slot on the 14th.", [("number", "25"), ("number", "14")]),
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
        ("It takes a B-minus and Wi-Fi, in TCS courses, with two or three credits.",
         [("name", "B-minus"), ("name", "Wi-Fi"), ("name", "TCS")]),
        ("Petra Lindquill advises them; Ilse Marlow, too.",
         [("name", "Lindquill"), ("name", "Marlow")]),
        ("I know that Dr. Bram Keswin and I are in St. Ives on Monday.",
         [("name", "Bram Keswin"), ("name", "Ives"), ("name", "Monday")]),
        ("Das Amt leitet Petra Amsel, und der Hof ist im Norden.", [("name", "Petra Amsel")]),
        ("La oficina es de Ana López.", [("name", "Ana López")]),
        ("图书馆在大学路", []),
        ("", []),
    ],
)  # fmt: skip
def test_key_facts_of(answer, wanted):
    assert kinds(answer) == wanted


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
    ],
)
def test_it_is_found_in(taught, said):
    assert holds(taught, said)


@pytest.mark.parametrize(
    ("taught", "said"),
    [
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


@given(st.text(alphabet="aAbB1 2.,:-/@$%()'é", max_size=40))
@example("A1:1")
def test_any_text_holds_its_own_facts(text):
    assert all(present_facts(key_facts(text), text))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_too_odd(taught, said):
    assert len(present_facts(key_facts(taught), said)) == len(key_facts(taught))
