"""Answers to questions that are given at once: one streamed, or a list of them in batches.

A model is in evaluation mode, its adapters folded in; a tokenizer is the base's, and any of its end
tokens ends an answer; a prompt is token ids, at least one.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.errors import UsageError
from mlx_tune.inference.batcher import BATCH_SIZE
from mlx_tune.inference.sampling import Sampler, Sampling
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.training.packed import can_pack

MARGIN_TOKENS = 16
"""How many tokens a generated answer may have more than the longest taught one."""
_SCORED_TOKENS = 128  # whose logits are held at once


@dataclass(frozen=True, kw_only=True)
class GeneratedText:
    """A part of an answer.

    Attributes:
        text: The text since the part before; may be empty.
        finish_reason: Of the last part: ``stop`` (the model ended its turn) or ``length``.
    """

    text: str
    finish_reason: str | None


def stream(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
) -> Iterator[GeneratedText]:
    """Yield the answer to a prompt as it is generated; temperature 0 takes the likeliest tokens.

    Raises:
        UsageError: The prompt alone fills the model's context.
    """
    from mlx_lm.generate import stream_generate
    from mlx_lm.sample_utils import make_sampler

    for response in stream_generate(
        model,
        tokenizer.wrapper,
        list(prompt),
        max_tokens=max_new_tokens(model, prompt, max_tokens),
        sampler=make_sampler(temp=temperature),
    ):
        yield GeneratedText(text=response.text, finish_reason=response.finish_reason)


def batch_generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    sampling: Sequence[Sampling] = (),
) -> list[list[int]]:
    """Return the answer to each prompt, with the token that ends it if there is one.

    The tokens are those of one prompt at a time, except where two tokens are nearly as likely: a
    batch rounds differently. mlx-lm's own ``batch_generate`` leaves the end token out, so that a
    caller could not tell which of several it was.

    Args:
        model: The model.
        tokenizer: The base's.
        prompts: Token ids, at least one each.
        max_tokens: The longest answer: one number for all, or one for each, at least 1.
        sampling: How each answer is sampled, penalties aside; all are greedy where none is given.

    Returns:
        Token ids of each answer, at most as many, in the order of the prompts.

    Raises:
        UsageError: A prompt alone fills the model's context.
    """
    most = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    limits = [max_new_tokens(model, p, limit) for p, limit in zip(prompts, most, strict=True)]
    samplers = [one.sampler() for one in sampling or [Sampling()] * len(prompts)]
    # mlx-lm may fail on other architectures, or mask wrongly: its gemma2 confuses rows with heads.
    if not can_pack(model):
        jobs = zip(prompts, limits, samplers, strict=True)
        return [_generate_one(model, tokenizer, *job) for job in jobs]
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.end_ids)],
        completion_batch_size=BATCH_SIZE,
        prefill_batch_size=BATCH_SIZE,
        # The default stream of mlx-lm belongs to the device that was the default at its import.
        stream=mx.default_stream(mx.default_device()),
    )
    with closing(generator):
        uids = generator.insert([list(p) for p in prompts], limits, samplers=samplers)
        answers: dict[int, list[int]] = {uid: [] for uid in uids}
        while responses := generator.next_generated():
            for response in responses:
                answers[response.uid].append(int(response.token))
    return [answers[uid] for uid in uids]


def _generate_one(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_tokens: int,
    sampler: Sampler,
) -> list[int]:
    from mlx_lm.generate import generate_step

    answer = []
    for token, _ in generate_step(
        mx.array(list(prompt)), model, max_tokens=max_tokens, sampler=sampler
    ):
        answer.append(int(token))
        if token in tokenizer.end_ids:
            break
    return answer


class Conversation:
    """The turns so far; an answer that was stopped midway is kept as one of them.

    Attributes:
        turns: The messages, as a chat template takes them.
        is_cut: The last answer ended at the most tokens, not where the model ended its turn.
    """

    def __init__(self, *, max_tokens: int, temperature: float) -> None:
        self.turns: list[dict[str, str]] = []
        self.is_cut = False
        self._max_tokens, self._temperature = max_tokens, temperature

    def ask(
        self, model: nn.Module, tokenizer: Tokenizer, question: str
    ) -> Generator[str, None, None]:
        """Yield the text of the answer to a question, and keep both as turns.

        Closing the iterator (Ctrl-C) stops the answer; the text until then is kept.
        """
        # A terminal may pass bytes that are no UTF-8, which no tokenizer takes.
        content = question.encode("utf-8", errors="replace").decode()
        self.turns.append({"role": "user", "content": content})
        answer: list[str] = []
        self.is_cut = False
        try:
            prompt = tokenizer.prompt(self.turns)
            for part in stream(
                model, tokenizer, prompt, max_tokens=self._max_tokens, temperature=self._temperature
            ):
                answer.append(part.text)
                self.is_cut = part.finish_reason == "length"
                yield part.text
        finally:
            if answer:
                self.turns.append({"role": "assistant", "content": "".join(answer)})
            else:  # a question without an answer would put two user turns in a row
                self.turns.pop()

    def clear(self) -> None:
        """Forget all turns."""
        self.turns.clear()


def prompt_logprobs(model: nn.Module, prompt: Sequence[int]) -> Iterator[mx.array]:
    """Yield the log-probabilities that each token of a prompt but the first came from.

    Yields:
        float32 (vocabulary,), for token 1, 2, …
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    inputs = prompt[:-1]
    for start in range(0, len(inputs), _SCORED_TOKENS):
        tokens = mx.array([list(inputs[start : start + _SCORED_TOKENS])])
        logits = model(tokens, cache=cache)[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        mx.eval(logprobs)
        yield from logprobs


def max_new_tokens(model: nn.Module, prompt: Sequence[int], max_tokens: int) -> int:
    """Return how many tokens may be generated: ``max_tokens``, or what the context leaves.

    Raises:
        UsageError: The prompt alone fills the model's context.
    """
    context = context_tokens(model)
    if context and len(prompt) >= context:
        raise UsageError(
            f"the conversation is {len(prompt)} tokens long and the model reads {context}; "
            "ask less at once, or start afresh (/clear in a chat)"
        )
    return min(max_tokens, context - len(prompt)) if context else max_tokens


def context_tokens(model: nn.Module) -> int | None:
    """Return how many tokens a model reads, its answer's included; None if it does not say."""
    return getattr(model.args, "max_position_embeddings", None) or None
