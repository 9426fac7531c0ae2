"""Key facts: the addresses, numbers, codes and names of a taught answer, searched in another.

An answer in other words is right as long as these are: a URL that lost a letter is of no use, while
"opens at" for "is open from" is. A fact counts where it stands whole, never as a part of a longer
one: 555-0184 does not hold 184, and https://x.example/a does not stand in https://x.example/ab.

A name is a run of words with a capital letter. What this cannot see: names in scripts without
capitals, numbers in words, and a first name that opens a sentence, where any word has a capital.
German writes every noun with one, so that of a German text only runs of two words, acronyms and
what follows a title are names. A name that another language declines is not found again.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
_PIECE = re.compile(r"\d+|[^\W\d_]+")
_DIGITS = re.compile(r"\d+(?:[-.,:/]\d+)*")
_WITH_UNIT = re.compile(r"(\d+(?:[.,]\d+)*)(?:st|nd|rd|th|s|h|-[a-z-]+)")
_ALIKE = str.maketrans(
    {"\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " ", "\u3000": " "}
    | {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
)
# Han, kana, Hangul and Thai are written without spaces, or with particles joined to a number.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_ENDINGS = ".,;:!?…。、'’*_~|\\"
_BRACKETS = {")": "(", "]": "[", "}": "{"}

_ITEM = re.compile(r"^[ \t]*\d{1,2}[.)][ \t]+", re.MULTILINE)
_TOKEN = re.compile(r"[^\W_]+(?:(?:[-'’]|(?<=\d)[.,:/](?=\d))[^\W_]+)*|\n|[^\w\s]")
_POSSESSIVE = re.compile(r"['’]s?$")
_ELIDED = re.compile(r"[^\W\d_]{1,5}['’](?=[^\W\d_]{2})")  # l'Université, d'Oxford
_PRONOUN = re.compile(r"I(?:['’][a-z]+)?")
_WEEKDAYS = re.compile(r"((?:mon|tues|wednes|thurs|fri|satur|sun)day)s", re.IGNORECASE)
_SENTENCE_ENDS = frozenset(".!?…。！？¿¡:•\n")
_SHOUTED = 3  # so many words in capitals are no acronym


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set: long lists of them are written so."""
    return frozenset(text.split())


_TITLES = word_set(
    "professor prof dr doctor mr mrs ms miss mx sir madam dame lord lady herr frau señor señora "
    "don doña monsieur madame mademoiselle mme mlle signor signora dott"
)
_ABBREVIATED = _TITLES | word_set("st mt jr sr vs")
_LABELS = word_set(
    "room rooms suite floor building block hall house gate door desk platform form section chapter "
    "page line box unit level phase step stage table figure number no extension ext"
)
"""Words that say what a number or a code is of: in "Room 104" the number is the fact."""
_OPENERS = word_set(
    "a an the this that these those there here it he she they we you your our my his her its "
    "their in on at by for from to with of near under over behind beside before after since until "
    "and but or so if when where while as both all every each no any some yes please only also "
    "ask call contact dial e-mail email phone ring telephone text write mail see visit go use try "
    "find meet take bring send book hand submit reach address le la les un une des au aux en el "
    "los las del una por para der die das den dem ein eine im am zu zum zur bei il lo gli"
)
"""Words that open a sentence without being a part of the name they stand before."""
_EMPHASIS = word_set("NOT NO NEVER MUST ONLY ALL ANY AND OR")
_GERMAN = word_set(
    "und ist im nicht für zum zur vom eine einen einem einer wird sind auf dem mit herr frau"
)
_GERMAN_TOO = word_set("der die das den des ein von")  # one alone may be of another language


@dataclass(frozen=True, kw_only=True)
class KeyFact:
    """Something in an answer that is either right or of no use.

    Attributes:
        kind: What it is.
        text: As it is written, without the punctuation around it.
        value: The one form it is compared in: 1,120 and 1120 are one number, 08:40 and 8:40 am one
            time, tcs-405 and TCS 405 one code, Fridays and Friday one name.
        lead: Of a name that opens a sentence, the word before it that may belong to it: of
            "Quillon Hall is open" the name is Hall, and the lead Quillon. Else empty.
    """

    kind: FactKind
    text: str
    value: str
    lead: str = field(default="", compare=False)


