"""A conversation: what was said so far, and the next answer."""

from collections.abc import Generator

import mlx.nn as nn

from mlx_tune.inference.generate import stream
from mlx_tune.models.tokenizer import Tokenizer


class Conversation:
    """The turns so far; an answer joins them even when it was stopped midway."""

    def __init__(self, *, max_tokens: int, temperature: float) -> None:
        self.turns: list[dict[str, str]] = []
        self._max_tokens, self._temperature = max_tokens, temperature

    def ask(
        self, model: nn.Module, tokenizer: Tokenizer, question: str
    ) -> Generator[str, None, None]:
        """Yield the answer to a question piece by piece, and remember both.

        Closing the iterator (Ctrl-C) stops the answer; what was said of it is kept.
        """
        # A terminal may hand over bytes that are no text; no tokenizer takes them.
        asked = question.encode("utf-8", errors="replace").decode()
        self.turns.append({"role": "user", "content": asked})
        said: list[str] = []
        try:
            prompt = tokenizer.prompt(self.turns)
            for piece in stream(
                model,
                tokenizer,
                prompt,
                max_tokens=self._max_tokens,
                temperature=self._temperature,
            ):
                said.append(piece.text)
                yield piece.text
        finally:
            if said:
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:  # nothing was answered, so nothing was asked
                self.turns.pop()

    def clear(self) -> None:
        """Forget what was said."""
        self.turns.clear()
