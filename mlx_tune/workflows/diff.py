"""How two sessions differ: in settings, rows, metrics, weights and answers.

Two models are never in memory at once. Scoring finds most answers: where a model's first choices
are a taught answer, that is its answer. Others are generated where they are shown or compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_tune.continual.answers import AnswerKey, Grade
from mlx_tune.continual.change import Change, change_norms, weight_norms
from mlx_tune.continual.in_force import rows_taught_last
from mlx_tune.continual.recall import score
from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.inference import MARGIN_TOKENS, stream
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load, load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.settings import recorded_settings
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import StoreSnapshot, read_store
from mlx_tune.workflows.workspace import (
    FoldedModel,
    choose_base,
    free_memory,
    load_folded,
    locate_base,
    need_sessions,
    read_adapters,
    read_history,
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question that at least one of two chains teaches.

    Each model is asked in its own chain's words, else in the other's; they may differ in case.

    Attributes:
        a: The row that chain A has in force; None where it teaches none.
        b: That of chain B.
    """

    a: Row | None
    b: Row | None

    @property
    def question(self) -> str:
        """What is asked, as B words it."""
        return str(self._row(self.b).question)

    def rows(self, own: Row | None) -> list[Row]:
        """Return one side's question with each answer taught: one row, or two that disagree."""
        row = self._row(own)
        answers = dict.fromkeys(each.messages[-1] for each in (self.a, self.b) if each)
        return [replace(row, messages=(*row.messages[:-1], answer)) for answer in answers]

    def _row(self, own: Row | None) -> Row:
        row = own or self.a or self.b
        assert row, "one of the two teaches it"
        return row


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says.

    Attributes:
        text: Without the token that ends it.
        is_cut: True where the model went on beyond what was generated.
        grade: Whether it is right by what the model's chain teaches; None where that teaches no
            answer to the question.
    """

    text: str
    is_cut: bool = False
    grade: Grade | None = None

    def says(self, taught: Row | None) -> bool:
        """Tell whether this is the answer of a row; it is not that of none."""
        return taught is not None and self.text.strip() == str(taught.answer).strip()


@dataclass(frozen=True, kw_only=True)
class AnsweredProbe:
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
class ComparedAnswers:
    """All probes, answered.

    Attributes:
        probes: In the order asked.
        max_tokens: Longer answers were cut there, and compared as far as that.
    """

    probes: tuple[AnsweredProbe, ...]
    max_tokens: int

    @property
    def differing(self) -> list[AnsweredProbe]:
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
) -> ComparedAnswers:
    """Ask two folded models the same questions, one model after the other.

    Args:
        info: The base.
        a: Chain A, root first.
        b: Chain B.
        probes: The questions.
        shown: How many answers that differ must be there to be read; None for all.
        say: Called, in a line, with what takes long.

    Raises:
        InputError: The base's template cannot take a row, or a model computes no finite numbers.
    """
    if not probes:
        return ComparedAnswers(probes=(), max_tokens=0)
    tokenizer = load_tokenizer(info.folder, info.template)
    side_a = _prepare_side("A", [probe.rows(probe.a) for probe in probes], tokenizer, say)
    side_b = _prepare_side("B", [probe.rows(probe.b) for probe in probes], tokenizer, say)
    every = [one for several in (*side_a.examples, *side_b.examples) for one in several]
    limit = MARGIN_TOKENS + max(sum(one.supervised) for one in every)
    say("asking A what the two were taught…")
    answers_a = side_a.recall(load_folded(info, a))
    free_memory()
    say("asking B the same…")
    folded = load_folded(info, b)
    answers_b = side_b.recall(folded)
    wanted = _wanted(answers_a, answers_b, shown)
    answers_b = side_b.complete(answers_b, folded, wanted, limit)
    del folded
    free_memory()
    if any(answers_a[i] is None for i in wanted):
        answers_a = side_a.complete(answers_a, load_folded(info, a), wanted, limit)
    graded_a = _graded(answers_a, [probe.a for probe in probes])
    graded_b = _graded(answers_b, [probe.b for probe in probes])
    answered = zip(probes, graded_a, graded_b, strict=True)
    found = (AnsweredProbe(probe=probe, a=left, b=right) for probe, left, right in answered)
    return ComparedAnswers(probes=tuple(found), max_tokens=limit)


def _graded(
    answers: Sequence[Answer | None], rows: Sequence[Row | None]
) -> Iterator[Answer | None]:
    """Grade a side's answers by the rows that its chain has in force."""
    key = AnswerKey([row for row in rows if row is not None])
    for answer, row in zip(answers, rows, strict=True):
        if answer is None or row is None:
            yield answer
        else:
            yield replace(answer, grade=key.grade(row, str(row.question), answer.text).grade)


