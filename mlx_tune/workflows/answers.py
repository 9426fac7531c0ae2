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
from mlx_tune.inference.batch import MARGIN_TOKENS
from mlx_tune.inference.generate import stream
from mlx_tune.lineage.session import Session
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.folded import FoldedModel, let_go, load_folded


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question that at least one of two chains teaches.

    Each model is asked in its own chain's words, and in the other's where its own has none: two
    rows of one topic may differ in case and in the punctuation around them.

    Attributes:
        a: The row that chain A has in force; None where it teaches none.
        b: That of chain B.
    """

    a: Row | None
    b: Row | None

    @property
    def question(self) -> str:
        """What is asked, as B words it."""
        return str(self._asked(self.b).question)

    def rows(self, own: Row | None) -> list[Row]:
        """Return one side's question with each answer taught: one row, or two that disagree."""
        asked = self._asked(own)
        answers = dict.fromkeys(row.messages[-1] for row in (self.a, self.b) if row)
        return [replace(asked, messages=(*asked.messages[:-1], answer)) for answer in answers]

    def _asked(self, own: Row | None) -> Row:
        row = own or self.a or self.b
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
    tokenizer = load_tokenizer(info.folder, info.template)
    exam_a = _exam("A", [probe.rows(probe.a) for probe in probes], tokenizer, say)
    exam_b = _exam("B", [probe.rows(probe.b) for probe in probes], tokenizer, say)
    limit = MARGIN_TOKENS + max(exam_a.longest_tokens, exam_b.longest_tokens)
    say("asking A what the two were taught…")
    said_a = exam_a.known(load_folded(info, a))
    let_go()
    say("asking B the same…")
    said_b, wanted = exam_b.after(said_a, load_folded(info, b), shown, limit)
    let_go()
    if any(said_a[i] is None for i in wanted):
        said_a = exam_a.filled(said_a, load_folded(info, a), wanted, limit)
    answered = zip(probes, said_a, said_b, strict=True)
    return Answers(
        probes=tuple(Answered(probe=probe, a=left, b=right) for probe, left, right in answered),
        max_tokens=limit,
    )


Said = list[Answer | None]


@dataclass(frozen=True, kw_only=True)
class _Exam:
    """The probes as one model meets them.

    Attributes:
        name: Who is asked.
        rows: Each question with the answers that are taught.
        examples: The same in tokens; the last answer alone is scored.
        say: Told what takes long.
    """

    name: str
    rows: Sequence[Sequence[Row]]
    examples: Sequence[Sequence[Example]]
    say: Say

    @property
    def longest_tokens(self) -> int:
        """Length of the longest answer that is taught."""
        return max(sum(e.supervised) for several in self.examples for e in several)

    def known(self, folded: FoldedModel) -> Said:
        """Return each question's answer where it is one that is taught, word for word."""
        everything = [example for several in self.examples for example in several]
        flags = iter(score(folded.model, everything).verbatim)
        said: Said = []
        for several in self.rows:
            hits = [row for row, hit in [(row, next(flags)) for row in several] if hit]
            said.append(Answer(text=str(hits[0].answer)) if hits else None)
        return said

    def after(
        self, first: Said, folded: FoldedModel, shown: int | None, limit: int
    ) -> tuple[Said, list[int]]:
        """Answer second; return also which answers of both must be there in full."""
        known = self.known(folded)
        wanted = _wanted(first, known, shown)
        return self.filled(known, folded, wanted, limit), wanted

    def filled(self, said: Said, folded: FoldedModel, wanted: Sequence[int], limit: int) -> Said:
        """Generate the wanted answers that are not known."""
        missing = [i for i in wanted if said[i] is None]
        if missing:
            count = f"{len(missing)} answer{'s' * (len(missing) != 1)}"
            self.say(f"generating {count} of {self.name}…")
        generated = {i: _generate(folded, self.examples[i][0], limit) for i in missing}
        return [generated.get(i, had) for i, had in enumerate(said)]


def _exam(name: str, rows: Sequence[Sequence[Row]], tokenizer: Tokenizer, say: Say) -> _Exam:
    encoded = iter(tokenise.encode([row for several in rows for row in several], tokenizer))
    examples = [[_last_answer(next(encoded)) for _ in several] for several in rows]
    return _Exam(name=name, rows=rows, examples=examples, say=say)


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
