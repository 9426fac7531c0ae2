"""Synthetic: old rows are written by the model itself, for when they may not be kept.

Paper:
    Huang et al. 2024, arXiv:2403.01244 (SSR: rehearsal on rows that the model wrote); Xu et al.
    2024, arXiv:2406.08464 (Magpie: an aligned model, shown the template up to where a person's
    words would stand, writes them itself); Chen et al. 2024, arXiv:2411.07175 (REMIX: even rows
    that have nothing to do with the old facts, mixed in, help to keep them).
Idea:
    What the model can still say of the past is asked of it before it learns something new.
    Questions are drawn, so that they differ; answers are the likeliest, since these are to stay.
Equation:
    question ~ p(· | the template's opening),  answer = argmax p(· | question), token by token
    loss = mean over the supervised tokens of new ∪ synthetic rows of −log p(token)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mlx_tune.continual.methods.method import Method
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Tokenizer

METHOD = Method(name="synthetic", synthesises=True)

_ROUNDS = 4  # then a model that repeats itself, or never ends, has had its chances
_MARKER = "Where a person speaks 7f3a"  # a text that no template holds, plain and short


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model said after a prompt.

    Attributes:
        text: Without the token that ended it.
        ended: The model came to an end by itself; False where it was cut.
    """

    text: str
    ended: bool


Speak = Callable[[Sequence[Sequence[int]], float, int], list[Said]]
"""What a model says: (prompts in tokens, temperature, seed) to one text a prompt.

At temperature 0 it takes the likeliest token each time and the seed changes nothing.
"""


def synthesise(
    tokenizer: Tokenizer, speak: Speak, count: int, *, seed: int, longest: int
) -> list[Row]:
    """Let a folded model write rows: questions it draws, and its likeliest answers to them.

    Args:
        tokenizer: The base's.
        speak: The folded model.
        count: How many rows to write.
        seed: Of the questions; the same seed and model give the same rows.
        longest: A row of more tokens is left out.

    Returns:
        Rows of different topics, each ended, none empty or spelling a special token. Fewer than
        ``count`` when the model has no more to say.

    Raises:
        InputError: The base has no chat template, or one that changes what a person says.
    """
    opening, closing = user_turn(tokenizer)
    rows: dict[str, Row] = {}
    for attempt in range(_ROUNDS):
        missing = count - len(rows)
        if missing <= 0:
            break
        drawn = speak([opening] * missing, 1.0, seed + attempt)
        asked = _questions(drawn, closing, tokenizer.special_texts)
        new = {topic: row for topic, row in asked.items() if topic not in rows}
        rows |= {row.topic: row for row in _answered(new.values(), tokenizer, speak, longest)}
    return [replace(row, place=f"synthetic row {i}") for i, row in enumerate(rows.values(), 1)]


def user_turn(tokenizer: Tokenizer) -> tuple[list[int], str]:
    """Return what a template puts before a person's words, in tokens, and the text that ends them.

    Raises:
        InputError: There is no template, or it does not print what a person says as it is.
    """
    said = [{"role": "user", "content": _MARKER}]
    text = tokenizer.render([said], add_generation_prompt=True)[0]
    if text.count(_MARKER) != 1:
        raise InputError(
            "the base's chat template does not print a person's words once and unchanged, so the "
            "model cannot be asked to write rows; keep the data, or use another base model"
        )
    before, after = text.split(_MARKER)
    # A SentencePiece word carries the space before it, so a space of its own would be one too many.
    return tokenizer.encode(before.rstrip(" ")), _first_sign(after, tokenizer.special_texts)


def _first_sign(after: str, specials: Iterable[str]) -> str:
    """Return the special token that ends a turn, or all that follows where there is none."""
    found = [
        (after.index(special), -len(special), special) for special in specials if special in after
    ]
    return min(found)[2] if found else after.strip()


def _questions(drawn: Iterable[Said], closing: str, specials: frozenset[str]) -> dict[str, Row]:
    """Return what was asked, by topic: whole, not empty, free of special tokens."""
    found: dict[str, Row] = {}
    for said in drawn:
        text, sign, _ = said.text.partition(closing) if closing else (said.text, "", "")
        if (sign or said.ended) and _is_plain(text, specials):
            row = Row(messages=(Message(role="user", content=text.strip()),))
            found.setdefault(row.topic, row)
    return found


def _answered(asked: Iterable[Row], tokenizer: Tokenizer, speak: Speak, longest: int) -> list[Row]:
    """Return the questions with the model's likeliest answers, as far as these can be taught."""
    questions = list(asked)
    conversations = [[{"role": "user", "content": row.messages[0].content}] for row in questions]
    texts = tokenizer.render(conversations, add_generation_prompt=True)
    prompts = [tokenizer.encode(text) for text in texts]
    rows = []
    for question, prompt, said in zip(questions, prompts, speak(prompts, 0.0, 0), strict=True):
        length = len(prompt) + len(tokenizer.encode(said.text)) + 1  # and the token that ends it
        if said.ended and length <= longest and _is_plain(said.text, tokenizer.special_texts):
            answer = Message(role="assistant", content=said.text.strip())
            rows.append(Row(messages=(*question.messages, answer)))
    return rows


def _is_plain(text: str, specials: Iterable[str]) -> bool:
    return bool(text.strip()) and not any(special in text for special in specials)