@dataclass(frozen=True, kw_only=True)
class _QuestionedSide:
    """The probes as one model meets them; of each example the last answer alone is scored."""

    name: str
    rows: Sequence[Sequence[Row]]
    examples: Sequence[Sequence[Example]]
    say: Say

    def recall(self, folded: FoldedModel) -> list[Answer | None]:
        """Return each question's answer where it is one that is taught, word for word."""
        everything = [example for several in self.examples for example in several]
        flags = iter(score(folded.model, everything).verbatim)
        right = [[row for row in several if next(flags)] for several in self.rows]
        return [Answer(text=str(rows[0].answer)) if rows else None for rows in right]

    def complete(
        self, answers: list[Answer | None], folded: FoldedModel, wanted: Sequence[int], limit: int
    ) -> list[Answer | None]:
        """Generate the wanted answers that scoring did not find."""
        missing = [i for i in wanted if answers[i] is None]
        if missing:
            self.say(f"generating {len(missing)} answer{'s' * (len(missing) != 1)} of {self.name}…")
        generated = {i: _generate(folded, self.examples[i][0], limit) for i in missing}
        return [generated.get(i, answer) for i, answer in enumerate(answers)]


def _prepare_side(
    name: str, rows: Sequence[Sequence[Row]], tokenizer: Tokenizer, say: Say
) -> _QuestionedSide:
    encoded = iter(tokenise.encode([row for several in rows for row in several], tokenizer))
    examples = [[_last_answer(next(encoded)) for _ in several] for several in rows]
    return _QuestionedSide(name=name, rows=rows, examples=examples, say=say)


def _last_answer(example: Example) -> Example:
    """Leave the earlier answers of a conversation unscored: they are given, as they are in use."""
    begin = example.last_answer
    return replace(example, supervised=(False,) * begin + example.supervised[begin:])


def _wanted(a: list[Answer | None], b: list[Answer | None], shown: int | None) -> list[int]:
    """Return the questions, in order, whose answers must be there in full.

    Those that neither model knows may be answered alike or not; where one knows it, they differ.
    """
    missing = [(left is None) + (right is None) for left, right in zip(a, b, strict=True)]
    one = [i for i, count in enumerate(missing) if count == 1]
    return sorted([*(i for i, count in enumerate(missing) if count == 2), *one[:shown]])


def _generate(folded: FoldedModel, example: Example, max_tokens: int) -> Answer:
    prompt = example.tokens[: example.first_supervised]
    pieces = list(stream(folded.model, folded.tokenizer, prompt, max_tokens=max_tokens))
    text = "".join(piece.text for piece in pieces)
    return Answer(text=text, is_cut=pieces[-1].finish_reason == "length")


@dataclass(frozen=True, kw_only=True)
class TaughtRow:
    """A row in force, and whose it is.

    Attributes:
        row: As the session keeps it.
        session: The last one that taught it.
    """

    row: Row
    session: Session

    @property
    def place(self) -> str:
        """Where it stands, for a person: the session, and the line of its data.jsonl."""
        return (
            f"{self.session.number} {self.session.name}, line {self.row.place.rpartition(':')[2]}"
        )

    @property
    def says(self) -> str:
        """What is taught: the answer, or the text of a row that has none."""
        return str(self.row.answer if self.row.text is None else self.row.text)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models.

    Attributes:
        session: None for the bare base.
        chain: Its sessions, root first.
        taught: The rows in force, by topic, in the order they were taught.
    """

    session: Session | None
    chain: tuple[Session, ...]
    taught: Mapping[str, TaughtRow]

    @property
    def settings(self) -> dict[str, Any]:
        """The values its session was trained with, by name; the base has none."""
        settings = recorded_settings(self._record.get("sizing", {}))
        return {name: setting["value"] for name, setting in settings.items()}

    @property
    def training(self) -> Mapping[str, Any]:
        """The numbers of its training; the base has none."""
        return dict(self._record.get("training", {}))

    @property
    def recall(self) -> dict[str, Mapping[str, Any]]:
        """By session id, how each was recalled when this one was committed."""
        entries = self._record.get("recall", [])
        return {s.id: entry for s, entry in zip(self.chain, entries, strict=False)}

    @property
    def _record(self) -> Mapping[str, Any]:
        return self.session.record if self.session else {}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two sessions, side by side.

    Attributes:
        a: The one.
        b: The other.
        change: From A's weights to B's.
        answers: Of both; None when they were not asked.
    """

    a: Side
    b: Side
    change: Change
    answers: ComparedAnswers | None

    @property
    def is_none(self) -> bool:
        """Tell whether the two are one."""
        return self.a.session == self.b.session

    @property
    def shared(self) -> tuple[Session, ...]:
        """The sessions that both stand on, root first: two chains of a tree begin with them."""
        pairs = zip(self.a.chain, self.b.chain, strict=False)
        return tuple(session for session, other in pairs if session == other)

    @property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """A's and B's value of each setting that differs; None where a side has none."""
        a, b = self.a.settings, self.b.settings
        both = {name: (a.get(name), b.get(name)) for name in {**a, **b}}
        return {name: values for name, values in both.items() if values[0] != values[1]}

    @property
    def only_a(self) -> list[TaughtRow]:
        """The rows that A's chain teaches and B's does not."""
        return [had for topic, had in self.a.taught.items() if topic not in self.b.taught]

    @property
    def only_b(self) -> list[TaughtRow]:
        """The rows that B's chain teaches and A's does not."""
        return [has for topic, has in self.b.taught.items() if topic not in self.a.taught]

    @property
    def changed(self) -> list[tuple[TaughtRow, TaughtRow]]:
        """The rows of A that B teaches with another answer, each with B's."""
        pairs = ((had, self.b.taught.get(topic)) for topic, had in self.a.taught.items())
        return [(had, has) for had, has in pairs if has is not None and has.says != had.says]


