"""Asks a model of the store a list of questions, several at once, and yields answers in order.

An answer that is expected is met when the model's is the same token for token, its end included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.data import tokenise
from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError
from mlx_tune.inference import BATCH_SIZE, batch_generate, context_tokens
from mlx_tune.models.bases import Say
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.workspace import FoldedModel, load_folded, open_workspace


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """A question and what the model said to it.

    Attributes:
        question: The last thing said to the model.
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
    """A question in tokens.

    Attributes:
        row: Where it is from.
        tokens: Everything before the answer.
        expected: The answer's tokens, the one that ends it included; none if none is expected.
    """

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
        say(f"note: no session is in use in {store_root}, so the bare base answers")
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
    _check_lengths(prompts, context_tokens(folded.model))
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
    for begin in range(0, len(prompts), BATCH_SIZE):
        several = prompts[begin : begin + BATCH_SIZE]
        questions = [prompt.tokens for prompt in several]
        found = batch_generate(folded.model, folded.tokenizer, questions, max_tokens=max_tokens)
        for prompt, tokens in zip(several, found, strict=True):
            yield _answer_record(prompt, tokens, folded.tokenizer)


def _answer_record(prompt: _Prompt, answer: Sequence[int], tokenizer: Tokenizer) -> AnswerRecord:
    is_answered = bool(prompt.expected)
    return AnswerRecord(
        question=prompt.row.question or prompt.row.messages[-1].content,
        answer=tokenizer.decode([token for token in answer if token not in tokenizer.end_ids]),
        is_cut=not tokenizer.end_ids.intersection(answer[-1:]),
        expected=prompt.row.answer if is_answered else None,
        verbatim=tuple(answer) == prompt.expected if is_answered else None,
        place=prompt.row.place,
    )


def _prompts(rows: Sequence[Row], tokenizer: Tokenizer) -> list[_Prompt]:
    """Tokenise questions, all of a kind at once: each time starts a process for the template."""
    answered = [row for row in rows if row.question is not None]
    bare = [row for row in rows if row.question is None]
    examples = iter(tokenise.encode(answered, tokenizer))
    turns = [[vars(message) for message in row.messages] for row in bare]
    texts = iter(tokenizer.render(turns, add_generation_prompt=True))
    return [
        _with_answer(row, next(examples))
        if row.question is not None
        else _Prompt(row=row, tokens=tuple(tokenizer.encode(next(texts))))
        for row in rows
    ]


def _with_answer(row: Row, example: tokenise.Example) -> _Prompt:
    """Part the last answer from what comes before it, earlier answers included."""
    begin = len(example.tokens) - example.supervised[::-1].index(False)
    return _Prompt(row=row, tokens=example.tokens[:begin], expected=example.tokens[begin:])


def _check_lengths(prompts: Sequence[_Prompt], context: int | None) -> None:
    for prompt in prompts:
        if context and len(prompt.tokens) >= context:
            raise InputError(
                f"{prompt.row.place}: the question is {len(prompt.tokens)} tokens long and the "
                f"model reads {context}, its answer included; shorten it"
            )
