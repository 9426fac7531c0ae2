"""Grades a generated answer against what was taught: right, confused with another, or unknown.

*Right*: every key fact of the taught answer that no wording of its question states stands in the
generated one, no distinctive fact of another answer does, and both affirm or both deny. So is the
taught answer itself.
*Confused*: not right, and it says what another row teaches: a distinctive fact of another answer
stands in it, it is another's word for word, however short, or its words agree with another's, at
0.6 or more, better than with its own.
*Unknown*: all else.

A fact is *distinctive* of an answer where no row with another answer holds it, in its question or
in its answer, and the wording asked does not state it: what many rows name, such as a building, is
no sign of confusion. Where a question leaves no key fact to ask for (prose, yes and no), words
stand in for facts: right is an answer whose words agree at 0.6 or more, with no other taught answer
better. Of several things that a question offers it must not take another than the taught one. What
an answer says beyond the facts that were asked for, true or not, is not judged.

Where a row has tools and one of the two answers calls any, right is to call the same functions with
the same arguments, in any order and whatever stands beside them, and confused are another row's.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from mlx_tune.continual.key_facts import (
    KeyFact,
    SearchedText,
    choice,
    key_facts,
    own_facts,
    pieces,
    spaced,
)
from mlx_tune.continual.names import LABELS, word_set
from mlx_tune.data.calls import find_calls
from mlx_tune.data.rows import Row

Grade = Literal["right", "confused", "unknown"]
GRADES: tuple[Grade, ...] = get_args(Grade)

RULES = 2
"""Raised whenever the same answer would get another grade; grades of other rules do not compare."""

AGREEMENT = 0.6
"""The F1 of two answers' words from which on they say the same."""

_LEAST_SHARED = 4  # fewer words, such as "in Quillon Hall", are nobody's in particular

_CONTRACTED = re.compile(r"n['’]t\b|(?<=\bcan)not\b")
_ELIDED = re.compile(r"\bn['’](?=\w)")  # n'est pas
_FILLERS = word_set(
    "a an the it s is are was were be this that es ist sind der die das ein eine il elle est c le "
    "la les un une el los las son una"
)
"""Words that stand in any answer, and are not counted."""
_IN_FRONT = _FILLERS | word_set("in at im um en à")
"""Words before which no answer becomes another: Quillon Hall, or It is in Quillon Hall."""
_YES = word_set("yes yeah yep ja doch oui sí sim sì да 是")
_NO = word_set("no nope nein non não nee nej нет 否 不 没 沒")
_NOT = _NO | word_set(
    "not never none nobody nothing neither nor nicht nie niemals niemand nichts kein keine keinen "
    "keinem keiner keines ne pas jamais aucun aucune rien nunca jamás nadie nada ningún ninguno "
    "ninguna niet geen inte ikke не"
)
_NO_DENIAL = re.compile(
    r"\bno (?:later|earlier|sooner|less|fewer|more) than\b|\bnot only\b|\bno\.? ?(?=\d)"
    r"|\b(?:cannot|can['’]t|can not) miss\b"
    r"|^\W*(?:no (?:problem|worries)|kein problem|pas de (?:problème|souci))[ ,.!;:–—-]+(?=\w)"
)
_LAST_STOP = re.compile(r"(?<=[\w)\]\"'”’»])[.。]\s*$")
_PORTUGUESE = word_set("em uma ao é fica ficam você")  # where no is "in the"


@dataclass(frozen=True, kw_only=True)
class GradedAnswer:
    """An answer and what became of it.

    Attributes:
        grade: The verdict.
        asked: How many key facts it had to hold; 0 for prose.
        missing: Those it lacks, as taught.
    """

    grade: Grade
    asked: int
    missing: tuple[str, ...]

    @property
    def found(self) -> int:
        """How many of the key facts it holds."""
        return self.asked - len(self.missing)


