"""Many answers grow side by side: requests come and go between two tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.inference.prefix_cache import PrefixCache
from mlx_tune.inference.sampling import Processor, Sampler
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.training.packed import can_pack

WIDTH = 32
"""How many answers grow at once, at most."""
_PREFILL_TOKENS = 512  # read in one go, so that other answers do not wait long


@dataclass(frozen=True, kw_only=True)
class Token:
    """One more token of an answer.

    Attributes:
        number: Which answer's, as :meth:`Batcher.add` returned it.
        id: The token.
        logprobs: Log-probabilities that it was drawn from, float32 (vocabulary,).
        finish: Why it is the last: ``stop`` (it ends the turn) or ``length``; None before that.
    """

    number: int
    id: int
    logprobs: mx.array
    finish: str | None


class Batcher:
    """Continuous batching with one model, through mlx-lm's ``BatchGenerator``.

    All calls are one thread's: MLX's streams belong to the thread that made them.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, *, width: int = WIDTH, prefix_bytes: int = 0
    ) -> None:
        """Take a folded model in evaluation mode.

        Args:
            model: Any of mlx-lm's.
            tokenizer: The base's; its end tokens end an answer.
            width: Answers that grow at once, at most.
            prefix_bytes: Of keys and values kept for prompts that begin alike.
        """
        from mlx_lm.generate import BatchGenerator

        # Elsewhere mlx-lm may fail or mask wrongly: its gemma2 confuses rows with heads.
        self.width = width if can_pack(model) else 1
        # And where a rope turns by the length of the text, no prefix is like another.
        self.prefixes = PrefixCache(prefix_bytes if can_pack(model) else 0)
        self._prompts: dict[int, int] = {}
        self._generator = BatchGenerator(
            model,
            stop_tokens=[[token] for token in sorted(tokenizer.end_ids)],
            completion_batch_size=self.width,
            prefill_batch_size=min(self.width, 8),
            prefill_step_size=_PREFILL_TOKENS,
            # Its own stream belongs to the thread that imported it.
            stream=mx.default_stream(mx.default_device()),
        )

    def __len__(self) -> int:
        """Return how many answers are not finished."""
        return len(self._prompts)

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampler: Sampler,
        processors: Sequence[Processor] = (),
    ) -> int:
        """Begin an answer, and return its number.

        Args:
            prompt: At least one token.
            max_tokens: At least 1.
            sampler: Draws a token.
            processors: Change the logits before.
        """
        layers, known = self.prefixes.find(prompt)
        (number,) = self._generator.insert(
            [list(prompt[known:])],
            [max_tokens],
            caches=[layers] if layers else None,
            all_tokens=[list(prompt[:known])],
            samplers=[sampler],
            logits_processors=[list(processors)],
        )
        self._prompts[number] = known
        return int(number)

    def known(self, number: int) -> int:
        """Return how many tokens of an unfinished answer's prompt were known from before."""
        return self._prompts[number]

    def remove(self, numbers: Sequence[int]) -> None:
        """End answers before they are whole."""
        there = [number for number in numbers if self._prompts.pop(number, None) is not None]
        if there:
            self._generator.remove(there)

    def step(self) -> list[Token]:
        """Read some more of the prompts, or let every answer grow by a token."""
        _, grown = self._generator.next()
        return [self._token(response) for response in grown]

    def _token(self, response: Any) -> Token:
        if response.finish_reason is not None:
            self._prompts.pop(response.uid, None)
            self.prefixes.keep(response.all_tokens, response.prompt_cache)
        return Token(
            number=int(response.uid),
            id=int(response.token),
            logprobs=response.logprobs,
            finish=response.finish_reason,
        )

    def close(self) -> None:
        """Give back what the generator holds."""
        self._generator.close()
        self.prefixes.clear()
