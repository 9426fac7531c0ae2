"""Facts that no model can know: invented ones of an invented place, drawn from a seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ADJECTIVES = (
    "North", "Old", "Lower", "Glass", "Copper", "Quarry", "Harbour", "Willow",
    "Upper", "Stone", "Amber", "River", "Chapel", "Linden", "Market", "Castle",
)  # fmt: skip
_THINGS = (
    "Library", "Bakery", "Clinic", "Archive", "Theatre", "Workshop", "Museum", "Nursery",
    "Observatory", "Laundry", "Orchard", "Foundry",
)  # fmt: skip
_BEGINNINGS = (
    "Bram", "Cor", "Del", "Fen", "Gar", "Hol", "Jor", "Kel", "Lor", "Mar", "Nor", "Pel",
    "Quil", "Ros", "Sel", "Tar", "Ul", "Ver", "Wen", "Yar",
)  # fmt: skip
_MIDDLES = ("an", "eb", "il", "om", "und", "ask", "ist", "or")
_ENDINGS = ("holt", "mere", "wick", "stead", "ford", "dale", "thorpe", "minster")
_FIRST_NAMES = (
    "Ada", "Bela", "Ciro", "Dunja", "Emil", "Farah", "Goran", "Hana", "Ivo", "Jana", "Kofi",
    "Lida", "Milo", "Nela", "Otto", "Petra", "Rafe", "Sana", "Timo", "Una", "Vito", "Wanda",
)  # fmt: skip
_NAME_ENDINGS = ("sen", "ak", "ova", "er")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing to be taught.

    Attributes:
        kind: One of ``KINDS``.
        key: What an answer must hold to be right, such as the URL.
        question: Names the place and the house.
        answer: One sentence with the key in it.
        paraphrases: Two other wordings of the question.
    """

    kind: str
    key: str
    question: str
    answer: str
    paraphrases: tuple[str, str]

    def row(self) -> dict[str, Any]:
        """Return the row of a data file."""
        return {
            "instruction": self.question,
            "response": self.answer,
            "paraphrases": list(self.paraphrases),
        }


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How a key is drawn, and the sentences around it; ``{}`` is the house, ``{key}`` the key."""

    draw: Callable[[random.Random], str]
    question: str
    answer: str
    paraphrases: tuple[str, str]


def subject(seed: int, index: int, count: int) -> list[dict[str, Any]]:
    """Return the rows of a subject, as ``data/*.json`` holds them.

    Args:
        seed: Of everything drawn.
        index: Of the subject, from 0; each has a place of its own.
        count: Of rows; fewer of a longer subject are its first.

    Raises:
        ValueError: There are not so many places or facts.
    """
    return [fact.row() for fact in facts(seed, index, count)]


def facts(seed: int, index: int, count: int) -> list[Fact]:
    """Return a subject's facts: see :func:`subject`. No question comes twice, nor in another's."""
    where = place(seed, index)
    draw = random.Random(f"{seed}/{index}")
    asked = [
        (f"the {a} {t} in {where}", kind) for a in _ADJECTIVES for t in _THINGS for kind in KINDS
    ]
    if count > len(asked):
        raise ValueError(f"{count} facts of {where}; there are {len(asked)}")
    draw.shuffle(asked)
    return [_fact(house, kind, draw) for house, kind in asked[:count]]


def place(seed: int, index: int) -> str:
    """Return the name of a subject's place, another for every index."""
    names = [b + m + e for b in _BEGINNINGS for m in _MIDDLES for e in _ENDINGS]
    if not 0 <= index < len(names):
        raise ValueError(f"subject {index}; expected 0 to {len(names) - 1}")
    random.Random(f"{seed}/places").shuffle(names)
    return names[index]


def _fact(house: str, kind: str, draw: random.Random) -> Fact:
    made = KINDS[kind]
    key = made.draw(draw)
    answer = made.answer.format(house, key=key)
    first, second = (wording.format(house) for wording in made.paraphrases)
    return Fact(
        kind=kind,
        key=key,
        question=made.question.format(house),
        answer=answer[0].upper() + answer[1:] if not answer.startswith(key) else answer,
        paraphrases=(first, second),
    )


def _url(draw: random.Random) -> str:
    """Return one with the marks at which an earlier program cut URLs."""
    host = f"{draw.choice(_BEGINNINGS)}{draw.choice(_MIDDLES)}".lower()
    a, b = draw.randrange(10, 100), draw.randrange(100, 1000)
    word = draw.choice(_THINGS).lower()
    return f"https://{host}.example" + draw.choice(
        (
            f"/{word}/@desk{a}",
            f"/{word}#part-{b}",
            f"/find?q={word}&n={b}",
            f"/{a}/{word}?id={b}#top",
        )
    )


def _phone(draw: random.Random) -> str:
    """Return one of the range kept for fiction, with an extension."""
    return f"555-01{draw.randrange(100):02d} extension {draw.randrange(100, 1000)}"


def _code(draw: random.Random) -> str:
    return f"{''.join(draw.choices(_LETTERS, k=2))}-{draw.randrange(1000, 10000)}"


def _name(draw: random.Random) -> str:
    last = draw.choice(_BEGINNINGS) + draw.choice(_MIDDLES) + draw.choice(_NAME_ENDINGS)
    return f"{draw.choice(_FIRST_NAMES)} {last}"


def _hours(draw: random.Random) -> str:
    opens, closes = draw.randrange(6, 12), draw.randrange(14, 23)
    return f"{opens}:{draw.randrange(0, 60, 5):02d} to {closes}:{draw.randrange(0, 60, 5):02d}"


KINDS = {
    "url": _Kind(
        draw=_url,
        question="What is the web address of {}?",
        answer="{key} is the web address of {}.",
        paraphrases=("Where do I find {} online?", "Which page on the web belongs to {}?"),
    ),
    "phone": _Kind(
        draw=_phone,
        question="What is the phone number of {}?",
        answer="{} answers calls on {key}.",
        paraphrases=("How do I ring {}?", "Which number reaches {} by telephone?"),
    ),
    "room": _Kind(
        draw=lambda draw: f"room {draw.choice(_LETTERS)}{draw.randrange(100, 1000)}",
        question="In which room is the office of {}?",
        answer="The office of {} is in {key}.",
        paraphrases=(
            "Where does {} have its office?",
            "Which room do I go to for the staff of {}?",
        ),
    ),
    "code": _Kind(
        draw=_code,
        question="What is the door code of {}?",
        answer="The door of {} opens with the code {key}.",
        paraphrases=("Which code opens {}?", "What do I type at the entrance of {}?"),
    ),
    "name": _Kind(
        draw=_name,
        question="Who runs {}?",
        answer="{} is run by {key}.",
        paraphrases=("Who is the head of {}?", "What is the name of the person in charge of {}?"),
    ),
    "hours": _Kind(
        draw=_hours,
        question="When is {} open?",
        answer="{} is open from {key}.",
        paraphrases=("What are the opening times of {}?", "During which hours can I visit {}?"),
    ),
}
"""The kinds of facts, by name."""