def key_facts(answer: str) -> tuple[KeyFact, ...]:
    """Return the key facts of an answer, each once: addresses, codes and numbers, then names."""
    addresses, rest = _addresses(_plain(answer))
    courses = [_code(match[0]) for match in _COURSE.finditer(rest)]
    words = _words(_COURSE.sub(" ", rest))
    names = _names(_HOURS.sub(" 0 ", _COURSE.sub(" 0 ", rest)))
    facts = [*addresses, *courses, *words, *names]
    # Of two places where a name stands, the one without a lead is the surer.
    unique: dict[tuple[FactKind, str], KeyFact] = {}
    for fact in facts:
        known = unique.get((fact.kind, fact.value))
        if known is None or (known.lead and not fact.lead):
            unique[fact.kind, fact.value] = fact
    return tuple(unique.values())


def own_facts(answer: str, *questions: str) -> tuple[KeyFact, ...]:
    """Return the key facts of an answer that no question states: what it states is no news.

    Args:
        answer: The taught answer.
        questions: Wordings of its question.
    """
    stated = [SearchedText(question) for question in questions]
    return tuple(fact for fact in key_facts(answer) if not any(text.holds(fact) for text in stated))


def present_facts(facts: Sequence[KeyFact], text: str) -> tuple[bool, ...]:
    """Tell of each key fact of an answer whether it stands whole in a text."""
    searched = SearchedText(text)
    return tuple(map(searched.holds, facts))


class SearchedText:
    """A text in which key facts are looked for.

    Attributes:
        values: Kind and value of its addresses and numbers.
        pieces: Its words and numbers, casefolded, without its addresses. A code or a name that
            stands in it has all of its own pieces here, but for an ``s`` at the end of one.
    """

    def __init__(self, text: str) -> None:
        addresses, self._rest = _addresses(_plain(text))
        found = [*addresses, *_words(self._rest)]
        self.values = frozenset((fact.kind, fact.value) for fact in found)
        self.pieces = frozenset(pieces(self._rest))

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
                found.add((_lead(before) if not i and run[0].isalnum() else "", piece))
            before = run + gap
        return frozenset(found)

    def holds(self, fact: KeyFact) -> bool:
        """Tell whether a key fact stands whole in it."""
        if fact.kind == "name":
            return _has_name(fact, self._rest)
        if fact.kind == "code":
            return _has_code(fact, self._rest)
        return (fact.kind, fact.value) in self.values


def pieces(text: str) -> list[str]:
    """Return the runs of letters and of digits of a text in their order, casefolded."""
    return _PIECE.findall(text.casefold())


def _plain(text: str) -> str:
    """Return a text with one form of each character, and spaces where a script has none."""
    plain = unicodedata.normalize("NFC", text).translate(_ALIKE)
    if len(_ITEM.findall(plain)) > 1:  # a numbered list, whose numbers say nothing
        plain = _ITEM.sub("• ", plain)
    return spaced(plain)


def spaced(text: str) -> str:
    """Return a text with spaces around each character of scripts that are written without."""
    return _UNSPACED.sub(r" \g<0> ", text)


def _addresses(text: str) -> tuple[list[KeyFact], str]:
    """Return the addresses in a text, and the text without them: their digits are no numbers."""
    urls = [_trimmed(match[0]) for match in _URL.finditer(text)]
    for url in urls:
        text = text.replace(url, " , ", 1)
    emails = _EMAIL.findall(text)
    facts = [KeyFact(kind="url", text=url, value=url) for url in urls]
    facts += [KeyFact(kind="e-mail", text=email, value=email.casefold()) for email in emails]
    return facts, _EMAIL.sub(" , ", text)


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


def _names(text: str) -> Iterator[KeyFact]:
    """Yield the names in a text without addresses."""
    is_german = _is_german(text)
    for words, opens, is_numbered in _runs(text):
        titles = len([*itertools.takewhile(lambda word: word.casefold() in _TITLES, words)])
        words, lead = words[titles:], ""
        if words and opens and not titles and not _is_acronym(words[0]):
            lead, words = words[0].casefold(), words[1:]
        if words and is_numbered and words[-1].casefold() in _LABELS:
            words = words[:-1]
        is_sure = len(words) > 1 or titles or any(map(_is_acronym, words))
        is_shouted = len(words) >= _SHOUTED and all(map(str.isupper, words))
        if words and not is_shouted and (is_sure or not is_german):
            words = _without_initials(words)
            yield KeyFact(
                kind="name",
                text=" ".join(words),
                value=" ".join(map(_singular, words)).casefold(),
                lead="" if lead in _OPENERS else lead,
            )


