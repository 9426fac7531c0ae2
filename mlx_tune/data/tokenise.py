"""Turns rows into tokens, with a flag for each token that is supervised."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.data.calls import holds, tool_parts
from mlx_tune.data.noise import noised_questions
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.text import quoted

_SHOWN = 10  # rows that one message names besides the first
_Conversation = tuple[Row, Sequence[Message]]
"""What is rendered, with the row that it is of."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A tokenised row.

    Attributes:
        tokens: Token ids of the row, up to its last supervised token.
        supervised: A flag for each token: True for an answer that is taught and the token that
            ends it.
        place: File and line of the row.
    """

    tokens: tuple[int, ...]
    supervised: tuple[bool, ...]
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the example for the folder of a run."""
        flags = "".join("1" if flag else "0" for flag in self.supervised)
        return {"tokens": list(self.tokens), "supervised": flags, "place": self.place}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Example":
        """Return the example in the folder of a run; the inverse of :meth:`to_json`."""
        return Example(
            tokens=tuple(record["tokens"]),
            supervised=tuple(flag == "1" for flag in record["supervised"]),
            place=record["place"],
        )

    @property
    def first_supervised(self) -> int:
        """Index of the first supervised token."""
        return self.supervised.index(True)

    @property
    def last_answer(self) -> int:
        """Index of the last answer's first token; earlier answers of a conversation are before."""
        return len(self.tokens) - self.supervised[::-1].index(False)


