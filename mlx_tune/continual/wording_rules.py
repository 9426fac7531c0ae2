"""Which other wordings of a question may be trained on: the rules that a text alone can fail.

A model that rewords a question drops its room number, answers it, or asks a neighbour's question.
These rules see that without a model; ``reword.py`` has the one that needs one. They let pass what
looks right and is wrong, such as "create" for "reset", so a person still reads what is kept.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from mlx_tune.continual.key_facts import key_facts, present_facts
from mlx_tune.data.rows import Row

Reason = Literal[
    "unfinished", "form", "statement", "length", "lost", "answer", "added", "repeated", "taken",
    "copied", "elsewhere", "surplus",
]  # fmt: skip

REASONS: dict[Reason, str] = {
    "unfinished": "did not come to an end",
    "form": "not one line of plain text",
    "statement": "no question",
    "length": "far shorter or longer than the question",
    "lost": "lost a name, number, code or address",
    "answer": "gives a fact of the answer away",
    "added": "a name, number, code or address of its own",
    "repeated": "repeats the question or a wording",
    "taken": "asked elsewhere in the file",
    "copied": "copies an example of the prompt",
    "elsewhere": "likelier for another question",
    "surplus": "passed, but others differ more",
}
"""Why a candidate is thrown away, in the order in which it is looked at."""

# Scripts without spaces between words: each character is one.
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’.@-][^\W_]+)*"
)
# A mark inside an address, as in /?page=1, ends no question.
_MARK = re.compile(r"[？؟]|\?(?=[\s!\"'”’»)]|$)")
# What prompts and chat templates leave behind: tags, headings, emphasis, a list's mark, a label.
_REMNANT = re.compile(
    r"<[^<>]*>|\[/?(?:INST|SYS|user|assistant)\]|[#*`|]{2,}|^(?:\d+[.)]|[-*•])\s|"
    r"^(?:user|assistant|system|question|answer|rephrased|reworded|q|a)\s*:|"
    r"^(?:sure|certainly|of course|here)\b[^?]*:|"
    r"\b(?:questions?|wording|(?:re)?phras\w*|ask(?:ing|ed)? (?:this|it|that))\b[^?]*:",
    re.IGNORECASE,
)
_UNPRINTED = ("Cc", "Cs", "Zl", "Zp")  # line breaks and what a terminal would obey
_REQUEST = re.compile(
    r"(?:please|kindly|tell|give|show|name|list|explain|describe|help|let me|looking for|"
    r"i(?:['’]d| would) (?:like|love)|i(?:['’]m| am) (?:looking|trying)|"
    r"i (?:need|want|wish|have) to (?:know|find|learn|ask))\b",
    re.IGNORECASE,
)


class WordingRules:
    """Judges wordings by what they say, among all rows of a file.

    Args:
        rows: The rows of the file; those without a question are nobody's competitors.
        wordings: Of each row, the wordings that it has already.
        specials: The texts of the tokenizer's special tokens.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        wordings: Sequence[Sequence[str]],
        specials: Iterable[str] = (),
    ) -> None:
        self.wordings = wordings
        self._rows, self._specials = rows, tuple(specials)
        self._asked: dict[str, tuple[int, str]] = {}  # by spelling: the row, and what it is there
        for name, texts in (
            ("the question", [[row.question] if row.question else [] for row in rows]),
            ("a paraphrase", [row.paraphrases for row in rows]),
            ("a wording", wordings),
        ):
            for i, several in enumerate(texts):
                for text in several:
                    self._asked.setdefault(_spelling(rows[i], text), (i, name))
        self._words = [frozenset(split_words(row.question or "")) for row in rows]
        holders = Counter(word for words in self._words for word in words)
        self._weights = {word: math.log(1 + len(rows) / n) for word, n in holders.items()}
        self._holders: dict[str, list[int]] = defaultdict(list)
        for i, words in enumerate(self._words):
            for word in words:
                self._holders[word].append(i)

    def question(self, i: int) -> str:
        """Return a row's question."""
        return str(self._rows[i].question)

    def place(self, i: int) -> str:
        """Return the file and line of a row."""
        return self._rows[i].place

    def fault(self, i: int, text: str, earlier: Iterable[str]) -> tuple[Reason, str] | None:
        """Return why a text may not be a wording of a row's question, with what it is about.

        Args:
            i: The row's number.
            text: The candidate.
            earlier: Candidates for the same row that were looked at before.

        Returns:
            The first rule it fails and a detail such as the lost name; None where it fails none.
        """
        row, question = self._rows[i], self.question(i)
        if not _is_plain(text, question, self._specials):
            return "form", ""
        if not _asks(text, question):
            return "statement", ""
        if not _is_similarly_long(text, question):
            return "length", ""
        if lost := _missing(question, text):
            return "lost", ", ".join(lost)
        if given := _given_away(row, text):
            return "answer", ", ".join(given)
        if added := _missing(text, question):
            return "added", ", ".join(added)
        spelling = _spelling(row, text)
        if spelling in {_spelling(row, other) for other in earlier}:
            return "repeated", ""
        return self._taken(i, spelling)

    def add(self, i: int, text: str) -> bool:
        """Note that a wording is kept; return whether nobody had it before."""
        place = (i, "a wording")
        return self._asked.setdefault(_spelling(self._rows[i], text), place) is place

    def neighbours(self, i: int, text: str, count: int) -> list[int]:
        """Return the other rows whose questions share the most with a text, most similar first.

        Similarity is the cosine of the two sets of words, rare ones counting more. A row that asks
        the same, or has the same answer, is no competitor.

        Args:
            i: The row that the text belongs to.
            text: The candidate.
            count: How many at most; rows that share no word are left out.
        """
        shared: dict[int, float] = defaultdict(float)
        for word in set(split_words(text)):
            for other in self._holders.get(word, ()):
                shared[other] += self._weights[word]
        own = self._rows[i]
        scored = [
            (weight / math.sqrt(sum(self._weights[word] for word in self._words[other])), -other)
            for other, weight in shared.items()
            if self._rows[other].topic != own.topic and self._rows[other].answer != own.answer
        ]
        return [-other for _, other in sorted(scored, reverse=True)[:count]]

    def _taken(self, i: int, spelling: str) -> tuple[Reason, str] | None:
        if spelling not in self._asked:
            return None
        other, name = self._asked[spelling]
        if other == i and name != "a paraphrase":
            return "repeated", ""
        return "taken", f"{name} of {self.place(other)}"


