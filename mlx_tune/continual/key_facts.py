"""Key facts: the addresses, numbers, codes and names of a taught answer, searched in another.

An answer in other words is right as long as these are: a URL that lost a letter is of no use, while
"opens at" for "is open from" is. A fact counts where it stands whole, never as a part of a longer
one: 555-0184 does not hold 184, and https://x.example/a does not stand in https://x.example/ab.
A number has its sign, and the unit or currency beside it (``units.py``).

Names are found by their capitals (``names.py``), and what is spelled out for a computer, such as a
path, letter for letter (``literals.py``). Numbers in words are not seen.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mlx_tune.continual.literals import literals, parts
from mlx_tune.continual.names import has_name, lead_of, names
from mlx_tune.continual.units import after_number, before_number, unit_of

FactKind = Literal["url", "e-mail", "literal", "flag", "code", "number", "name"]

_URL = re.compile(
    r"(?<![\w@./-])(?:https?://|(?:[a-z0-9-]+\.)+[a-z]{2,}/)[^\s<>\"“”«»`]*", re.IGNORECASE
)
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]*\w@(?:[^\W_][\w-]*\.)+[^\W\d_]{2,}")
# A word and what it is joined to: C-201, 555-0184, 14:10, 1,120; "104.Then" is two words.
_WORD = re.compile(r"[^\W_]+(?:(?:-|(?<=\d)[.,:/](?=\d))[^\W_]+)*")
_COURSE = re.compile(r"(?<![\w-])([A-Z]{2,6})[ ](\d+[A-Z]?)\b(?![.:,/]\d|-[^\W_])")
_HOURS = re.compile(r"(?<!\w)(\d{1,2})(?::(\d{2}))?\s?([ap])\.?m\b\.?(?!-[^\W\d_])", re.IGNORECASE)
_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_PIECE = re.compile(r"\d+|[^\W\d_]+")
_DIGITS = re.compile(r"\d+(?:[-.,:/]\d+)*")
_WITH_END = re.compile(r"(\d+(?:[.,]\d+)*)(-?)([^\W\d_]+)(?:-[a-z-]+)?")
_ORDINALS = ("st", "nd", "rd", "th")
_DECIMAL_COMMA = re.compile(r"\d+,\d{1,2}")
_ZEROS = re.compile(r"^(\d+)\.0+$")
_AREA = re.compile(r"(?<!\w)\((\d{2,5})\)[ -]?(?=\d{3})")  # (555) 0184
_ALIKE = str.maketrans(
    {"\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " ", "\u3000": " "}
    | {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
)
# Han, kana, Hangul and Thai are written without spaces, or with particles joined to a number.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_ENDINGS = ".,;:!?…。、'’*_~|\\"
_BRACKETS = {")": "(", "]": "[", "}": "{"}

_ITEM = re.compile(r"^[ \t]*\d{1,2}[.)][ \t]+", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class KeyFact:
    """Something in an answer that is either right or of no use.

    Attributes:
        kind: What it is.
        text: As it is written, without the punctuation around it.
        value: The one form it is compared in: 1,120 and 1120 are one number, 08:40 and 8:40 am one
            time, tcs-405 and TCS 405 one code, Fridays and Friday one name.
        unit: Of a number, the one name of the unit or currency beside it; empty for none.
        lead: Of a name that opens a sentence, the word before it that may belong to it: of
            "Quillon Hall is open" the name is Hall, and the lead Quillon. Else empty.
    """

    kind: FactKind
    text: str
    value: str
    unit: str = ""
    lead: str = field(default="", compare=False)


def key_facts(answer: str) -> tuple[KeyFact, ...]:
    """Return the key facts of an answer, each once: addresses, codes and numbers, then names."""
    spelled, rest = _spelled_out(_plain(answer))
    courses = [_code(match[0]) for match in _COURSE.finditer(rest)]
    words = _words(_COURSE.sub(" )", rest))
    found = names(_HOURS.sub(" 0 ", _COURSE.sub(" 0 ", rest)))
    facts = [*spelled, *courses, *words]
    facts += [KeyFact(kind="name", text=n.text, value=n.value, lead=n.lead) for n in found]
    # Of two places where a name stands, the one without a lead is the surer.
    unique: dict[tuple[FactKind, str, str], KeyFact] = {}
    for fact in facts:
        known = unique.get((fact.kind, fact.value, fact.unit))
        if known is None or (known.lead and not fact.lead):
            unique[fact.kind, fact.value, fact.unit] = fact
    return tuple(unique.values())


def own_facts(answer: str, *questions: str) -> tuple[KeyFact, ...]:
    """Return the key facts of an answer that no question states: what it states is no news.

    Args:
        answer: The taught answer.
        questions: Wordings of its question.
    """
    stated = [SearchedText(question) for question in questions]
    return tuple(fact for fact in key_facts(answer) if not any(text.holds(fact) for text in stated))


def present_facts(
    facts: Sequence[KeyFact], text: str, *, with_unit: bool = False
) -> tuple[bool, ...]:
    """Tell of each key fact of an answer whether it stands whole in a text."""
    searched = SearchedText(text)
    return tuple(searched.holds(fact, with_unit=with_unit) for fact in facts)


def choice(answer: str, said: str, *questions: str) -> bool | None:
    """Tell which of the things that a question offers a text takes: room 104, or room 105?

    Offered are the facts of a question that are of one kind, if the answer has some of them and
    lacks some, its *rivals*.

    Returns:
        True where it has the answer's and no rival; False where it has a rival and lacks one of the
        answer's; None where it does neither, or nothing is offered.
    """
    taught, text = SearchedText(answer), SearchedText(said)
    asked = [*map(SearchedText, questions)]
    offered = [fact for question in questions for fact in key_facts(question)]
    rivals = [fact for fact in offered if not taught.holds(fact)]
    kinds = {fact.kind for fact in rivals}
    own = [
        fact
        for fact in key_facts(answer)
        if fact.kind in kinds and any(question.holds(fact) for question in asked)
    ]
    kinds = {fact.kind for fact in own}
    has_own = all(map(text.holds, own))
    has_rival = any(text.holds(fact) for fact in rivals if fact.kind in kinds)
    return None if not own or has_own == has_rival else has_own


class SearchedText:
    """A text in which key facts are looked for.

    Attributes:
        values: Kind and value of its addresses, literals and numbers.
        pieces: Its words and numbers, casefolded, without its addresses. A code or a name that
            stands in it has all of its own pieces here, but for an ``s`` at the end of one.
    """

    def __init__(self, text: str) -> None:
        spelled, self._rest = _spelled_out(_plain(text))
        found = [*spelled, *_words(self._rest)]
        self._units = {(fact.value, fact.unit) for fact in found if fact.kind == "number"}
        within = (part for fact in spelled for part in parts(fact.value))
        self.values = frozenset(
            itertools.chain(
                ((fact.kind, fact.value) for fact in found), (("literal", part) for part in within)
            )
        )
        self.pieces = frozenset(pieces(self._rest))
        # Who writes no capital but the I writes names without.
        self._has_capitals = any(map(str.isupper, re.sub(r"\bI\b", "", self._rest)))

    @cached_property
    def led(self) -> frozenset[tuple[str, str]]:
        """Its pieces, each with the word before it that may belong to its name; "" for none.

        A name that stands in it has its first piece here, but for an ``s`` at the end, with the
        name's own lead or with none.
        """
        found, before = set[tuple[str, str]](), ""
        for match in re.finditer(r"([\w'’-]+)([^\w'’-]*)", self._rest):
            run, gap = match.groups()
            for i, piece in enumerate(pieces(run)):
                # One after a dash or an apostrophe follows no word.
                found.add((lead_of(before) if not i and run[0].isalnum() else "", piece))
            before = run + gap
        return frozenset(found)

    def holds(self, fact: KeyFact, *, with_unit: bool = False) -> bool:
        """Tell whether a key fact stands whole in it.

        Args:
            fact: Of any answer.
            with_unit: Whether its unit has to stand there too; else there may be none.
        """
        if fact.kind == "name":
            return has_name(self._rest, fact.text, lead=fact.lead, with_case=self._has_capitals)
        if fact.kind == "code":
            return _has_code(fact, self._rest)
        if fact.kind == "number" and fact.unit:
            units = (fact.unit,) if with_unit else (fact.unit, "")
            return any((fact.value, unit) in self._units for unit in units)
        return (fact.kind, fact.value) in self.values


def pieces(text: str) -> list[str]:
    """Return the runs of letters and of digits of a text in their order, casefolded."""
    return _PIECE.findall(text.casefold())


def _plain(text: str) -> str:
    """Return a text with one form of each character, and spaces where a script has none."""
    plain = _AREA.sub(r"\1-", unicodedata.normalize("NFC", text).translate(_ALIKE))
    if len(_ITEM.findall(plain)) > 1:  # a numbered list, whose numbers say nothing
        plain = _ITEM.sub("• ", plain)
    return spaced(plain)


def spaced(text: str) -> str:
    """Return a text with spaces around each character of scripts that are written without."""
    return _UNSPACED.sub(r" \g<0> ", text)


def _spelled_out(text: str) -> tuple[list[KeyFact], str]:
    """Return addresses and literals, and the text without them: their digits are no numbers."""
    urls = [_trimmed(match[0]) for match in _URL.finditer(text)]
    for url in urls:
        text = text.replace(url, " , ", 1)
    emails = _EMAIL.findall(text)
    facts = [KeyFact(kind="url", text=url, value=url) for url in urls]
    facts += [KeyFact(kind="e-mail", text=email, value=email.casefold()) for email in emails]
    found, rest = literals(_EMAIL.sub(" , ", text))
    facts += [KeyFact(kind=one.kind, text=one.text, value=one.value) for one in found]
    return facts, rest


def _trimmed(url: str) -> str:
    """Cut off what ends the sentence, not the address; a bracket opened within it stays."""
    url = url.split("](", 1)[0]  # Markdown that names a link by its address
    while url:
        last = url[-1]
        opened = _BRACKETS.get(last)
        if last not in _ENDINGS and (opened is None or url.count(opened) >= url.count(last)):
            break
        url = url[:-1]
    return url


def _words(text: str) -> Iterator[KeyFact]:
    """Yield times, numbers and codes."""
    for match in _HOURS.finditer(text):
        hours, minutes, half = match.groups()
        value = f"{int(hours) % 12 + 12 * (half in 'pP')}:{minutes or '00'}"
        yield KeyFact(kind="number", text=match[0], value=value)
    text = _HOURS.sub(" ", text)
    for match in _WORD.finditer(text):
        word = match[0]
        if not re.search(r"\d", word):
            continue
        number, unit = _number_and_unit(word)
        if number:
            yield from _numbers(text, match.start(), match.end(), number, unit)
        else:
            yield _code(word)


def _number_and_unit(word: str) -> tuple[str, str]:
    """Return the number of 14th, 16GB or 25-minute, and the unit; "" twice for a code."""
    if _DIGITS.fullmatch(word):
        return word, ""
    if match := _WITH_END.fullmatch(word):
        number, dash, end = match.groups()
        unit = unit_of(end, is_joined=True)
        if unit or (end.islower() if dash else end in _ORDINALS):
            return number, unit
    return "", ""


def _numbers(text: str, start: int, end: int, number: str, unit: str) -> Iterator[KeyFact]:
    """Yield one number, or several that were written together: 8:40-16:20, or 10,20.

    Args:
        text: What they stand in.
        start: Where they begin there.
        end: Where they end, with what is written to them.
        number: As it is written.
        unit: What is written to it.
    """
    if number.isdigit() and re.search(r"(?<![\w.)\]])\.$", text[max(0, start - 2) : start]):
        number, start = f"0.{number}", start - 1
    sign, currency, start = before_number(text, start)
    if not unit:
        unit, end = after_number(text, end)
    unit = currency or unit
    if unit and _DECIMAL_COMMA.fullmatch(number):
        number = number.replace(",", ".")
    joined = re.fullmatch(r"\d+(?:[-.:/]\d+)*|" + _THOUSANDS.pattern, number)
    together = re.fullmatch(r"\d{1,2}:\d{2}(?:-\d{1,2}:\d{2})+", number)
    split = number.split("-") if together else [number] if joined else number.split(",")
    for i, part in enumerate(split):
        value = _ZEROS.sub(r"\1", part.replace(",", ""))
        if _CLOCK.fullmatch(value) and value[1] != ":":
            value = value.removeprefix("0")
        yield KeyFact(
            kind="number",
            text=part if len(split) > 1 else text[start:end],
            value=value if i else sign + value,
            unit=unit if i == len(split) - 1 else "",
        )


def _code(text: str) -> KeyFact:
    value = "".join(re.findall(r"[^\W_]|[.,:/]", text)).casefold()
    return KeyFact(kind="code", text=text, value=value)


def _has_code(code: KeyFact, text: str) -> bool:
    """Tell whether a code stands in a text, in either case, with a blank or dash or without."""
    pieces = re.findall(r"\d+|[^\W\d_]+|[.,:/]", code.text)
    pattern = r"[\s-]?".join(map(re.escape, pieces))
    whole = rf"(?<![^\W_])(?<![^\W_]-){pattern}(?![^\W_])(?!-[^\W_])"
    return re.search(whole, text, re.IGNORECASE) is not None