@dataclass(frozen=True, kw_only=True)
class WrongAnswer:
    """An answer that is not right.

    Attributes:
        question: As it was asked.
        said: The whole answer.
        graded: Its grade, and the key facts it lacks.
    """

    question: str
    said: str
    graded: GradedAnswer

    def to_json(self) -> dict[str, Any]:
        """Return what an evaluation's file keeps."""
        own = {"question": self.question, "said": self.said}
        return {**own, "grade": self.graded.grade, "missing": list(self.graded.missing)}


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """How the answers to a set of questions were graded.

    Attributes:
        grades: One a question; None for one that was not asked, since a sample is enough.
        facts_found: How many key facts the answers hold; None where only the grades are known.
        facts_asked: How many they had to hold; likewise.
        wrong: The answers that are not right; none when read from a record.
    """

    grades: tuple[Grade | None, ...]
    facts_found: int | None = None
    facts_asked: int | None = None
    wrong: tuple[WrongAnswer, ...] = ()

    @property
    def asked(self) -> int:
        """How many were asked."""
        return len(self.grades) - self.grades.count(None)

    @property
    def right(self) -> int:
        """How many are right."""
        return self.grades.count("right")

    @property
    def confused(self) -> int:
        """How many say what another row teaches."""
        return self.grades.count("confused")

    @property
    def rate(self) -> float:
        """Share of the asked that is right, 0 to 1; 0 of none is 0."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def outcomes(self) -> tuple[bool | None, ...]:
        """Whether each is right; None for one that was not asked."""
        return tuple(None if grade is None else grade == "right" for grade in self.grades)

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps."""
        return {
            "rules": RULES,
            "right": self.right,
            "confused": self.confused,
            "asked": self.asked,
            "outcomes": list(self.grades),
            "facts_found": self.facts_found,
            "facts_asked": self.facts_asked,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any] | None) -> "AnswerScore | None":
        """Return what a record keeps; None where it has none, or one by other rules.

        Raises:
            ValueError: It holds what is no grade.
        """
        if record is None or record["rules"] != RULES:
            return None
        grades = tuple(record["outcomes"])
        if not {*grades} <= {*GRADES, None}:
            raise ValueError(f"{grades} are no grades")
        return AnswerScore(
            grades=grades,
            facts_found=record["facts_found"],
            facts_asked=record["facts_asked"],
        )


