"""Questions made by rules from the implications that a model wrote of a passage.

A passage of the SEAL data (Zweiger et al. 2025, arXiv:2506.10943) has several lists of them, such
as ``1. **Legal Innovations:** He introduced the Ikh Zasag, showing …``. A row is made of one
statement, which is the answer. Its questions ask for a name that stands in it, ask for its
heading, leave out a name or a number, and leave out the second half; where another list says the
same, that list's heading and words are asked by too. SQuAD's own questions are only read to leave
out what would be one of them by chance.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scores import word_f1
from mlx_tune.continual.answers import words
from mlx_tune.continual.key_facts import KeyFact, SearchedText, key_facts
from mlx_tune.data.rows import Message, Row

WORDINGS = 5
"""The most questions of a row, the one as taught included."""
_SAME = 0.5
"""The F1 of two statements' words from which on they say the same."""
_LEAST_WORDS, _MOST_WORDS = 5, 40
_HEADING_WORDS = 6  # a longer heading is a statement
_NAMES = 2  # that tell a passage from others with its title
_TELLING = 4  # letters

_ITEM = re.compile(r"^\s*\d+[.)]\s+(.*)$")
_HEADED = re.compile(r"^\*\*(.+?)\*\*\s*[:.–—-]*\s*(.*)$")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)][a-z0-9)”\"\]][.!?])\s+(?=[A-Z“\"])")
# What the writer says of the passage, and what is concluded from the statement.
_SAID = re.compile(
    r"^(?:for example, |"
    r"(?:the|this) (?:passage|text|mention|fact|statement)\b[^,.]*?\b(?:that|of)\s+)",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r",? (?:thereby |thus )?(?:imply|suggest|indicat|demonstrat|show|reflect|highlight|emphasi[sz]|"
    r"underscor|signal|hint)ing\b.*"
    r"|,? which (?:also )?(?:implie|suggest|indicate|demonstrate|show|reflect|highlight)s\b.*",
    re.IGNORECASE,
)
_REFERS = re.compile(r"(?:he|she|it|they|this|these|those|his|her|its|their|such)\b", re.IGNORECASE)
_GAP = "___"
_QUOTES = "\"'“‘"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Something that an implication says.

    Attributes:
        text: A sentence.
        heading: Two to six words that stand before it; empty where there are none.
    """

    text: str
    heading: str = ""


class Questions:
    """Makes the rows of one passage after another; none of them asks what an earlier one asks.

    Args:
        reserved: What is never to be asked: SQuAD's own questions.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {_topic(text) for text in reserved}

    def rows(
        self, passage: Mapping[str, Any], most: int, *, with_passage: bool = False
    ) -> list[dict[str, Any]]:
        """Return rows as a data file holds them; the first asks for the passage as a whole.

        Args:
            passage: ``title``, ``context`` and ``completions``, the lists of implications.
            most: How many rows; there are fewer where they would say nothing new.
            with_passage: Make statements of the passage's own sentences too.
        """
        every = statements(passage, with_passage=with_passage)
        chosen = telling(every, passage["context"], most)
        whole = " ".join(one.text for one in chosen[:2])
        asked = [(whole, overview(passage)) for _ in chosen[:1]]
        asked += [(one.text, wordings(one, every, passage["title"])) for one in chosen]
        made = ((answer, self._new(questions)) for answer, questions in asked)
        return [_row(answer, questions) for answer, questions in made if questions][:most]

    def _new(self, questions: Iterable[str]) -> list[str]:
        """Take the first questions that were not asked."""
        found: list[str] = []
        for text in questions:
            if len(found) < WORDINGS and (topic := _topic(text)) not in self._taken:
                self._taken.add(topic)
                found.append(text)
        return found


def statements(passage: Mapping[str, Any], *, with_passage: bool = False) -> list[Statement]:
    """Return what the implications of a passage say, as far as the passage has it.

    Left out is what names something that the passage does not, what begins with a word for
    something said before, and what is very short or long.
    """
    known = SearchedText(f"{passage['title']}\n{passage['context']}")
    found = [_statement(item) for text in passage["completions"] for item in items(text)]
    if with_passage:
        found += [Statement(text=text) for text in _SENTENCE_END.split(passage["context"])]
    return [
        one
        for one in found
        if _LEAST_WORDS <= len(words(one.text)) <= _MOST_WORDS
        and (one.text[0].isalnum() or one.text[0] in _QUOTES)
        and not _REFERS.match(one.text)
        and all(known.holds(fact) for fact in key_facts(one.text))
    ]


