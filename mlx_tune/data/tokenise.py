"""Turns rows into tokens, with a mark on each token that the model is to learn to say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row as the model meets it.

    Attributes:
        tokens: The whole row, up to its last supervised token.
        supervised: One flag a token: True where the token is an answer's or ends it.
        place: The row's file and line.
    """

    tokens: tuple[int, ...]
    supervised: tuple[bool, ...]
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a run keeps of an example that no row stands for."""
        flags = "".join("1" if flag else "0" for flag in self.supervised)
        return {"tokens": list(self.tokens), "supervised": flags, "place": self.place}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Example":
        """Return the example a run keeps; the inverse of :meth:`to_json`."""
        return Example(
            tokens=tuple(record["tokens"]),
            supervised=tuple(flag == "1" for flag in record["supervised"]),
            place=record["place"],
        )

    @property
    def first_supervised(self) -> int:
        """Index of the first supervised token."""
        return self.supervised.index(True)


def encode(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
    """Tokenise rows: every assistant turn and the token that ends it is supervised.

    A chat row is what the base's template makes of it and nothing more. An answer's tokens follow
    its prompt's, as in generation: no token straddles the two.

    Args:
        rows: Checked rows, chat or text.
        tokenizer: The base model's.

    Returns:
        One example a row, in order.

    Raises:
        InputError: A row spells a special token, or the template's prompt for an answer is not a
            prefix of the whole, or an answer is not ended by one of the model's end tokens.
    """
    _refuse_special_texts(rows, tokenizer)
    chats = [row for row in rows if row.text is None]
    turns = [(row, i) for row in chats for i in _assistant_turns(row)]
    wholes = tokenizer.render([_messages(row) for row in chats], add_generation_prompt=False)
    prompts = tokenizer.render([_messages(row)[:i] for row, i in turns], add_generation_prompt=True)
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


def _encode_text(row: Row, tokenizer: Tokenizer) -> Example:
    """Supervise a text throughout; its first token has nothing before it to be predicted from."""
    tokens = [*tokenizer.encode_plain(str(row.text)), tokenizer.end_id]
    flags = [False] + [True] * (len(tokens) - 1)
    return Example(tokens=tuple(tokens), supervised=tuple(flags), place=row.place)


def _encode_chat(row: Row, whole: str, prompts: Sequence[str], tokenizer: Tokenizer) -> Example:
    """Tokenise a rendered conversation and mark each answer with the token that ends it."""
    tokens: list[int] = []
    flags: list[bool] = []
    for prompt, until in zip(prompts, [*prompts[1:], whole], strict=True):
        if not whole.startswith(prompt):
            raise InputError(
                f"{row.place}: the base's chat template does not render this conversation as its "
                "prompt followed by its answer; use a base model with another template"
            )
        before = tokenizer.encode(prompt)
        if before[: len(flags)] != tokens[: len(flags)]:  # an earlier answer, read as history
            raise _inseparable(row)
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
    # What follows the last answer teaches nothing.
    return Example(tokens=tuple(tokens[: len(flags)]), supervised=tuple(flags), place=row.place)


def _answer(
    row: Row, before: Sequence[int], prompt: str, until: str, tokenizer: Tokenizer
) -> list[int]:
    """Return the tokens of an answer as they follow a prompt.

    Generation fixes the prompt's tokens before the answer has any, so those are kept. Where the
    whole text happens to be tokenised as the prompt's tokens and more, the rest is the answer
    (a SentencePiece tokenizer would put a space before a piece encoded alone); where a token
    straddles the two, the answer is encoded by itself.
    """
    together = tokenizer.encode(until)
    if together[: len(before)] == list(before):
        return together[len(before) :]
    alone = tokenizer.encode(until[len(prompt) :])
    if tokenizer.decode_raw([*before, *alone]) != tokenizer.decode_raw(together):
        raise _inseparable(row)
    return alone


def _inseparable(row: Row) -> InputError:
    return InputError(
        f"{row.place}: the base's tokenizer cannot part an answer from its prompt; reword how the "
        "answer begins, or use another base model"
    )


def _refuse_special_texts(rows: Sequence[Row], tokenizer: Tokenizer) -> None:
    for row in rows:
        said = "\n".join([*(m.content for m in row.messages), row.text or ""])
        for special in sorted(tokenizer.special_texts):
            if special in said:
                raise InputError(
                    f"{row.place}: {special!r} is a special token of the base model; a row that "
                    "spells it would forge the end of a turn, so reword it"
                )


def probes(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
    """Tokenise every paraphrase with its row's answer: what a session is scored on later.

    Raises:
        InputError: As for :func:`encode`.
    """
    return encode([row.with_question(text) for row in rows for text in row.paraphrases], tokenizer)


def _assistant_turns(row: Row) -> list[int]:
    return [i for i, message in enumerate(row.messages) if message.role == "assistant"]


def _messages(row: Row) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in row.messages]
