"""Other wordings of the questions of a file: what a model is asked, and which of them are kept.

A candidate is kept where it passes the rules of ``wording_rules.py`` and the model maps it back to
its own row. The model is only a pair of functions here (:class:`Rewriter`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mlx_tune.continual.synthetic import Continuation
from mlx_tune.continual.wording_rules import REASONS, Reason, WordingRules, difference, split_words

RULES = 2
"""Raised whenever the same model and seed would give other wordings."""

ROUNDS = 2
"""How often every prompt is tried with a question that has too few wordings."""

NEIGHBOURS = 4
"""How many other questions of the file a candidate is held against."""

_ALONE = "Keep every name, number and address as it is. Write the new question alone, on one line."


@dataclass(frozen=True, kw_only=True)
class RewordPrompt:
    """One way to ask a model for another wording.

    Attributes:
        name: What the report calls it.
        instruction: A person's words; ``{question}`` stands for the question.
        examples: Questions and their wordings, shown as earlier turns.
    """

    name: str
    instruction: str
    examples: tuple[tuple[str, str], ...] = ()

    def conversation(self, question: str) -> list[dict[str, str]]:
        """Return the messages to a chat model."""
        messages = []
        for asked, wording in self.examples:
            messages.append({"role": "user", "content": self._ask(asked)})
            messages.append({"role": "assistant", "content": wording})
        return [*messages, {"role": "user", "content": self._ask(question)}]

    def text(self, question: str) -> str:
        """Return the text that a model without a chat template continues, up to a line's end."""
        shown = [f"{self._ask(asked)}\n{wording}\n\n" for asked, wording in self.examples]
        return "".join([*shown, self._ask(question), "\n"])

    def _ask(self, question: str) -> str:
        return self.instruction.replace("{question}", question)


EXAMPLES = RewordPrompt(
    name="examples",
    instruction="Ask this in other words: {question}",
    examples=(
        ("Where do I catch the Greendale bus?", "Which stop does the Greendale bus leave from?"),
        ("How long may I keep a borrowed violin?", "When must a violin be returned?"),
        ("Who runs the chess club?", "Which person is in charge of the chess club?"),
        ("Can I bring my dog to the office?", "Are dogs allowed in the office?"),
    ),
)
"""The prompt that candidates are mapped back with."""

PROMPTS = (
    EXAMPLES,
    RewordPrompt(
        name="short",
        instruction="Ask this as shortly as possible: {question}",
        examples=(
            ("How much do I have to pay for a gallery ticket?", "What is a gallery ticket?"),
            ("At what time does the pool open on Sundays?", "When does the pool open on Sundays?"),
            ("Who is the person that runs the chess club?", "Who runs the chess club?"),
        ),
    ),
    RewordPrompt(
        name="request",
        instruction="Say this as a request: {question}",
        examples=(
            ("Where do I catch the Greendale bus?", "Tell me where the Greendale bus stops."),
            ("Which form do I need to go sailing?", "Name the form for sailing."),
            ("Who can teach me pottery?", "I would like to know who gives pottery lessons."),
        ),
    ),
    RewordPrompt(
        name="reason",
        instruction="Say why you ask, then ask: {question}",
        examples=(
            ("How long may I keep a violin?", "I borrowed a violin; when must I bring it back?"),
            ("Which form is for sailing?", "I want to go sailing, so which form do I need?"),
            ("Are dogs allowed in the office?", "I have a dog; may it come to the office?"),
        ),
    ),
    RewordPrompt(
        name="polite",
        instruction="Ask this in a polite way: {question}",
        examples=(
            ("Where does the Greendale bus stop?", "Could you tell me where the Greendale bus is?"),
            ("What does a gallery ticket cost?", "Do you know how much a gallery ticket is?"),
            ("Who runs the chess club?", "May I ask who is in charge of the chess club?"),
        ),
    ),
    RewordPrompt(
        name="other words",
        instruction=f"Write this question in other words. {_ALONE}\n\n{{question}}",
    ),
    RewordPrompt(
        name="everyday",
        instruction=f"How would a friend ask this in everyday words? {_ALONE}\n\n{{question}}",
    ),
    RewordPrompt(
        name="other verb",
        instruction=f"Write this question with another verb. {_ALONE}\n\n{{question}}",
    ),
)
"""What a model is asked, in few-shot forms and instructions; the examples are nobody's data."""

TOPICS = frozenset(
    ("greendale", "violin", "chess", "dog", "dogs", "gallery", "pool", "sailing", "pottery")
)
"""What the examples are about: weak models copy them, so these words are looked for."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A wording that a model wrote.

    Attributes:
        text: The wording, without quotation marks around it.
        prompt: The name of the prompt that it answers.
        reason: Why it is thrown away; None where it is kept.
        detail: What the reason is about, such as a lost name; may be empty.
    """

    text: str
    prompt: str
    reason: Reason | None = None
    detail: str = ""

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Candidate":
        """Return the candidate that :meth:`to_json` wrote."""
        return Candidate(**record)

    def to_json(self) -> dict[str, Any]:
        """Return the candidate for a file."""
        why = {} if self.reason is None else {"reason": self.reason, "detail": self.detail}
        return {"text": self.text, "prompt": self.prompt, **why}

    @property
    def why(self) -> str:
        """The reason in words, with its detail; empty where it is kept."""
        said = "" if self.reason is None else REASONS[self.reason]
        return f"{said}: {self.detail}" if self.detail else said


