"""Noised versions of questions: words left out and moved, small letters, no mark at the end.

A model that is taught one wording answers to that wording. Trained on damaged ones as well, it
answers to what they have in common, and so to many wordings that it never met.

Source:
    Wei and Zou 2019, arXiv:1901.11196 (EDA): random deletion and swaps, for classifiers.
"""

import hashlib
import random
import re
from collections.abc import Hashable, Sequence, Set

MAX_WORDS = 40
"""Longer questions are left alone: they bring their own text, and every word of it may matter."""

_DROPPED = (0.15, 0.3, 0.5)
"""Shares of the words to leave out, one drawn for each version."""
_ROTATED, _SHUFFLED, _LOWERED, _UNMARKED = 0.3, 0.2, 0.4, 0.4
"""How many of the versions each of these happens to."""

_FEW = 32
"""So many questions with a word are looked at one by one."""

_ATTEMPTS = 4
"""For each version that is wanted: one that may not be used is drawn again."""

# Scripts without spaces between words: each character is one.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\s+|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_MARKS = ".?!。？！"


def noised_questions(
    wordings: Sequence[Sequence[str]],
    answers: Sequence[Hashable],
    count: int,
    *,
    seed: int,
    reserved: Set[str] = frozenset(),
) -> list[list[str]]:
    """Return noised versions of every row's questions.

    A version that could have come from the question of a row with another answer as well would
    teach an answer to the wrong question, so it is not used.

    Args:
        wordings: Of each row, its questions with the same answer; none to leave the row alone.
        answers: Of each row, its answer.
        count: How many versions of a row are wanted.
        seed: Of what is drawn; a row's versions depend on its own questions and on no other row's
            place.
        reserved: What no version may be: the questions that a model is to be asked untrained.

    Returns:
        For each row at most ``count`` texts, each once, in the order in which they were drawn.
    """
    index = _Index(wordings, answers)
    found = []
    for texts, answer in zip(wordings, answers, strict=True):
        short = [text for text in texts if 1 < len(_words(text)) <= MAX_WORDS]
        versions: dict[str, None] = {}
        for attempt in range(_ATTEMPTS * count if short else 0):
            text = short[attempt % len(short)]
            version = _noised(text, _random(seed, attempt, text))
            is_new = version not in texts and version not in reserved
            if is_new and not index.has_another_answer(version, answer):
                versions[version] = None
            if len(versions) == count:
                break
        found.append(list(versions))
    return found


class _Index:
    """Which answers a noised version may have: those of each question that has all its words."""

    def __init__(self, origins: Sequence[Sequence[str]], answers: Sequence[Hashable]) -> None:
        self._answers: list[Hashable] = []  # of each question, equal ones once
        self._words: list[set[str]] = []
        self._having: dict[str, list[int]] = {}
        self._answered: dict[str, set[Hashable]] = {}  # by word, the answers to what has it
        # By a word that many have and then by another of theirs; made when it is looked for.
        self._beside: dict[str, dict[str, list[int]]] = {}
        known: set[tuple[frozenset[str], Hashable]] = set()
        for texts, answer in zip(origins, answers, strict=True):
            for text in texts:
                words = _bare(text)
                question = frozenset(words), answer
                if question in known:
                    continue
                known.add(question)
                for word in words:
                    self._having.setdefault(word, []).append(len(self._answers))
                    self._answered.setdefault(word, set()).add(answer)
                self._answers.append(answer)
                self._words.append(words)

    def has_another_answer(self, version: str, answer: Hashable) -> bool:
        """Tell whether a version of a question may come from one with another answer too.

        None after the first question that has all its words is looked at.
        """
        words = _bare(version)
        if any(self._answered.get(word, set()) <= {answer} for word in words):
            return False
        return any(
            self._answers[i] != answer and words <= self._words[i] for i in self._likely(words)
        )

    def _likely(self, words: Set[str]) -> Sequence[int]:
        """Return the questions that have the rarest word, and one more where those are many.

        They are few, or most of them have all words, so that the time does not grow with the rows.
        """
        if not words:
            return range(len(self._answers))
        rarest = min(words, key=lambda word: len(self._having.get(word, ())))
        having = self._having.get(rarest, [])
        if len(having) <= _FEW or len(words) == 1:
            return having
        if rarest not in self._beside:
            beside = self._beside[rarest] = {}
            for i in having:
                for word in self._words[i]:
                    beside.setdefault(word, []).append(i)
        beside = self._beside[rarest]
        return min((beside.get(word, []) for word in words), key=len)


def _random(seed: int, attempt: int, text: str) -> random.Random:
    digest = hashlib.sha256(f"{seed} {attempt} {text}".encode()).digest()
    return random.Random(digest)


def _noised(text: str, draw: random.Random) -> str:
    words = _words(text)
    share = draw.choice(_DROPPED)
    kept = [word for word in words if draw.random() >= share] or [draw.choice(words)]
    order = draw.random()
    if order < _ROTATED:
        first = draw.randrange(len(kept))
        kept = kept[first:] + kept[:first]
    elif order < _ROTATED + _SHUFFLED:
        draw.shuffle(kept)
    spaced = " " if any(map(str.isspace, text.strip())) else ""
    version = spaced.join(kept)
    if draw.random() < _LOWERED:
        version = version.lower()
    if draw.random() < _UNMARKED:
        version = version.rstrip(_MARKS)
    return version


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if not word.isspace()]


def _bare(text: str) -> set[str]:
    """Return the words of a text as they are compared."""
    return {bare for word in _words(text) if (bare := word.casefold().strip(_MARKS + ",;:"))}
