"""What was said so far in answer to one request, and what it took."""

from collections.abc import Sequence

from mlx_tune.serving.job import Ask, Piece, Step


class Tally:
    """Adds up the pieces of several answers.

    Attributes:
        texts: Of each answer.
        steps: Its tokens, where log-probabilities were asked for.
        finish: Why it ended; None while it has not.
    """

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.texts = [""] * len(asks)
        self.steps: list[list[Step]] = [[] for _ in asks]
        self.finish: list[str | None] = [None] * len(asks)
        self._generated = [0] * len(asks)
        # Answers to one prompt read it once, as OpenAI counts it.
        self._read = sum(map(len, {ask.prompt for ask in asks}))

    def add(self, number: int, piece: Piece) -> None:
        """Take what came of an answer."""
        self.texts[number] += piece.text
        self.steps[number] += piece.steps
        self.finish[number] = piece.finish
        self._generated[number] = max(self._generated[number], piece.tokens)

    def usage(self) -> dict[str, int]:
        """Return the tokens read and generated."""
        generated = sum(self._generated)
        return {
            "prompt_tokens": self._read,
            "completion_tokens": generated,
            "total_tokens": self._read + generated,
        }
