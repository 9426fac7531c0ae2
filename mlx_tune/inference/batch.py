"""The greedy answers to many prompts, several at once, from mlx-lm's batch generator."""

from collections.abc import Sequence
from contextlib import closing

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.inference.generate import room
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.training.packed import can_pack

WIDTH = 32
"""How many answers grow at once: on a CPU a step of 32 costs little more than one of 16."""

MARGIN_TOKENS = 16
"""How much longer than the longest taught answer a generated one may get."""


def answers(
    model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, max_tokens: int
) -> list[list[int]]:
    """Return the greedy answer to each prompt, the token that ends it included where there is one.

    The same tokens as one prompt at a time gives, but for near ties of two tokens: a batch rounds
    differently.

    Args:
        model: Folded, in evaluation mode.
        tokenizer: The base's; its end tokens end an answer.
        prompts: Tokens after which the model answers, at least one each.
        max_tokens: The most to generate for each, at least 1; a longer answer is cut there.

    Returns:
        Tokens by prompt, in order.

    Raises:
        UsageError: A prompt alone is longer than the model can read.
    """
    rooms = [room(model, prompt, max_tokens) for prompt in prompts]
    # Elsewhere mlx-lm may fail or mask wrongly: its gemma2 confuses rows with heads.
    if not can_pack(model):
        pairs = zip(prompts, rooms, strict=True)
        return [_alone(model, tokenizer, prompt, limit) for prompt, limit in pairs]
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.end_ids)],
        completion_batch_size=WIDTH,
        prefill_batch_size=WIDTH,
        # Its own stream belongs to the device that was the default when it was imported.
        stream=mx.default_stream(mx.default_device()),
    )
    with closing(generator):
        numbers = generator.insert([list(prompt) for prompt in prompts], rooms)
        said: dict[int, list[int]] = {number: [] for number in numbers}
        while grown := generator.next_generated():
            for response in grown:
                said[response.uid].append(int(response.token))
    return [said[number] for number in numbers]


def _alone(
    model: nn.Module, tokenizer: Tokenizer, prompt: Sequence[int], max_tokens: int
) -> list[int]:
    """Return one answer where a model's cannot be had side by side."""
    from mlx_lm.generate import generate_step

    said = []
    for token, _ in generate_step(mx.array(list(prompt)), model, max_tokens=max_tokens):
        said.append(int(token))
        if token in tokenizer.end_ids:
            break
    return said
