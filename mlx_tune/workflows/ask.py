"""Asks a model of the store: a list of questions, several at once, or a conversation.

An answer that is expected is met when the model's is the same token for token, its end included.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError, UsageError
from mlx_tune.inference import BATCH_SIZE, Conversation, batch_generate, context_tokens
from mlx_tune.models.bases import Say
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import read_store
from mlx_tune.workflows.workspace import (
    FoldedModel,
    bare_base_note,
    choose_base,
    find_session,
    load_folded,
    locate_base,
    open_workspace,
)


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """A question and the model's answer.

    Attributes:
        question: The last message to the model.
        answer: Its greedy answer.
        is_cut: The answer was cut at the most tokens.
        expected: The answer that a data file gives; None where there is none.
        verbatim: The answer is that one, token for token, end included; None without one.
        place: The question's file and line.
    """

    question: str
    answer: str
    is_cut: bool
    expected: str | None
    verbatim: bool | None
    place: str


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A question in tokens, and those of the expected answer; none if none is expected."""

    row: Row
    tokens: tuple[int, ...]
    expected: tuple[int, ...] = ()


def load_model(store_root: Path, *, session: str | None, base: str | None, say: Say) -> FoldedModel:
    """Load the model that is to answer.

    Args:
        store_root: The store.
        session: A reference to a session, ``base``, or None for HEAD.
        base: The base asked for; None for the store's.
        say: Called, in a line, with what a person should know.
    """
    opened = open_workspace(store_root, session=session, base=base, say=say)
    if not opened.chain and session is None:  # a mistyped store must not pass for a trained one
        say(bare_base_note(store_root))
    return load_folded(opened.info, opened.chain)


def ask(
    folded: FoldedModel, rows: Sequence[Row], *, max_tokens: int, say: Say
) -> Iterator[AnswerRecord]:
    """Yield the greedy answer to each question, in order, as soon as its batch is through.

    Args:
        folded: The model that answers.
        rows: Questions, each with or without the answer that is expected.
        max_tokens: The longest answer.
        say: Called with how many expected answers are longer than that.

    Raises:
        InputError: A question is longer than the model can read, or the base's template or
            tokenizer cannot take it; before anything is asked.
    """
    prompts = _prompts(rows, folded.tokenizer)
    context = context_tokens(folded.model)
    for prompt in prompts:
        if context and len(prompt.tokens) >= context:
            raise InputError(
                f"{prompt.row.place}: the question is {len(prompt.tokens)} tokens long and the "
                f"model reads {context}, its answer included; shorten it"
            )
    if longer := sum(len(prompt.expected) > max_tokens for prompt in prompts):
        longest = max(len(prompt.expected) for prompt in prompts)
        say(
            f"note: --max-tokens {max_tokens} cuts {longer} of the expected answers; "
            f"the longest has {longest}"
        )
    return _answers(folded, prompts, max_tokens)


def _answers(
    folded: FoldedModel, prompts: Sequence[_Prompt], max_tokens: int
) -> Iterator[AnswerRecord]:
    tokenizer, ends = folded.tokenizer, folded.tokenizer.end_ids
    for begin in range(0, len(prompts), BATCH_SIZE):
        several = prompts[begin : begin + BATCH_SIZE]
        questions = [prompt.tokens for prompt in several]
        answers = batch_generate(folded.model, tokenizer, questions, max_tokens=max_tokens)
        for prompt, answer in zip(several, answers, strict=True):
            row, expected = prompt.row, prompt.expected
            yield AnswerRecord(
                question=row.question or row.messages[-1].text,
                answer=tokenizer.decode([token for token in answer if token not in ends]),
                is_cut=not ends.intersection(answer[-1:]),
                expected=row.answer if expected else None,
                verbatim=tuple(answer) == expected if expected else None,
                place=row.place,
            )


def _prompts(rows: Sequence[Row], tokenizer: Tokenizer) -> list[_Prompt]:
    """Tokenise questions, all of a kind at once: each time starts a process for the template."""
    examples = iter(tokenise.encode([row for row in rows if row.question is not None], tokenizer))
    bare = [row for row in rows if row.question is None]
    turns = [[message.for_template() for message in row.messages] for row in bare]
    tools = [row.tools_for_template() for row in bare]
    texts = iter(tokenizer.render(turns, add_generation_prompt=True, tools=tools))
    prompts = []
    for row in rows:
        if row.question is None:
            prompts.append(_Prompt(row=row, tokens=tuple(tokenizer.encode(next(texts)))))
            continue
        example = next(examples)
        tokens, begin = example.tokens, example.last_answer
        prompts.append(_Prompt(row=row, tokens=tokens[:begin], expected=tokens[begin:]))
    return prompts


class Chat:
    """A conversation; it is kept when another session goes on answering.

    Args:
        root: The store's folder.
        base: The base model, when not the store's own.
        session: Who answers: a session, ``base``, or None for HEAD.
        max_tokens: The longest answer, in tokens.
        temperature: 0 takes the likeliest token each time.
        say: Told, in a line, what a person should know.

    Raises:
        UsageError: There is no such session.
        DamagedStoreError: A session of its chain is not what was committed.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """

    def __init__(
        self,
        root: Path,
        base: str | None,
        *,
        session: str | None,
        max_tokens: int,
        temperature: float,
        say: Say,
    ) -> None:
        opened = open_workspace(root, session=session, base=base, say=say)
        self._root, self._base, self._say, self._info = root, base, say, opened.info
        self._conversation = Conversation(max_tokens=max_tokens, temperature=temperature)
        self._folded: FoldedModel | None = load_folded(opened.info, opened.chain)

    @property
    def chain(self) -> tuple[Session, ...]:
        """The sessions folded into the model that answers, root first."""
        return self._folded.chain if self._folded else ()

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages so far, as a chat template takes them."""
        return list(self._conversation.turns)

    @property
    def is_cut(self) -> bool:
        """Whether the last answer was cut at the most tokens, or where the model's context ends."""
        return self._conversation.is_cut

    @property
    def answering(self) -> str:
        """Who answers, for a person."""
        names = " → ".join(session.name for session in self.chain)
        return f"{self._info.name} + {names}" if names else f"{self._info.name} (the bare base)"

    def switch(self, session: str | None) -> None:
        """Let another session answer; the store is read again, for it may have changed.

        Args:
            session: A session, ``base``, or None for HEAD.

        Raises:
            UsageError: There is no such session.
            DamagedStoreError: A session of its chain is not what was committed.
            IncompatibleError: The store was replaced by one of another base than was asked for.
        """
        store = read_store(self._root)
        chain = store.chain(find_session(store, session))
        for note in store.notes:
            self._say(note)
        kept = store.base()
        if kept and kept["fingerprint"] != self._info.fingerprint:  # another store lies there now
            self._info = locate_base(store, choose_base(store, self._base), self._say)
        self._folded = None  # two models at once may not fit
        self._folded = load_folded(self._info, chain)

    def clear(self) -> None:
        """Start a new conversation."""
        self._conversation.clear()

    def stream(self, question: str) -> Generator[str, None, None]:
        """Yield the answer as it is generated; closing the iterator stops it.

        Raises:
            UsageError: No model is loaded, because the last switch failed, or the conversation
                fills the model's context.
        """
        if self._folded is None:
            raise UsageError("no model is loaded; /base or /session N loads one")
        return self._conversation.ask(self._folded.model, self._folded.tokenizer, question)

    def ask(self, question: str) -> str:
        """Return the whole answer to a question.

        Raises:
            UsageError: As for :meth:`stream`.
        """
        return "".join(self.stream(question))