def encode(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
    """Tokenise rows; every answer that is taught and the token that ends it is supervised.

    A chat row is rendered with the base model's chat template, with its tools. As in generation, no
    token has characters of both a prompt and its answer.

    Args:
        rows: Chat rows or text rows.
        tokenizer: The tokenizer of the base model.

    Returns:
        An example for each row, in order.

    Raises:
        InputError: A row contains the text of a special token; or the template refuses a
            conversation, or leaves out a tool, a call or its result; or the rendered prompt of an
            answer is not a prefix of the rendered conversation; or no end token of the model ends
            an answer.
    """
    _refuse_special_texts(rows, tokenizer)
    chats = [row for row in rows if row.text is None]
    numbered = ((row, i, message) for row in chats for i, message in enumerate(row.messages))
    turns = [(row, i) for row, i, one in numbered if one.role == "assistant" and one.is_taught]
    wholes = _render([(row, row.messages) for row in chats], tokenizer, prompts=False)
    prompts = _render([(row, row.messages[:i]) for row, i in turns], tokenizer, prompts=True)
    starts: dict[int, list[str]] = {}
    for (row, _), prompt in zip(turns, prompts, strict=True):
        starts.setdefault(id(row), []).append(prompt)
    whole = {id(row): text for row, text in zip(chats, wholes, strict=True)}
    return [
        _encode_text(row, tokenizer)
        if row.text is not None
        else _encode_chat(row, whole[id(row)], starts[id(row)], tokenizer)
        for row in rows
    ]


def encode_variants(rows: Sequence[Row], tokenizer: Tokenizer) -> list[tuple[Example, ...]]:
    """Tokenise rows in all their wordings, to train on.

    Returns:
        For each row an example as taught, then one for each of its wordings.

    Raises:
        InputError: As for :func:`encode`.
    """
    return _encode_each([row.variants for row in rows], tokenizer)


def encode_noised(
    rows: Sequence[Row], tokenizer: Tokenizer, count: int, *, seed: int
) -> list[tuple[Example, ...]]:
    """Tokenise noised versions of the questions of rows.

    Args:
        rows: All that a model is to hold: no version may be a question with another answer.
        tokenizer: The tokenizer of the base model.
        count: How many versions of a row to make; a row may get fewer, or none.
        seed: Of those.

    Returns:
        For each row its examples.

    Raises:
        InputError: As for :func:`encode`.
    """
    asked = [(row.question, *row.wordings) if row.question is not None else () for row in rows]
    probes = {text for row in rows for text in row.paraphrases}
    answers = [row.answer for row in rows]
    versions = noised_questions(asked, answers, count, seed=seed, reserved=probes)
    noised = zip(rows, versions, strict=True)
    return _encode_each(
        [[row.with_question(text) for text in own] for row, own in noised], tokenizer
    )


def _encode_each(
    groups: Sequence[Sequence[Row]], tokenizer: Tokenizer
) -> list[tuple[Example, ...]]:
    """Tokenise groups of rows, all at once: each time starts a process for the template."""
    examples = iter(encode([row for group in groups for row in group], tokenizer))
    return [tuple(itertools.islice(examples, len(group))) for group in groups]


def encode_paraphrases(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
    """Tokenise every paraphrase with the answer of its row, to evaluate a session with.

    Returns:
        An example for each paraphrase, in the order of the rows.

    Raises:
        InputError: As for :func:`encode`.
    """
    return encode([row.with_question(text) for row in rows for text in row.paraphrases], tokenizer)


def _encode_text(row: Row, tokenizer: Tokenizer) -> Example:
    """Tokenise a text; all tokens but the first are supervised, and an end token is added."""
    tokens = [*tokenizer.encode_plain(str(row.text)), tokenizer.end_id]
    flags = [False] + [True] * (len(tokens) - 1)
    return Example(tokens=tuple(tokens), supervised=tuple(flags), place=row.place)


def _encode_chat(row: Row, whole: str, prompts: Sequence[str], tokenizer: Tokenizer) -> Example:
    """Tokenise a rendered conversation; each answer and the token that ends it is supervised.

    ``whole`` is the rendered conversation, ``prompts`` the rendered prompt of each answer.
    """
    tokens: list[int] = []
    flags: list[bool] = []
    for prompt, until in zip(prompts, [*prompts[1:], whole], strict=True):
        if not whole.startswith(prompt):
            raise InputError(
                f"{row.place}: the base's chat template does not render this conversation as its "
                "prompt followed by its answer; use a base model with another template"
            )
        before = tokenizer.encode(prompt)
        if before[: len(flags)] != tokens[: len(flags)]:  # an earlier answer, now in the prompt
            raise _not_separable(row)
        flags += [False] * (len(before) - len(flags))
        turn = _answer(row, before, prompt, until, tokenizer)
        tokens = before + turn
        ending = next((i for i, t in enumerate(turn) if t in tokenizer.end_ids), None)
        if ending is None:
            raise InputError(
                f"{row.place}: the base's chat template ends an answer with none of the model's "
                "end tokens, so it would never learn to stop; use a base model with another"
            )
        flags += [True] * (ending + 1)
    _refuse_left_out(row, whole, prompts, tokenizer)
    # Tokens after the last answer are not supervised.
    return Example(tokens=tuple(tokens[: len(flags)]), supervised=tuple(flags), place=row.place)


def _answer(
    row: Row, before: Sequence[int], prompt: str, until: str, tokenizer: Tokenizer
) -> list[int]:
    """Return the tokens of an answer after the tokens of its prompt.

    In generation the tokens of the prompt are fixed before the answer. Where the tokens of the
    text up to the end of the answer begin with them, the rest is the answer (a SentencePiece
    tokenizer adds a space to a text encoded alone); where a token has characters of both, the
    answer is encoded alone.
    """
    together = tokenizer.encode(until)
    if together[: len(before)] == list(before):
        return together[len(before) :]
    alone = tokenizer.encode(until[len(prompt) :])
    if tokenizer.decode_raw([*before, *alone]) != tokenizer.decode_raw(together):
        raise _not_separable(row)
    return alone


def _not_separable(row: Row) -> InputError:
    return InputError(
        f"{row.place}: the base's tokenizer cannot part an answer from its prompt; reword how the "
        "answer begins, or use another base model"
    )


def _refuse_special_texts(rows: Sequence[Row], tokenizer: Tokenizer) -> None:
    specials = sorted(tokenizer.special_texts)
    found: dict[str, str] = {}  # a row comes once for each of its wordings
    for row in rows:
        said = [m.text for m in row.messages]
        ids = [call.id for m in row.messages for call in m.tool_calls]
        text = "\n".join([*said, *ids, row.tools, row.text or ""])
        for special in specials:
            if special in text:
                found.setdefault(row.place, special)
    if found:
        (place, special), *others = found.items()
        shown = [f"{where} ({what!r})" for where, what in others[:_SHOWN]]
        if more := len(others) - len(shown):
            shown.append(f"{more:,} more")
        raise InputError(
            f"{place}: {special!r} is a special token of the base model; a row that spells it "
            "would forge the end of a turn, so reword it"
            + (f"; likewise {', '.join(shown)}" if shown else "")
        )


def _refuse_left_out(row: Row, whole: str, prompts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Refuse a row with tools of which the base's template does not render all."""
    if not row.has_tools:
        return
    for what in _left_out(row, whole, prompts, tokenizer):
        raise InputError(
            f"{row.place}: the base's chat template leaves out {what}; use a base model whose "
            "template has it, or leave the row out"
        )


def _left_out(row: Row, whole: str, prompts: Sequence[str], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what a rendered conversation does not say of its tools, their calls and results."""
    ends = [tokenizer.decode_raw([token]) for token in tokenizer.end_ids]
    begins = iter(prompts)
    for name, parts in tool_parts(row.tools):
        if not holds(prompts[0], parts):
            yield f"the tool {quoted(name)}"
    for number, message in enumerate(row.messages, start=1):
        text = whole
        if message.role == "assistant" and message.is_taught:
            text = whole[len(next(begins)) :]
            text = min((text.partition(end)[0] for end in ends), key=len)  # the answer alone
        for call in message.tool_calls:
            if not holds(text, call.parts):
                yield f"the call of {quoted(call.name)} in message {number}"
        if (message.tool_calls or message.tool_call_id) and not holds(
            text, [message.content.strip()]
        ):
            yield f"the text of message {number}"


def _render(
    conversations: Sequence[_Conversation], tokenizer: Tokenizer, *, prompts: bool
) -> list[str]:
    """Render conversations, all at once; where the template refuses one, say of which row."""

    def render(part: Sequence[_Conversation]) -> list[str]:
        return tokenizer.render(
            [[message.for_template() for message in messages] for _, messages in part],
            add_generation_prompt=prompts,
            tools=[row.tools_for_template() for row, _ in part],
        )

    try:
        return render(conversations)
    except InputError:
        if tokenizer.template is None:
            raise
        row, messages = conversations[_first_refused(conversations, render)]
        try:
            render([(row, messages)])
        except InputError as error:
            raise InputError(f"{row.place}: {error}" if row.place else str(error)) from None
        raise  # none by itself, but all together


def _first_refused(
    conversations: Sequence[_Conversation], render: Callable[[Sequence[_Conversation]], object]
) -> int:
    """Return the index of the first conversation that a template refuses, of some it refuses."""
    # First the first alone: a template that loops for ever does so for any, at ten seconds each.
    begin, middle, end = 0, 1, len(conversations)
    while end - begin > 1:
        try:
            render(conversations[begin:middle])
        except InputError:
            end = middle
        else:
            begin = middle
        middle = (begin + end) // 2
    return begin
