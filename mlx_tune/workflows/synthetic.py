"""Rows that a folded model writes itself, where the old ones may not be kept."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_tune.continual.methods.synthetic import Said, Speak, synthesise
from mlx_tune.data.rows import Row
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
    """Return a folded model as something that speaks, a prompt at a time.

    Args:
        folded: The model.
        max_tokens: Longer texts are cut there.
    """

    def speak(prompts: Sequence[Sequence[int]], temperature: float, seed: int) -> list[Said]:
        mx.random.seed(seed)  # the sampler draws from MLX's own state; training never does
        return [_said(folded, prompt, max_tokens, temperature) for prompt in prompts]

    return speak


def _said(folded: FoldedModel, prompt: Sequence[int], max_tokens: int, temperature: float) -> Said:
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
