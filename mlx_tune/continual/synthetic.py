"""Rows that the model writes itself, to rehearse where old rows may not be kept (SSR).

Questions are sampled, so that they differ; answers are greedy, because those are to stay.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Tokenizer

_ROUNDS = 4  # then a model that repeats itself, or never ends, is given up
_MARKER = "Where a person speaks 7f3a"  # a text that no template holds, plain and short


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a model generated after a prompt.

    Attributes:
        text: Without the token that ended it.
        is_finished: The model ended it; False where it was cut.
    """

    text: str
    is_finished: bool


Generate = Callable[[Sequence[Sequence[int]], float, int], list[Continuation]]
"""A model that generates: (prompts in tokens, temperature, seed) to one continuation a prompt.

At temperature 0 it is greedy and the seed changes nothing.
"""


def synthesise(
    tokenizer: Tokenizer, generate: Generate, count: int, *, seed: int, longest: int
) -> list[Row]:
    """Let a folded model write rows: sampled questions with its greedy answers.

    Args:
        tokenizer: The base's.
        generate: The folded model.
        count: How many rows to write.
        seed: Of the questions; the same seed and model give the same rows.
        longest: Rows of more tokens are left out.

    Returns:
        Rows of different topics, each ended, none empty and none with a special token. Fewer than
        ``count`` when the model repeats itself.

    Raises:
        InputError: The base has no chat template, or one that changes what a person says.

    Source:
        Huang et al. 2024, arXiv:2403.01244 (SSR); Xu et al. 2024, arXiv:2406.08464 (Magpie), for
        the questions.
    """
    opening, closing = user_turn(tokenizer)
    rows: dict[str, Row] = {}
    for attempt in range(_ROUNDS):
        missing = count - len(rows)
        if missing <= 0:
            break
        sampled = generate([opening] * missing, 1.0, seed + attempt)
        questions = _questions(sampled, closing, tokenizer.special_texts)
        new = [row for topic, row in questions.items() if topic not in rows]
        rows |= {row.likeness: row for row in _answer(new, tokenizer, generate, longest)}
    return [replace(row, place=f"synthetic row {i}") for i, row in enumerate(rows.values(), 1)]


def user_turn(tokenizer: Tokenizer) -> tuple[list[int], str]:
    """Return what a template puts before a user's text, in tokens, and the text that ends it.

    Raises:
        InputError: There is no template, or it does not print the user's text as it is.
    """
    messages = [{"role": "user", "content": _MARKER}]
    text = tokenizer.render([messages], add_generation_prompt=True)[0]
    if text.count(_MARKER) != 1:
        raise InputError(
            "the base's chat template does not print a person's words once and unchanged, so the "
            "model cannot be asked to write rows; keep the data, or use another base model"
        )
    before, after = text.split(_MARKER)
    # A SentencePiece word carries the space before it, so a space of its own would be one too many.
    # The special token that ends a turn, the longest of several; all that follows without one.
    found = [(after.index(one), -len(one), one) for one in tokenizer.special_texts if one in after]
    return tokenizer.encode(before.rstrip(" ")), min(found)[2] if found else after.strip()


def _questions(
    sampled: Iterable[Continuation], closing: str, specials: frozenset[str]
) -> dict[str, Row]:
    """Return the questions by topic: finished, not empty, free of special tokens."""
    found: dict[str, Row] = {}
    for one in sampled:
        text, end, _ = one.text.partition(closing) if closing else (one.text, "", "")
        if (end or one.is_finished) and _is_plain(text, specials):
            row = Row(messages=(Message(role="user", content=text.strip()),))
            found.setdefault(row.likeness, row)
    return found


def _answer(
    rows: Sequence[Row], tokenizer: Tokenizer, generate: Generate, longest: int
) -> list[Row]:
    """Return questions with the model's greedy answers, as far as these can be taught."""
    if not rows:
        return []
    conversations = [[{"role": "user", "content": row.messages[0].content}] for row in rows]
    texts = tokenizer.render(conversations, add_generation_prompt=True)
    prompts = [tokenizer.encode(text) for text in texts]
    answered = []
    for row, prompt, one in zip(rows, prompts, generate(prompts, 0.0, 0), strict=True):
        length = len(prompt) + len(tokenizer.encode(one.text)) + 1  # and the token that ends it
        if one.is_finished and length <= longest and _is_plain(one.text, tokenizer.special_texts):
            answer = Message(role="assistant", content=one.text.strip())
            answered.append(Row(messages=(*row.messages, answer)))
    return answered


def _is_plain(text: str, specials: Iterable[str]) -> bool:
    return bool(text.strip()) and not any(special in text for special in specials)