def difference(text: str, others: Iterable[str]) -> float:
    """Return the least share of words in which a text differs from others, 0 to 1 (Jaccard)."""
    own = set(split_words(text))
    return min(
        (1 - len(own & words) / len(own | words) for words in map(set, map(split_words, others))),
        default=1.0,
    )


def split_words(text: str) -> list[str]:
    """Return the words of a text, casefolded, without punctuation."""
    return _WORD.findall(text.casefold())


def _spelling(row: Row, text: str) -> str:
    """Return what a row asks in other words, but for case and any punctuation."""
    likeness = row.with_question(text).likeness
    return " ".join(split_words(likeness)) or likeness


def _is_plain(text: str, question: str, specials: Iterable[str]) -> bool:
    """Tell whether a text is one line without anything of a template that the question lacks."""
    if not text or any(c == "\ufffd" or unicodedata.category(c) in _UNPRINTED for c in text):
        return False
    if any(found[0] not in question for found in _REMNANT.finditer(text)):
        return False
    return not any(special in text for special in specials)


def _asks(text: str, question: str) -> bool:
    """Tell whether a text asks for something.

    It ends with a question mark where it has one: what follows would be an answer. Without one it
    begins like a request in English, or with the word that the question begins with, if that has
    no question mark either.
    """
    marks = [match.end() for match in _MARK.finditer(text)]
    if marks:
        return not text[marks[-1] :].strip("!\"'”’»)")
    if _REQUEST.match(text):
        return True
    return not _MARK.search(question) and split_words(text)[:1] == split_words(question)[:1]


def _is_similarly_long(text: str, question: str) -> bool:
    """Tell whether a text has a third to twice as many words as the question, and a few more."""
    own, asked = len(split_words(text)), len(split_words(question))
    return max(2, asked / 3) <= own <= 2 * asked + 6


def _missing(taught: str, text: str) -> list[str]:
    """Return the names, numbers, codes and addresses of one text that another lacks."""
    facts = key_facts(taught)
    found = zip(facts, present_facts(facts, text, with_unit=True), strict=True)
    return [fact.text for fact, is_there in found if not is_there]


def _given_away(row: Row, text: str) -> list[str]:
    """Return the key facts of a row's answer that a wording states and its question does not."""
    facts = key_facts(str(row.answer))
    stated = present_facts(facts, str(row.question))
    leaked = present_facts(facts, text)
    flags = zip(facts, stated, leaked, strict=True)
    return [fact.text for fact, is_known, is_said in flags if is_said and not is_known]
