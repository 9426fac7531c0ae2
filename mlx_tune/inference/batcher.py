"""Continuous batching: answers come and go between two tokens, and share the prefixes they read."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.inference.sampling import LogitsProcessor, Sampler
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.training.packed import can_pack

BATCH_SIZE = 32
"""Answers that are generated at once: on a CPU a step of 32 costs little more than one of 16."""
_PREFILL_STEP_TOKENS = 512  # read in one go, so that other answers do not wait long


@dataclass(frozen=True, kw_only=True)
class GeneratedToken:
    """A new token of an answer.

    Attributes:
        uid: Which answer it belongs to, as :meth:`Batcher.add` returned it.
        token: Its id.
        logprobs: The log-probabilities it was sampled from, (vocabulary,), in the model's dtype.
        finish_reason: Of the last token: ``stop`` (it ends the turn) or ``length``.
    """

    uid: int
    token: int
    logprobs: mx.array
    finish_reason: str | None


class Batcher:
    """Continuous batching with one model, through mlx-lm's ``BatchGenerator``.

    All calls come from one thread: MLX's streams belong to the thread that made them.

    Args:
        model: Any of mlx-lm's, in evaluation mode, its adapters folded in.
        tokenizer: The base's; any of its end tokens ends an answer.
        prefix_bytes: The most bytes of keys and values to keep for prompts that begin alike.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, prefix_bytes: int = 0) -> None:
        from mlx_lm.generate import BatchGenerator

        # mlx-lm may fail on other architectures, or mask wrongly: its gemma2 confuses rows with
        # heads. And where RoPE depends on the length of the text, no prefix can be reused.
        is_batched = can_pack(model)
        self.prefixes = PrefixCache(prefix_bytes if is_batched else 0)
        self._cached_tokens: dict[int, int] = {}
        self._generator = BatchGenerator(
            model,
            stop_tokens=[[token] for token in sorted(tokenizer.end_ids)],
            completion_batch_size=BATCH_SIZE if is_batched else 1,
            prefill_batch_size=8 if is_batched else 1,
            prefill_step_size=_PREFILL_STEP_TOKENS,
            # The default stream of mlx-lm belongs to the thread that imported it.
            stream=mx.default_stream(mx.default_device()),
        )

    def __len__(self) -> int:
        """Return how many answers are not finished."""
        return len(self._cached_tokens)

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampler: Sampler,
        processors: Sequence[LogitsProcessor] = (),
    ) -> int:
        """Begin an answer, and return its uid.

        Args:
            prompt: Token ids, at least one.
            max_tokens: The most to generate, at least 1.
            sampler: Chooses each token.
            processors: Change the logits before that.
        """
        cache, length = self.prefixes.fetch(prompt)
        (uid,) = self._generator.insert(
            [list(prompt[length:])],
            [max_tokens],
            caches=[cache] if cache else None,
            all_tokens=[list(prompt[:length])],
            samplers=[sampler],
            logits_processors=[list(processors)],
        )
        self._cached_tokens[uid] = length
        return int(uid)

    def cached_tokens(self, uid: int) -> int:
        """Return how many tokens of an unfinished answer's prompt came from the prefix cache."""
        return self._cached_tokens[uid]

    def remove(self, uids: Sequence[int]) -> None:
        """End answers that are not finished; others are left out."""
        unfinished = [uid for uid in uids if self._cached_tokens.pop(uid, None) is not None]
        if unfinished:
            self._generator.remove(unfinished)

    def step(self) -> list[GeneratedToken]:
        """Read a part of the prompts, or generate a token of every answer."""
        found = []
        for response in self._generator.next()[1]:
            if response.finish_reason is not None:
                self._cached_tokens.pop(response.uid, None)
                self.prefixes.insert(response.all_tokens, response.prompt_cache)
            token = GeneratedToken(
                uid=int(response.uid),
                token=int(response.token),
                logprobs=response.logprobs,
                finish_reason=response.finish_reason,
            )
            found.append(token)
        return found

    def close(self) -> None:
        """Free what the generator and the prefix cache hold."""
        self._generator.close()
        self.prefixes.clear()


class PrefixCache:
    """Keys and values after some token sequences of one model, least recently used out first.

    mlx-lm's ``LRUPromptCache`` differs: it evicts by age of insertion, not of use; it copies a
    cache before it trims it; and one entry above the limit evicts all others.

    Args:
        max_bytes: The most to keep; 0 keeps nothing.

    Attributes:
        nbytes: Size of what is kept.
        tokens_saved: Tokens that did not have to be read, since the start.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._caches: OrderedDict[tuple[int, ...], list[Any]] = OrderedDict()
        self.nbytes = 0
        self.tokens_saved = 0

    def fetch(self, prompt: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Return the cache of the longest known prefix of a prompt, and that prefix's length.

        The last token is never part of it, for the model has to read one before it answers.
        """
        best, length = None, 0
        for tokens in self._caches:
            shared = _shared_length(tokens, prompt[:-1])
            if shared > length:
                best, length = tokens, shared
        if best is None:
            return None, 0
        self._caches.move_to_end(best)
        self.tokens_saved += length
        return [_trimmed(layer, length) for layer in self._caches[best]], length

    def insert(self, tokens: Sequence[int], cache: Sequence[Any]) -> None:
        """Keep the cache after some tokens, in place of those after prefixes of them."""
        if not self._max_bytes or not all(_can_trim(layer) for layer in cache):
            return
        nbytes = sum(layer.nbytes for layer in cache)
        if nbytes > self._max_bytes:
            return
        key = tuple(tokens)
        for prefix in [known for known in self._caches if known == key[: len(known)]]:
            self._drop(prefix)
        # Unevaluated slices would keep alive the whole batch that they were taken from.
        mx.eval([(layer.keys, layer.values) for layer in cache])
        self._caches[key] = list(cache)
        self.nbytes += nbytes
        while self.nbytes > self._max_bytes:
            self._drop(next(iter(self._caches)))

    def clear(self) -> None:
        """Free everything."""
        self._caches.clear()
        self.nbytes = 0

    def _drop(self, tokens: tuple[int, ...]) -> None:
        self.nbytes -= sum(layer.nbytes for layer in self._caches.pop(tokens))


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def _can_trim(layer: Any) -> bool:
    """Tell whether the cache of a prefix is a slice; of a sliding window it is not."""
    from mlx_lm.models.cache import KVCache

    return type(layer) is KVCache


def _trimmed(layer: Any, length: int) -> Any:
    """Return a layer's cache after fewer tokens; the layer itself stays as it is."""
    from mlx_lm.models.cache import KVCache

    part = KVCache()
    part.state = (layer.keys[..., :length, :], layer.values[..., :length, :], length)
    return part