class AnswerKey:
    """Every answer that is taught, by which generated ones are graded.

    Rows with the same answer are one here, whatever its white space, its first capital and its full
    stop: several questions may ask for the same thing.

    Args:
        rows: All rows in force that ask something, whichever session taught them.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        questions: dict[str, list[str]] = {}
        first: dict[str, str] = {}
        for row in rows:
            answer = str(row.answer).strip()
            answer = first.setdefault(_spelling(answer), answer)
            questions.setdefault(answer, []).append(str(row.question))
        self._answers = list(questions)
        self._numbers = {spelling: number for number, spelling in enumerate(first)}
        self._bags = [Counter(_telling(answer)) for answer in self._answers]
        self._lengths = [bag.total() for bag in self._bags]
        self._by_word: dict[str, list[int]] = {}
        for number, bag in enumerate(self._bags):
            for word in bag:
                self._by_word.setdefault(word, []).append(number)
        self._distinctive = _Distinctive(questions)
        self._calls = {tuple(find_calls(str(row.answer))) for row in rows if row.has_tools}

    def grade(self, row: Row, question: str, said: str) -> GradedAnswer:
        """Grade an answer.

        Args:
            row: What was taught; one of the key's rows.
            question: The wording that was asked, the row's own or another.
            said: The generated answer.
        """
        taught, said = str(row.answer).strip(), said.strip()
        if row.has_tools and (find_calls(taught) or find_calls(said)):
            return self._grade_calls(taught, said)
        facts = own_facts(taught, str(row.question), question)
        text = SearchedText(said)
        missing = tuple(fact.text for fact in facts if not text.holds(fact))
        graded = partial(GradedAnswer, asked=len(facts), missing=missing)
        own, recited = self._numbers[_spelling(taught)], self._numbers.get(_spelling(said))
        if recited == own:
            return graded(grade="right")
        is_anothers = recited is not None and not self._is_bare(recited)
        if is_anothers and not self._begins_as(own, said):
            return graded(grade="confused")
        strays = self._distinctive.found_in(text, own=own, question=SearchedText(question))
        if any(True for _ in strays):
            return graded(grade="confused")
        agrees = not missing and _same_polarity(taught, said)
        # A flag alone says little: ls -d is not git branch -d.
        if agrees and any(fact.kind != "flag" for fact in facts):
            return graded(grade="right")
        stated = {*words(str(row.question)), *words(question)}
        near, best = self._agreement(own, stated, said)
        chosen = None if facts else choice(taught, said, str(row.question), question)
        if chosen and stated.issuperset(self._bags[own]):
            near = 1.0
        if agrees and chosen is not False and near >= max(AGREEMENT, best):
            return graded(grade="right")
        return graded(grade="confused" if best >= AGREEMENT and best > near else "unknown")

    def _grade_calls(self, taught: str, said: str) -> GradedAnswer:
        calls, called = find_calls(taught), find_calls(said)
        missing = tuple((Counter(calls) - Counter(called)).elements())
        graded = partial(GradedAnswer, asked=len(calls), missing=missing)
        if called == calls:
            return graded(grade="right")
        is_anothers = tuple(called) in self._calls if called else _spelling(said) in self._numbers
        return graded(grade="confused" if is_anothers else "unknown")

    def _is_bare(self, number: int, stated: Collection[str] = ()) -> bool:
        """Tell whether an answer is a yes or a no, and no more than a question states."""
        left = set(self._bags[number]).difference(stated)
        return bool(left) and left <= _YES | _NOT

    def _begins_as(self, own: int, said: str, stated: Collection[str] = ()) -> bool:
        """Tell whether an answer begins with the taught yes or no, and no more was taught."""
        is_bare = self._is_bare(own, stated)
        return is_bare and _begins(said) == _begins(self._answers[own]) is not None

    def _agreement(self, own: int, stated: set[str], said: str) -> tuple[float, float]:
        """Return the F1 of an answer's words with its own taught ones, and the best with another's.

        Words that the question states say nothing, unless the taught answer has no others. Of a
        yes or a no alone, an answer that begins with the same is the same, whatever follows.
        """
        left = set(self._bags[own]) - stated
        if self._begins_as(own, said, stated):
            return 1.0, 0.0
        if not left:
            stated = set()
        bag = Counter(word for word in _telling(said) if word not in stated)
        shared: Counter[int] = Counter()
        for word, count in bag.items():
            for number in self._by_word.get(word, ()):
                shared[number] += min(count, self._bags[number][word])
        scores: dict[int, float] = {}
        for number, both in shared.items():
            # The F1 is at most what it is where the other has no word but the shared ones.
            could = both >= _LEAST_SHARED and 2 * both >= AGREEMENT * (bag.total() + both)
            if number == own or could:
                length = self._lengths[number] - sum(self._bags[number][word] for word in stated)
                scores[number] = 2 * both / (bag.total() + length)
        near = scores.pop(own, 0.0)
        return near, max(scores.values(), default=0.0)


class _Distinctive:
    """The facts of each answer that stand in no other, found again in a text.

    A text is searched for no fact whose marks it lacks, so that the time for all answers does not
    grow with their square.
    """

    def __init__(self, questions: Mapping[str, Sequence[str]]) -> None:
        texts = [SearchedText("\n".join((answer, *q))) for answer, q in questions.items()]
        marks = [_marks(text) for text in texts]
        holders: dict[object, list[int]] = {}
        for number, own in enumerate(marks):
            for mark in own:
                holders.setdefault(mark, []).append(number)
        self._facts: dict[object, list[tuple[int, KeyFact]]] = {}
        for number, answer in enumerate(questions):
            for fact in key_facts(answer):
                ways = _ways(fact)
                rarest = min(ways, key=lambda way: sum(len(holders.get(m, ())) for m in way))
                likely = (i for mark in rarest for i in holders.get(mark, ()) if i != number)
                if not any(_may_hold(marks[i], ways) and texts[i].holds(fact) for i in likely):
                    for mark in rarest:
                        self._facts.setdefault(mark, []).append((number, fact))

    def found_in(
        self, text: SearchedText, *, own: int, question: SearchedText
    ) -> Iterator[KeyFact]:
        """Yield the facts that stand in a text, but for its own answer's and its question's."""
        for mark in _marks(text):
            for number, fact in self._facts.get(mark, ()):
                is_there = number != own and text.holds(fact, with_unit=True)
                if is_there and not question.holds(fact):
                    yield fact


def _marks(text: SearchedText) -> set[object]:
    """Return what a text is found by: what stands in it has a mark of each of its ways."""
    return {*text.values, *text.pieces, *map(" ".join, text.led)}


def _ways(fact: KeyFact) -> list[list[object]]:
    """Return marks by which a text that holds a fact is found: it has one at least of each list."""
    if fact.kind not in ("name", "code"):
        return [[(fact.kind, fact.value)]]
    own = pieces(fact.value if fact.kind == "name" else fact.text)
    ways: list[list[object]] = [[piece, f"{piece}s"] for piece in own]
    if fact.lead:
        ways.append([f"{lead} {own[0]}{end}" for lead in ("", fact.lead) for end in ("", "s")])
    return ways


def _may_hold(marks: set[object], ways: Sequence[Sequence[object]]) -> bool:
    """Tell whether a text with these marks has one of each way."""
    return all(not marks.isdisjoint(way) for way in ways)


def words(text: str) -> list[str]:
    """Return the words of a text, casefolded; n't is "not", and CJK characters are words."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return re.findall(r"[^\W_]+", spaced(_ELIDED.sub("ne ", _CONTRACTED.sub(" not", folded))))