class Rewriter(Protocol):
    """A model that rewords questions, and says how likely a wording is."""

    def write(self, orders: Sequence[tuple[RewordPrompt, str, int]]) -> list[Continuation]:
        """Return a sampled text for each order: a prompt, a question and a seed."""

    def losses(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return for each question and text the loss of that text as its rewording, in nats."""


def reword(
    rules: WordingRules,
    numbers: Sequence[int],
    rewriter: Rewriter,
    *,
    wanted: int,
    seed: int,
    prompts: Sequence[RewordPrompt] = PROMPTS,
) -> list[list[Candidate]]:
    """Let a model reword the questions of some rows, and say of each candidate what became of it.

    Every prompt is tried once, and once more with the rows that have too few wordings by then. Of
    more than a row needs, those are kept that differ most from the question and each other.

    Args:
        rules: Of the whole file; they note what is kept.
        numbers: Of the rows, each with a question.
        rewriter: The model.
        wanted: How many wordings a row is to have, those that it has already included.
        seed: The same seed and model write the same wordings of a question, whatever else is in
            the file.
        prompts: What the model is asked.

    Returns:
        The candidates of each row, in the order in which they were written.
    """
    missing = {i: max(0, wanted - len(rules.wordings[i])) for i in numbers}
    found: dict[int, list[Candidate]] = {i: [] for i in numbers}
    for number in range(ROUNDS):
        short = [i for i in numbers if len(_kept(found[i])) < missing[i]]
        if not short:
            break
        orders = [(i, prompt) for i in short for prompt in prompts]
        asked = [
            (prompt, rules.question(i), _seed(seed, rules.question(i), prompt, number))
            for i, prompt in orders
        ]
        new: list[tuple[int, Candidate]] = []
        for (i, prompt), one in zip(orders, rewriter.write(asked), strict=True):
            earlier = [*found[i], *(other for j, other in new if j == i)]
            new.append((i, _judge(rules, i, one, prompt, earlier)))
        for i, candidate in _map_back(rules, new, rewriter):
            found[i].append(candidate)
    return [_choose(rules, i, found[i], missing[i]) for i in numbers]


def _seed(seed: int, question: str, prompt: RewordPrompt, number: int) -> int:
    text = f"{seed}\n{number}\n{prompt.name}\n{question}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _kept(candidates: Sequence[Candidate]) -> list[str]:
    return [one.text for one in candidates if one.reason is None]


def _judge(
    rules: WordingRules,
    i: int,
    written: Continuation,
    prompt: RewordPrompt,
    earlier: Sequence[Candidate],
) -> Candidate:
    """Hold one text against the rules that need no model."""
    text = _unquoted(written.text.strip())
    if not written.is_finished:
        return Candidate(text=text, prompt=prompt.name, reason="unfinished")
    reason, detail = rules.fault(i, text, [one.text for one in earlier]) or (None, "")
    copied = (set(split_words(text)) - set(split_words(rules.question(i)))) & TOPICS
    if reason is None and copied:
        reason, detail = "copied", ", ".join(sorted(copied))
    return Candidate(text=text, prompt=prompt.name, reason=reason, detail=detail)


def _unquoted(text: str) -> str:
    for opening, closing in ('""', "“”", "''", "‘’", "«»", "„“", "「」"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            return text[1:-1].strip()
    return text


def _map_back(
    rules: WordingRules, new: Sequence[tuple[int, Candidate]], rewriter: Rewriter
) -> list[tuple[int, Candidate]]:
    """Throw away the candidates that the model does not map back to their own row.

    A candidate is one text, and the question is which row it was written for: its own, or one of
    the ``NEIGHBOURS`` whose questions share most of its words. For each of them the model says how
    likely it is that it would write this text when it is asked to reword that question, and its own
    has to be the likeliest. With all rows equally likely beforehand, that is the most probable one
    by Bayes' rule. The text is the same each time, so it makes no difference how common its words
    are; and no answer is needed, so a base that was taught nothing can judge. It sees a text that
    drifted to a neighbour, not one that asks what no row asks.
    """
    passed = [(i, one.text) for i, one in new if one.reason is None]
    rivals = [[i, *rules.neighbours(i, text, NEIGHBOURS)] for i, text in passed]
    asked = [
        (rules.question(j), text)
        for (_, text), rows in zip(passed, rivals, strict=True)
        for j in rows
    ]
    losses = iter(rewriter.losses(asked))
    others = iter(rivals)
    judged = []
    for i, one in new:
        if one.reason is None:
            rows = next(others)
            own = [next(losses) for _ in rows]
            if (likeliest := rows[own.index(min(own))]) != i:
                one = replace(one, reason="elsewhere", detail=rules.place(likeliest))
        judged.append((i, one))
    return judged


def _choose(
    rules: WordingRules, i: int, candidates: Sequence[Candidate], count: int
) -> list[Candidate]:
    """Keep as many wordings as a row needs, those first that differ most from all before them."""
    known = [rules.question(i), *rules.wordings[i]]
    left = _kept(candidates)
    chosen: list[str] = []
    while left and len(chosen) < count:
        text = max(left, key=lambda one: difference(one, [*known, *chosen]))
        left.remove(text)
        # A row of the same batch may have been given it.
        if rules.add(i, text):
            chosen.append(text)
    return [_settled(rules, i, one, chosen) for one in candidates]


def _settled(rules: WordingRules, i: int, one: Candidate, chosen: Sequence[str]) -> Candidate:
    if one.reason is not None or one.text in chosen:
        return one
    reason, detail = rules.fault(i, one.text, ()) or ("surplus", "")
    return replace(one, reason=reason, detail=detail)
