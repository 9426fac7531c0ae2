"""Key facts: the addresses, numbers, codes and names of a taught answer, searched in another text.

An answer in other words is right as long as these are: a URL that lost a letter is of no use, while
"opens at" for "is open from" is. A fact counts where it stands whole, never as a part of a longer
one: 555-0184 does not hold 184, and https://x.example/a does not stand in https://x.example/ab.

A name is a run of words with capitals. A capital at the beginning of a sentence says nothing, so
that word is left out of its run. German writes every noun with one: there only runs of two words or
more count. A script without capitals has no names.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

FactKind = Literal["url", "e-mail", "code", "number", "name"]

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
# No ends of sentences, and no names by themselves.
_TITLES = frozenset(("Dr", "Mr", "Mrs", "Ms", "Prof", "Professor", "St", "Herr", "Frau"))
_GERMAN = frozenset(
    ("das", "der", "eine", "einem", "einen", "für", "ist", "nicht", "sind", "und", "zum", "zur")
)
_APART = " , "  # instead of what was found, so that the words around it stay apart
_SENTENCE_ENDS = ".!?:;…\n"
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
            time, tcs-405 and TCS 405 one code, QUILLON HALL and Quillon Hall one name.
    """

    kind: FactKind
    text: str
    value: str


def key_facts(answer: str) -> tuple[KeyFact, ...]:
    """Return the key facts of a taught answer, each once: names last."""
    addresses, rest = _addresses(answer.translate(_ALIKE))
    courses = [_code(match[0]) for match in _COURSE.finditer(rest)]
    apart = _COURSE.sub(_APART, rest)
    facts = [*addresses, *courses, *_words(apart), *_names(apart)]
    return tuple({(fact.kind, fact.value): fact for fact in facts}.values())


def informative_facts(question: str, answer: str) -> tuple[KeyFact, ...]:
    """Return the key facts of a taught answer that its question does not state already."""
    facts = key_facts(answer)
    stated = present_facts(facts, question)
    return tuple(fact for fact, is_stated in zip(facts, stated, strict=True) if not is_stated)


def stated_values(text: str) -> frozenset[tuple[FactKind, str]]:
    """Return kind and value of every key fact that a text states.

    Unlike :func:`key_facts`, which must not take a word for a name that is none, it has the names
    at the beginning of a sentence with their first word and without.
    """
    addresses, rest = _addresses(text.translate(_ALIKE))
    courses = [_code(match[0]) for match in _COURSE.finditer(rest)]
    apart = _COURSE.sub(_APART, rest)
    facts = [*addresses, *courses, *_words(apart), *_names(apart), *_names(apart, first_words=True)]
    return frozenset((fact.kind, fact.value) for fact in facts)


def present_facts(facts: Sequence[KeyFact], text: str) -> tuple[bool, ...]:
    """Tell of each key fact of an answer whether it stands whole in a generated text."""
    addresses, rest = _addresses(text.translate(_ALIKE))
    values = {(fact.kind, fact.value) for fact in (*addresses, *_words(rest))}
    patterns = {"code": _has_code, "name": _has_name}
    return tuple(
        patterns[fact.kind](fact, rest)
        if fact.kind in patterns
        else (fact.kind, fact.value) in values
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


def _names(text: str, *, first_words: bool = False) -> Iterator[KeyFact]:
    """Yield runs of words with capitals, without titles.

    Args:
        text: A text without addresses.
        first_words: Whether the first word of a sentence may belong to a run.
    """
    matches = list(_WORD.finditer(text))
    least = 2 if any(match[0].casefold() in _GERMAN for match in matches) else 1
    run: list[str] = []
    end = 0
    for match in matches:
        word, between = match[0], text[end : match.start()]
        if run and (between.strip() or not between):
            yield from _name(run, least)
            run = []
        end = match.end()
        if word in _TITLES:
            end += text[end : end + 1] == "."
        elif _is_capitalised(word) and (first_words or not _begins(between, match)):
            run.append(word)
        else:
            yield from _name(run, least)
            run = []
    yield from _name(run, least)


def _is_capitalised(word: str) -> bool:
    return word[0].isupper() and not any(map(str.isdigit, word))


def _begins(between: str, match: re.Match[str]) -> bool:
    """Tell whether a word begins a sentence, by what stands between it and the word before."""
    return match.start() == len(between) or any(mark in between for mark in _SENTENCE_ENDS)


def _name(run: Sequence[str], least: int) -> Iterator[KeyFact]:
    """Yield a run of words as a name; a single letter, such as the pronoun I, is none."""
    text = " ".join(run)
    if len(run) >= least and len(text) > 1:
        yield KeyFact(kind="name", text=text, value=text.casefold())


def _has_name(name: KeyFact, text: str) -> bool:
    """Tell whether a name stands in a text as whole words, in either case."""
    pattern = r"[\s-]+".join(map(re.escape, name.value.split()))
    whole = rf"(?<![^\W_])(?<![^\W_]-){pattern}(?![^\W_])"
    return re.search(whole, text.casefold()) is not None
