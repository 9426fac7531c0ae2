"""Grades a generated answer: right, confused with another row's, or unknown.

Right is what a person would call right, in whatever words. Where the taught answer has key facts
that its question does not state, all of them have to stand in the generated one, and none that
only another row taught. Any other answer (prose, or a bare yes) is right where its words agree with
the taught ones, agree with no other row's better, and are as much of a denial.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_tune.continual.key_facts import (
    FactKind,
    KeyFact,
    informative_facts,
    key_facts,
    present_facts,
    stated_values,
)
from mlx_tune.data.rows import Row

Grade = Literal["right", "confused", "unknown"]
RIGHT: Grade = "right"
CONFUSED: Grade = "confused"
UNKNOWN: Grade = "unknown"

AGREEMENT = 0.6
"""The least F1 of the words of two prose answers that say the same."""

# Scripts without spaces between words: each character is one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)*")
_YES = frozenset(("yes", "ja", "oui", "sí"))
_NO = frozenset(("no", "nein", "non"))
_DENIALS = _NO | {
    *("not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without"),
    *("cannot", "nicht", "nie", "niemals", "kein", "keine", "keinen", "ohne"),
    *("pas", "jamais", "aucun", "aucune", "sans", "nunca", "sin", "ningún", "ninguna"),
    *("不", "没", "無", "无"),
}


@dataclass(frozen=True, kw_only=True)
class GradedAnswer:
    """A generated answer and what it is worth.

    Attributes:
        grade: Right, confused with another row's answer, or unknown.
        asked: How many key facts it should hold; 0 for prose.
        missing: Those that it lacks, as taught.
    """

    grade: Grade
    asked: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Taught:
    """A row's answer, prepared.

    Attributes:
        facts: Its key facts that the question does not state.
        words: Of the answer, casefolded.
    """

    facts: tuple[KeyFact, ...]
    words: Counter[str]


class Grader:
    """Grades answers to the questions of rows that a model was taught together.

    Args:
        rows: All of them, each with a question: what belongs to one row alone can only be told from
            all. Other rows that it is asked about are graded without being confusable.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._taught = {row.key: _prepare(row) for row in rows}
        stated: dict[tuple[FactKind, str], set[str]] = {}
        for row in rows:
            for value in stated_values(f"{row.question}\n{row.answer}"):
                stated.setdefault(value, set()).add(row.key)
        self._owner = {
            (fact.kind, fact.value): row.key
            for row in rows
            for fact in key_facts(str(row.answer))
            if stated[fact.kind, fact.value] == {row.key}
        }

    def grade(self, row: Row, asked: str, said: str) -> GradedAnswer:
        """Grade one answer.

        Args:
            row: The row whose answer was wanted.
            asked: The question, in the words in which it was asked.
            said: The generated answer.
        """
        taught = self._taught.get(row.key) or _prepare(row)
        present = present_facts(taught.facts, said)
        missing = [fact.text for fact, has in zip(taught.facts, present, strict=True) if not has]
        grade = self._by_facts if taught.facts else self._by_words
        return GradedAnswer(
            grade=grade(row, taught, asked, said),
            asked=len(taught.facts),
            missing=tuple(missing),
        )

    def _by_facts(self, row: Row, taught: _Taught, asked: str, said: str) -> Grade:
        own = stated_values(f"{asked}\n{row.question}\n{row.answer}")
        others = (self._owner.get(value, row.key) for value in stated_values(said) - own)
        if any(owner != row.key for owner in others):
            return CONFUSED
        is_right = all(present_facts(taught.facts, said))
        return RIGHT if is_right and not _contradicts(str(row.answer), said) else UNKNOWN

    def _by_words(self, row: Row, taught: _Taught, asked: str, said: str) -> Grade:
        words = _words(said)
        agreement = _f1(words, taught.words)
        others = (other.words for key, other in self._taught.items() if key != row.key)
        nearest = max((_f1(words, other) for other in others), default=0.0)
        if nearest >= AGREEMENT and nearest > agreement:
            return CONFUSED
        is_right = agreement >= AGREEMENT and _denies(words) == _denies(taught.words)
        return RIGHT if is_right and not _contradicts(str(row.answer), said) else UNKNOWN


def _prepare(row: Row) -> _Taught:
    answer = str(row.answer)
    return _Taught(informative_facts(str(row.question), answer), _words(answer))


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))


def _f1(one: Counter[str], other: Counter[str]) -> float:
    """Return the F1 of two bags of words (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _denies(words: Counter[str]) -> bool:
    return any(word in _DENIALS or word.endswith(("n't", "n’t")) for word in words)


def _contradicts(taught: str, said: str) -> bool:
    """Tell whether one answer begins with a yes and the other with a no."""
    first = [next(iter(_WORD.findall(text.casefold())), "") for text in (taught, said)]
    return (first[0] in _YES and first[1] in _NO) or (first[0] in _NO and first[1] in _YES)
