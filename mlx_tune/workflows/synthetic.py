"""Rows that a folded model writes itself, where the old ones may not be kept."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_tune.continual.methods.synthetic import Said, Speak, synthesise
from mlx_tune.data.rows import Row
from mlx_tune.inference.batch import answers
from mlx_tune.inference.generate import stream
from mlx_tune.workflows.folded import FoldedModel


def written_by(folded: FoldedModel, count: int, *, seed: int, longest: int) -> list[Row]:
    """Let a folded model write rows of questions and answers.

    Args:
        folded: The model as it is before it learns something new.
        count: How many rows.
        seed: Of the questions.
        longest: Longest row, in tokens.

    Returns:
        ``count`` rows, or fewer when the model repeats itself or does not come to an end.

    Raises:
        InputError: The base has no chat template, or one that changes what a person says.
    """
    speak = speaker(folded, max_tokens=longest)
    return synthesise(folded.tokenizer, speak, count, seed=seed, longest=longest)


def speaker(folded: FoldedModel, *, max_tokens: int) -> Speak:
    """Return a folded model as something that speaks: likeliest texts at once, drawn ones singly.

    Args:
        folded: The model.
        max_tokens: Longer texts are cut there.
    """

    def speak(prompts: Sequence[Sequence[int]], temperature: float, seed: int) -> list[Said]:
        if temperature == 0:
            said = answers(folded.model, folded.tokenizer, prompts, max_tokens=max_tokens)
            return [_read(folded, tokens) for tokens in said]
        mx.random.seed(seed)  # the sampler draws from MLX's own state; training never does
        return [_drawn(folded, prompt, max_tokens, temperature) for prompt in prompts]

    return speak


def _read(folded: FoldedModel, tokens: Sequence[int]) -> Said:
    """Return generated tokens as text, without the one that ended them."""
    ended = bool(tokens) and tokens[-1] in folded.tokenizer.end_ids
    return Said(text=folded.tokenizer.decode_raw(tokens[:-1] if ended else tokens), ended=ended)


def _drawn(folded: FoldedModel, prompt: Sequence[int], max_tokens: int, temperature: float) -> Said:
    pieces = list(
        stream(
            folded.model,
            folded.tokenizer,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
        )
    )
    ended = bool(pieces) and pieces[-1].finish == "stop"
    return Said(text="".join(piece.text for piece in pieces), ended=ended)
