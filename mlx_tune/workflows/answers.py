"""What two places of the lineage answer differently, with never two models in memory.

Scoring tells most of it: where a model's first choices are a taught answer, that is its answer, and
where they are not, it says something else. So only what is to be read, and what neither model knows
word for word, is generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlx_tune.continual.recall import score
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference.generate import stream
from mlx_tune.lineage.session import Session
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.workflows.folded import FoldedModel, let_go, load_folded

MARGIN_TOKENS = 16
"""How much longer than the longest taught answer a generated one may get."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question that at least one of two chains teaches.

    Attributes:
        a: The row that chain A has in force; None where it teaches none.
        b: That of chain B. Where the two word the question differently, both are asked in B's
            words.
    """

    a: Row | None
    b: Row | None

    @property
    def question(self) -> str:
        """What is asked."""
        return str(self._asked.question)

    def rows(self) -> list[Row]:
        """Return the question with each answer that is taught: one row, or two that disagree."""
        before = self._asked.messages[:-1]
        answers = dict.fromkeys(row.messages[-1] for row in (self.a, self.b) if row)
        return [replace(self._asked, messages=(*before, answer)) for answer in answers]

    @property
    def _asked(self) -> Row:
        row = self.b or self.a
        assert row is not None, "a probe is somebody's"
        return row


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says.

    Attributes:
        text: Without the token that ends it.
        is_cut: True where the model went on beyond what was generated.
    """

    text: str
    is_cut: bool = False

    def says(self, taught: Row | None) -> bool:
        """Tell whether this is the answer of a row; it is not that of none."""
        return taught is not None and self.text.strip() == str(taught.answer).strip()


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A probe and what both models say to it.

    Attributes:
        probe: The question.
        a: A's answer; None where it is only known not to be B's.
        b: B's answer; None where it is only known not to be A's.
    """

    probe: Probe
    a: Answer | None
    b: Answer | None

    @property
    def is_whole(self) -> bool:
        """Tell whether both answers can be shown."""
        return self.a is not None and self.b is not None

    @property
    def differs(self) -> bool:
        """Tell whether the two models say different things."""
        return self.a is None or self.b is None or self.a.text.strip() != self.b.text.strip()


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All probes, answered.

    Attributes:
        probes: In the order asked.
        max_tokens: Longer answers were cut there, and compared as far as that.
    """

    probes: tuple[Answered, ...]
    max_tokens: int

    @property
    def differing(self) -> list[Answered]:
        """The probes that are answered differently."""
        return [answered for answered in self.probes if answered.differs]


def compare(
    info: BaseInfo,
    a: Sequence[Session],
    b: Sequence[Session],
    probes: Sequence[Probe],
    *,
    shown: int | None,
    say: Say,
) -> Answers:
    """Ask two folded models the same questions, one model after the other.

    Args:
        info: The base.
        a: Chain A, root first.
        b: Chain B.
        probes: The questions.
        shown: How many answers that differ must be there to be read; None for all.
        say: Told, in a line, what takes long.

    Raises:
        InputError: The base's tokenizer or template cannot take a row, or a model computes no
            finite numbers.
    """
    if not probes:
        return Answers(probes=(), max_tokens=0)
    exam = _exam(info, probes, say)
    say("asking A what the two were taught…")
    said_a = exam.known(load_folded(info, a))
    let_go()
    say("asking B the same…")
    said_b, wanted = exam.second(load_folded(info, b), said_a, shown)
    let_go()
    if any(said_a[i] is None for i in wanted):
        said_a = exam.filled(load_folded(info, a), said_a, wanted, "A")
    answered = zip(probes, said_a, said_b, strict=True)
    return Answers(
        probes=tuple(Answered(probe=probe, a=left, b=right) for probe, left, right in answered),
        max_tokens=exam.max_tokens,
    )


Said = list[Answer | None]


@dataclass(frozen=True, kw_only=True)
class _Exam:
    """The probes as a model meets them.

    Attributes:
        probes: The questions.
        examples: Each with the answers that are taught to it.
        say: Told what takes long.
    """

    probes: Sequence[Probe]
    examples: Sequence[Sequence[Example]]
    say: Say

    @property
    def max_tokens(self) -> int:
        """The longest answer that is generated."""
        taught = (sum(e.supervised) for several in self.examples for e in several)
        return max(taught) + MARGIN_TOKENS

    def known(self, folded: FoldedModel) -> Said:
        """Return each question's answer where it is one that is taught, word for word."""
        everything = [example for several in self.examples for example in several]
        flags = iter(score(folded.model, everything).verbatim)
        said: Said = []
        for probe in self.probes:
            hits = [row for row, hit in [(row, next(flags)) for row in probe.rows()] if hit]
            said.append(Answer(text=str(hits[0].answer)) if hits else None)
        return said

    def second(self, folded: FoldedModel, first: Said, shown: int | None) -> tuple[Said, list[int]]:
        """Answer after the first model; return also which answers must be there in full."""
        known = self.known(folded)
        wanted = _wanted(first, known, shown)
        return self.filled(folded, known, wanted, "B"), wanted

    def filled(self, folded: FoldedModel, said: Said, wanted: Sequence[int], name: str) -> Said:
        """Generate the wanted answers that are not known."""
        missing = [i for i in wanted if said[i] is None]
        if missing:
            self.say(f"generating {len(missing)} answer{'s' * (len(missing) != 1)} of {name}…")
        generated = {i: _generate(folded, self.examples[i][0], self.max_tokens) for i in missing}
        return [generated.get(i, had) for i, had in enumerate(said)]


def _exam(info: BaseInfo, probes: Sequence[Probe], say: Say) -> _Exam:
    """Tokenise each question with each answer taught to it; the last answer alone is scored."""
    tokenizer = load_tokenizer(info.folder, info.template)
    rows = [probe.rows() for probe in probes]
    encoded = iter(tokenise.encode([row for several in rows for row in several], tokenizer))
    examples = [[_last_answer(next(encoded)) for _ in several] for several in rows]
    return _Exam(probes=probes, examples=examples, say=say)


def _last_answer(example: Example) -> Example:
    """Leave the earlier answers of a conversation unscored: they are given, as they are in use."""
    begin = len(example.tokens) - example.supervised[::-1].index(False)
    flags = [position >= begin for position in range(len(example.tokens))]
    return replace(example, supervised=tuple(flags))


def _wanted(a: Said, b: Said, shown: int | None) -> list[int]:
    """Return the questions whose answers must be there in full, in order.

    What neither model knows word for word may be answered alike or not; where one knows it, the
    other differs, and its answer is only there to be read.
    """
    pairs = list(enumerate(zip(a, b, strict=True)))
    neither = [i for i, (left, right) in pairs if left is None and right is None]
    one = [i for i, (left, right) in pairs if (left is None) != (right is None)]
    return sorted([*neither, *one[:shown]])


def _generate(folded: FoldedModel, example: Example, max_tokens: int) -> Answer:
    prompt = example.tokens[: example.first_supervised]
    pieces = list(stream(folded.model, folded.tokenizer, prompt, max_tokens=max_tokens))
    text = "".join(piece.text for piece in pieces)
    return Answer(text=text, is_cut=pieces[-1].finish == "length")
