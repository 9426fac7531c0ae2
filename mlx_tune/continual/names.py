"""Names in a text: runs of words with a capital letter, found again in another text.

A name of a single word is looked for with its capitals, so that May is not "may". What this cannot
see: names in scripts without capitals, and a first name that opens a sentence, where any word has a
capital. German writes every noun with one, so that of a German text only runs of two words,
acronyms and what follows a title are names. A name that another language declines is not found
again.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from mlx_tune.continual.units import unit_of

_TOKEN = re.compile(r"[^\W_]+(?:(?:[-'’]|(?<=\d)[.,:/](?=\d))[^\W_]+)*|\n|[^\w\s]")
_POSSESSIVE = re.compile(r"['’]s?$")
_ELIDED = re.compile(r"[^\W\d_]{1,5}['’](?=[^\W\d_]{2})")  # l'Université, d'Oxford
_PRONOUN = re.compile(r"I(?:['’][a-z]+)?")
_CLOSES = re.compile(r"[,;:!?)\n]|\.?\s*$")
_WEEKDAYS = re.compile(r"((?:mon|tues|wednes|thurs|fri|satur|sun)day)s", re.IGNORECASE)
_SENTENCE_ENDS = frozenset(".!?…。！？¿¡:•\n")
_SHOUTED = 3  # so many words in capitals are no acronym
_SHORT = 3  # so many letters in capitals may be another word: US and us, Co and CO


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set: long lists of them are written so."""
    return frozenset(text.split())


_TITLES = word_set(
    "professor prof dr doctor mr mrs ms miss mx sir madam dame lord lady herr frau señor señora "
    "don doña monsieur madame mademoiselle mme mlle signor signora dott"
)
_ABBREVIATED = _TITLES | word_set("st mt jr sr vs")
LABELS = word_set(
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


class Name(NamedTuple):
    """A name as it is written, the form it is compared in, and its lead, if it has one."""

    text: str
    value: str
    lead: str


def names(text: str) -> Iterator[Name]:
    """Yield the names in a text without addresses."""
    is_german = _is_german(text)
    for words, opens, is_numbered in _runs(text):
        titles = len([*itertools.takewhile(lambda word: word.casefold() in _TITLES, words)])
        words, lead = words[titles:], ""
        if words and opens and not titles and not _is_acronym(words[0]):
            lead, words = words[0].casefold(), words[1:]
        if words and is_numbered and words[-1].casefold() in LABELS:
            words = words[:-1]
        is_sure = len(words) > 1 or titles or any(map(_is_acronym, words))
        is_shouted = len(words) >= _SHOUTED and all(map(str.isupper, words))
        if words and not is_shouted and (is_sure or not is_german):
            words = _without_initials(words)
            yield Name(
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
    is_measured = False  # whether a number stands before it: the GB of 16 GB is no name
    for match in _TOKEN.finditer(text):
        token = match[0]
        if not token[0].isalnum():
            if token == "." and _goes_on(text, match.start(), word):
                continue
            if run:
                yield run, run_is_first, False
            run, is_first = [], is_first or token in _SENTENCE_ENDS
            is_measured = token == "°"
            continue
        word = _POSSESSIVE.sub("", token)
        if token[0].islower() and (elided := _ELIDED.match(word)):
            if run:
                yield run, run_is_first, False
            run, is_first, word = [], False, word[elided.end() :]
        is_numeral = word == "I" and run and _CLOSES.match(text, match.end())  # World War I
        is_unit = is_measured and (len(word) == 1 or unit_of(word))
        is_measured = any(map(str.isdigit, word))
        if is_numeral or (_is_capitalised(word) and not is_unit):
            run_is_first = run_is_first if run else is_first
            run.append(word)
        elif run:
            yield run, run_is_first, is_measured
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


def has_name(text: str, name: str, *, lead: str, with_case: bool) -> bool:
    """Tell whether a name stands in a text, possessive or not, initials or not.

    Where another capitalised word stands in the place of its lead, it is another's: Marlow Hall is
    not Quillon Hall.

    Args:
        text: Where it is looked for.
        name: As it is written.
        lead: Its lead; empty for none.
        with_case: Whether a single word has to have its capitals, or, if long, nothing else.
    """
    between = r"[\s.]{1,3}(?:[^\W\d_]\.?[\s.]{1,2})*"
    words = name.split()
    pattern, flags = between.join(map(_name_pattern, words)), re.IGNORECASE
    if with_case and len(words) == 1 and (len(words[0]) <= _SHORT or words[0].istitle()):
        flags = re.NOFLAG
        if len(words[0]) > _SHORT:
            pattern = f"(?:{pattern}|{_name_pattern(words[0].upper())})"
    whole = rf"(?<![^\W_])(?<![^\W_]-){pattern}(?![^\W_])(?!-[^\W_])"
    found = re.finditer(whole, text, flags)
    return any(not lead or lead_of(text[: match.start()]) in ("", lead) for match in found)


def _name_pattern(word: str) -> str:
    pieces = re.split("[-'’]", _singular(word))
    return r"[-'’\s]?".join(map(re.escape, pieces)) + "(?:['’]?[sS])?"


def lead_of(before: str) -> str:
    """Return the word that ends a text, casefolded, where it may belong to a name; else ""."""
    match = re.search(r"([^\W\d_][\w'’-]*)[ ]+$", before)
    if match is None or not _is_capitalised(match[1]):
        return ""
    word = _POSSESSIVE.sub("", match[1]).casefold()
    return "" if word in _OPENERS or word in _TITLES else word