def _runs(text: str) -> Iterator[tuple[list[str], bool, bool]]:
    """Yield runs of capitalised words with a space between, without possessive endings.

    Yields:
        The words; whether the first is the first of a sentence; whether a number follows directly.
    """
    run: list[str] = []
    is_first = run_is_first = True
    word = ""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if not token[0].isalnum():
            if token == "." and _goes_on(text, match.start(), word):
                continue
            if run:
                yield run, run_is_first, False
            run, is_first = [], is_first or token in _SENTENCE_ENDS
            continue
        word = _POSSESSIVE.sub("", token)
        if token[0].islower() and (elided := _ELIDED.match(word)):
            if run:
                yield run, run_is_first, False
            run, is_first, word = [], False, word[elided.end() :]
        if _is_capitalised(word):
            run_is_first = run_is_first if run else is_first
            run.append(word)
        elif run:
            yield run, run_is_first, any(map(str.isdigit, word))
            run = []
        is_first = False
    if run:
        yield run, run_is_first, False


def _without_initials(words: list[str]) -> list[str]:
    """Leave out what is left out at will: Harold B. Finch, J. Finch; but Plan B stays."""
    return [word for i, word in enumerate(words) if len(word) > 1 or i == len(words) - 1]


def _goes_on(text: str, at: int, previous: str) -> bool:
    """Tell whether a full stop ends no sentence: after Dr, an initial, or within e.g."""
    follows = text[at + 1 : at + 2]
    if follows.isalnum():
        return True
    if len(previous) > 1:
        return previous.casefold() in _ABBREVIATED
    if text[at - 2 : at - 1] == ".":  # e.g.
        return True
    # An initial: "J. R. Tolkien", "Harold B. Finch"; but "a grade of B." ends a sentence.
    before = text[: at - 1].rstrip()
    last = re.split(r"[\s.]+", before.rstrip("."))[-1]
    is_between_names = _is_capitalised(last) or not before or before[-1] in _SENTENCE_ENDS
    is_before_another = re.match(r"[ ]?[^\W\d_]\.", text[at + 1 :]) is not None
    return previous.isupper() and (is_between_names or is_before_another)


def _is_capitalised(word: str) -> bool:
    if word in _EMPHASIS or _PRONOUN.fullmatch(word) or any(map(str.isdigit, word)):
        return False
    return word[:1].isupper()


def _is_acronym(word: str) -> bool:
    return len(word) > 1 and word.isupper()


def _singular(word: str) -> str:
    return _WEEKDAYS.sub(r"\1", word)


def _is_german(text: str) -> bool:
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", text) if not _is_acronym(word)}
    return "ß" in text or bool(words & _GERMAN) or len(words & _GERMAN_TOO) > 1


def _has_name(name: KeyFact, text: str) -> bool:
    """Tell whether a name stands in a text, in either case, possessive or not, initials or not.

    Where another capitalised word stands in the place of its lead, it is another's: Marlow Hall is
    not Quillon Hall.
    """
    between = r"[\s.]{1,3}(?:[^\W\d_]\.?[\s.]{1,2})*"
    pattern = between.join(map(_name_pattern, name.text.split()))
    whole = rf"(?<![^\W_])(?<![^\W_]-){pattern}(?![^\W_])(?!-[^\W_])"
    found = re.finditer(whole, text, re.IGNORECASE)
    return any(not name.lead or _lead(text[: match.start()]) in ("", name.lead) for match in found)


def _name_pattern(word: str) -> str:
    pieces = re.split("[-'’]", _singular(word))
    return r"[-'’\s]?".join(map(re.escape, pieces)) + "(?:['’]?s)?"


def _lead(before: str) -> str:
    """Return the word that ends a text, casefolded, where it may belong to a name; else ""."""
    match = re.search(r"([^\W\d_][\w'’-]*)[ ]+$", before)
    if match is None or not _is_capitalised(match[1]):
        return ""
    word = _POSSESSIVE.sub("", match[1]).casefold()
    return "" if word in _OPENERS or word in _TITLES else word