def diff(
    store_root: Path, a: str, b: str, *, base: str | None, ask: bool, shown: int | None, say: Say
) -> Difference:
    """Compare two sessions, or a session and the base.

    Args:
        store_root: The store's folder.
        a: A session, ``HEAD`` or ``base``.
        b: Another.
        base: The base model, when not the store's own.
        ask: Load both models, one after the other, and ask them every question taught. Without,
            no model is loaded, and no norm is relative to the base's weights.
        shown: How many answers that differ must be there to be read; None for all.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: There is no such session.
        DamagedStoreError: A session of either chain is not what was committed.
    """
    store = read_store(store_root)
    need_sessions(store)
    left, right = _side(store, a), _side(store, b)
    right = _with_replaced(right, left)
    for note in store.notes:
        say(note)
    if left.session == right.session:
        nothing = ComparedAnswers(probes=(), max_tokens=0) if ask else None
        return Difference(a=left, b=right, change=Change(norms={}), answers=nothing)
    info = locate_base(store, choose_base(store, base), say) if ask else None
    change, answers = _change(left, right, info), None
    if info is not None:
        answers = compare(info, left.chain, right.chain, probes(left, right), shown=shown, say=say)
    return Difference(a=left, b=right, change=change, answers=answers)


def probes(a: Side, b: Side) -> list[Probe]:
    """Return every question in force in either chain: those of both first, then A's, then B's."""
    of_a, of_b = ({t: x.row for t, x in side.taught.items() if x.row.question} for side in (a, b))
    found = [Probe(a=of_a.get(topic), b=of_b.get(topic)) for topic in {**of_a, **of_b}]
    return sorted(found, key=lambda probe: probe.a is None or probe.b is None)


def _side(store: StoreSnapshot, ref: str) -> Side:
    session = store.find(ref)
    chain = store.chain(session)
    in_force = zip(chain, rows_taught_last(read_history(chain)), strict=True)
    taught = {r.topic: TaughtRow(row=r, session=owner) for owner, rows in in_force for r in rows}
    return Side(session=session, chain=tuple(chain), taught=taught)


def _with_replaced(side: Side, other: Side) -> Side:
    """Return a side with the rows that replaced the other's, or were replaced, under its topics."""
    left = {x.row.likeness: topic for topic, x in other.taught.items() if topic not in side.taught}
    taught = {}
    for topic, one in side.taught.items():
        known_as = topic if topic in other.taught else left.get(one.row.likeness, topic)
        had = other.taught.get(known_as)
        is_pair = had is not None and (_replaces(one.row, had.row) or _replaces(had.row, one.row))
        taught[known_as if is_pair else topic] = one
    return replace(side, taught=taught)


def _replaces(row: Row, earlier: Row) -> bool:
    return row.replaces_alike or earlier.replaced_as in row.trace.replaces


def _change(a: Side, b: Side, info: BaseInfo | None) -> Change:
    """Measure the weights; what both chains share is left out, so it cancels exactly."""
    only_a, only_b = ([s for s in x.chain if s not in y.chain] for x, y in ((a, b), (b, a)))
    norms = change_norms(read_adapters(only_a), read_adapters(only_b))
    own = weight_norms(load(info).model, list(norms)) if info else {}
    free_memory()
    return Change(norms=norms, base_norms=own)