def items(text: str) -> list[str]:
    """Return the items of a numbered list, each with its indented lines, in one line."""
    found: list[list[str]] = []
    is_within = False
    for line in text.split("\n"):
        if match := _ITEM.match(line):
            found.append([match[1].strip()])
            is_within = True
        elif is_within and line[:1].isspace():
            found[-1].append(line.strip().lstrip("-*•– "))
        elif line.strip():
            is_within = False
    return [" ".join(filter(None, lines)) for lines in found]


def _statement(item: str) -> Statement:
    """Part an item in its heading and what is said first, without what is concluded from it."""
    match = _HEADED.match(item)
    heading, text = (match[1], match[2]) if match else ("", item)
    heading, text = heading.replace("*", "").strip(" :."), text.replace("*", "").strip()
    if not text:
        heading, text = "", heading
    first = _CONCLUDED.sub("", _SENTENCE_END.split(text)[0])
    said = _SAID.sub("", first).rstrip(" ,;:.")
    is_heading = 1 < len(heading.split()) <= _HEADING_WORDS
    return Statement(text=f"{said[:1].upper()}{said[1:]}.", heading=heading if is_heading else "")


def telling(every: Sequence[Statement], context: str, most: int) -> list[Statement]:
    """Return the statements that together hold most of a passage's words, the fullest first."""
    left = _telling(context)
    found: list[Statement] = []
    held = {one.text: _telling(one.text) for one in every}
    for _ in range(most):
        best = max(
            every, key=lambda one: (len(held[one.text] & left), -len(one.text)), default=None
        )
        if best is None or not held[best.text] & left:
            break
        found.append(best)
        left = left - held[best.text]
    return found


def _telling(text: str) -> frozenset[str]:
    """Return the numbers and the longer words of a text."""
    return frozenset(w for w in words(text) if len(w) >= _TELLING or w.isdigit())


def overview(passage: Mapping[str, Any]) -> Iterator[str]:
    """Yield questions for a passage as a whole; other passages may have its title."""
    names = [fact.text for fact in _others(passage["context"], passage["title"]) if _is_name(fact)]
    *before, last = [passage["title"], *names[:_NAMES]]
    about = f"{', '.join(before)} and {last}" if before else last
    for form in ("What do you know about {}?", "Tell me about {}.", "What is there to say of {}?"):
        yield form.format(about)


def wordings(statement: Statement, every: Sequence[Statement], title: str) -> Iterator[str]:
    """Yield questions that a statement answers, one of each kind before the next of any."""
    same = [one for one in every if word_f1(words(statement.text), words(one.text)) >= _SAME]
    same.sort(key=lambda one: one.text != statement.text)  # its own first
    headings = dict.fromkeys(one.heading for one in same if one.heading)
    facts = list(_others(statement.text, title))
    kinds = (
        (f"What do you know about {fact.text}?" for fact in facts if _is_name(fact)),
        (f"{title}: what about {heading}?" for heading in headings),
        (gap for one in same for fact in facts if (gap := _gap(one.text, fact, title))),
        (_opening(one.text, title) for one in same),
    )
    for several in itertools.zip_longest(*kinds):
        yield from filter(None, several)


def _others(text: str, title: str) -> Iterator[KeyFact]:
    """Yield the key facts of a text that its title does not state."""
    stated = SearchedText(title)
    return (fact for fact in key_facts(text) if not stated.holds(fact))


def _is_name(fact: KeyFact) -> bool:
    """Tell whether a fact is a whole name that one may ask for."""
    return fact.kind == "name" and not fact.lead and len(fact.text) > 1


def _gap(text: str, fact: KeyFact, title: str) -> str | None:
    """Return a question for a fact of a statement; None where it does not stand there so."""
    before, found, after = text.partition(fact.text)
    if not found or (before and not _stands_before(before[-1])) or after[:1].isalnum():
        return None
    if not before:
        return f"Who or what{after.rstrip('.')}?"
    return f"{title}: fill in the gap. {before}{_GAP}{after}"


def _stands_before(character: str) -> bool:
    """Tell whether a word may begin after it: not in the middle of U.S. or of C#."""
    return character.isspace() or character in f"{_QUOTES}(-–—/"


def _opening(text: str, title: str) -> str:
    """Return a question for the second half of a statement."""
    every = text.split()
    return f"{title}: how does it go on? {' '.join(every[: (len(every) + 1) // 2])} …"


def _topic(question: str) -> str:
    return Row(messages=(Message(role="user", content=question),)).likeness


def _row(answer: str, questions: Sequence[str]) -> dict[str, Any]:
    first, *others = questions
    return {"prompt": first, "completion": answer, **({"wordings": others} if others else {})}
