"""Keys and values of what was read before, so that a prompt that begins alike is not read again."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import mlx.core as mx


class PrefixCache:
    """The states after some token sequences of one model; the longest unused go first.

    Attributes:
        bytes_held: What is kept.
        tokens_saved: Tokens that need not be read, since the start.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most so many bytes; 0 keeps nothing."""
        self._limit = limit_bytes
        self._kept: OrderedDict[tuple[int, ...], list[Any]] = OrderedDict()
        self.bytes_held = 0
        self.tokens_saved = 0

    def find(self, prompt: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Return the state after the longest known beginning of a prompt, and its length.

        At least one token is left over, for the model answers after one that it reads.
        """
        best, length = None, 0
        for tokens in self._kept:
            shared = _common(tokens, prompt[:-1])
            if shared > length:
                best, length = tokens, shared
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        self.tokens_saved += length
        return [_cut(layer, length) for layer in self._kept[best]], length

    def keep(self, tokens: Sequence[int], layers: Sequence[Any]) -> None:
        """Keep the state after some tokens, in place of those after their beginnings."""
        if not self._limit or not all(_can_cut(layer) for layer in layers):
            return
        size = sum(layer.nbytes for layer in layers)
        if size > self._limit:
            return
        key = tuple(tokens)
        for old in [old for old in self._kept if old == key[: len(old)]]:
            self._drop(old)
        # Or the arrays would hold the whole batch that they were taken from.
        mx.eval([(layer.keys, layer.values) for layer in layers])
        self._kept[key] = list(layers)
        self.bytes_held += size
        while self.bytes_held > self._limit:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self.bytes_held = 0

    def _drop(self, tokens: tuple[int, ...]) -> None:
        self.bytes_held -= sum(layer.nbytes for layer in self._kept.pop(tokens))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many first elements two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _can_cut(layer: Any) -> bool:
    """Tell whether a layer's state after fewer tokens is its beginning: no sliding window's is."""
    from mlx_lm.models.cache import KVCache

    return type(layer) is KVCache


def _cut(layer: Any, length: int) -> Any:
    """Return the state after fewer tokens; the layer stays as it is."""
    from mlx_lm.models.cache import KVCache

    part = KVCache()
    part.state = (layer.keys[..., :length, :], layer.values[..., :length, :], length)
    return part
