"""Key facts: the addresses, numbers and codes of a taught answer, searched in a generated one.

An answer in other words is right as long as these are: a URL that lost a letter is of no use, while
"opens at" for "is open from" is. A fact counts where it stands whole, never as a part of a longer
one: 555-0184 does not hold 184, and https://x.example/a does not stand in https://x.example/ab.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

FactKind = Literal["url", "e-mail", "code", "number"]

_URL = re.compile(
    r"(?<![\w@./-])(?:https?://|(?:[a-z0-9-]+\.)+[a-z]{2,}/)[^\s<>\"“”«»`]*", re.IGNORECASE
)
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]*\w@(?:[^\W_][\w-]*\.)+[^\W\d_]{2,}")
# A word and what it is joined to: C-201, 555-0184, 14:10, 1,120; "104.Then" is two words.
_WORD = re.compile(r"[^\W_]+(?:(?:-|(?<=\d)[.,:/](?=\d))[^\W_]+)*")
_COURSE = re.compile(r"\b([A-Z]{2,6})[ ](\d+[A-Z]?)\b(?![-.:,/]\d)")
_HOURS = re.compile(r"(\d{1,2})(?::(\d{2}))?\s?([ap])\.?m\b\.?", re.IGNORECASE)
_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DIGITS = re.compile(r"\d+(?:[-.,:/]\d+)*")
_WITH_UNIT = re.compile(r"(\d+(?:[.,]\d+)*)(?:st|nd|rd|th|s|h|-[a-z-]+)")
_ALIKE = str.maketrans({"\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " "})
_ENDINGS = ".,;:!?…'’*_~|\\"
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, kw_only=True)
class KeyFact:
    """Something in an answer that is either right or of no use.

    Attributes:
        kind: What it is.
        text: As it is written, without the punctuation around it.
        value: The one form it is compared in: 1,120 and 1120 are one number, 08:40 and 8:40 am one
            time, tcs-405 and TCS 405 one code.
    """

    kind: FactKind
    text: str
    value: str


def key_facts(answer: str) -> tuple[KeyFact, ...]:
    """Return the key facts of a taught answer, each once: addresses, then codes and numbers."""
    addresses, rest = _addresses(answer.translate(_ALIKE))
    courses = [_code(match[0]) for match in _COURSE.finditer(rest)]
    facts = [*addresses, *courses, *_words(_COURSE.sub(" ", rest))]
    return tuple({(fact.kind, fact.value): fact for fact in facts}.values())


def present_facts(facts: Sequence[KeyFact], text: str) -> tuple[bool, ...]:
    """Tell of each key fact of an answer whether it stands whole in a generated text."""
    addresses, rest = _addresses(text.translate(_ALIKE))
    values = {(fact.kind, fact.value) for fact in (*addresses, *_words(rest))}
    return tuple(
        _has_code(fact, rest) if fact.kind == "code" else (fact.kind, fact.value) in values
        for fact in facts
    )


def _addresses(text: str) -> tuple[list[KeyFact], str]:
    """Return the addresses in a text, and the text without them: their digits are no numbers."""
    urls = [_trimmed(match[0]) for match in _URL.finditer(text)]
    for url in urls:
        text = text.replace(url, " ", 1)
    emails = _EMAIL.findall(text)
    facts = [KeyFact(kind="url", text=url, value=url) for url in urls]
    facts += [KeyFact(kind="e-mail", text=email, value=email.casefold()) for email in emails]
    return facts, _EMAIL.sub(" ", text)


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
    for match in _WORD.finditer(_HOURS.sub(" ", text)):
        word = match[0]
        if not re.search(r"\d", word):
            continue
        if unit := _WITH_UNIT.fullmatch(word):
            yield from _numbers(unit[1])
        elif _DIGITS.fullmatch(word):
            yield from _numbers(word)
        else:
            yield _code(word)


def _numbers(word: str) -> Iterator[KeyFact]:
    """Yield one number, or several that were written together: 8:40-16:20, or 10,20."""
    joined = re.fullmatch(r"\d+(?:[-.:/]\d+)*|" + _THOUSANDS.pattern, word)
    together = re.fullmatch(r"\d{1,2}:\d{2}(?:-\d{1,2}:\d{2})+", word)
    parts = word.split("-") if together else [word] if joined else word.split(",")
    for part in parts:
        value = part.replace(",", "")
        if _CLOCK.fullmatch(value) and value[1] != ":":
            value = value.removeprefix("0")
        yield KeyFact(kind="number", text=part, value=value)


def _code(text: str) -> KeyFact:
    value = "".join(re.findall(r"[^\W_]|[.,:/]", text)).casefold()
    return KeyFact(kind="code", text=text, value=value)


def _has_code(code: KeyFact, text: str) -> bool:
    """Tell whether a code stands in a text, in either case, with a blank or dash or without."""
    pieces = re.findall(r"\d+|[^\W\d_]+|[.,:/]", code.text)
    pattern = r"[\s-]?".join(map(re.escape, pieces))
    whole = rf"(?<![^\W_])(?<![^\W_]-){pattern}(?![^\W_])(?!-[^\W_])"
    return re.search(whole, text, re.IGNORECASE) is not None