def _telling(text: str) -> list[str]:
    """Return the words that say something."""
    return [word for word in words(text) if word not in _FILLERS]


def _same_polarity(taught: str, said: str) -> bool:
    """Tell whether two answers both affirm or both deny.

    Both deny something or neither does, and a yes or no that both begin with is the same. English,
    German, French and Spanish, and the commonest words of a few more languages.
    """
    begins, also = _begins(taught), _begins(said)
    return _denies(taught) == _denies(said) and (begins is None or also is None or begins == also)


def _begins(text: str) -> bool | None:
    """Tell whether a text begins with a yes or with a no; None where with neither."""
    first = next(iter(_denying_words(text)), "")
    return True if first in _YES else False if first in _NO else None


def _denies(text: str) -> bool:
    return not _NOT.isdisjoint(_denying_words(text))


def _denying_words(text: str) -> list[str]:
    """Return the words of a text without those that only look like a denial."""
    found = words(_NO_DENIAL.sub(" ", text.casefold()))
    is_portuguese = not _PORTUGUESE.isdisjoint(found)
    return [word for word in found if word != "no" or not is_portuguese]


def _spelling(answer: str) -> str:
    """Return an answer in the one form in which two are the same, word for word.

    White space, a full stop at the end, the capital of a first word or of one such as Room, and
    fillers in front say nothing: "Blue" is "It is blue." Any other sign may, as in C and C#.
    """
    every = [
        _uncapitalised(word) if not i or word.casefold() in LABELS else word
        for i, word in enumerate(_LAST_STOP.sub("", answer).split())
    ]
    told = [*itertools.dropwhile(_IN_FRONT.__contains__, every)] or every
    return " ".join([*map(_uncapitalised, told[:1]), *told[1:]])


def _uncapitalised(word: str) -> str:
    return word.lower() if len(word) > 1 and word.istitle() else word
