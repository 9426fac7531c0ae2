"""One answer as it grows: from tokens to text that may be shown."""

from mlx_tune.inference import (
    GeneratedToken,
    StopStrings,
    StreamingDetokenizer,
    TokenBytes,
    token_logprobs,
)
from mlx_tune.inference.grammar import GrammarProcessor
from mlx_tune.serving.job import Failure, Job, Piece, Step


class Answer:
    """Puts tokens together, and watches for stop strings."""

    def __init__(self, job: Job, token_bytes: TokenBytes, grammar: GrammarProcessor | None) -> None:
        self.job = job
        self._token_bytes, self._grammar = token_bytes, grammar
        self._text = StreamingDetokenizer(token_bytes, continues=job.ask.continues)
        self._stops = StopStrings(job.ask.stops)
        self._tokens = 0
        self._untold: list[Step] = []

    def add(self, token: GeneratedToken) -> Piece | Failure | None:
        """Take a token; return what can be told now, None where that is nothing."""
        self._tokens += 1
        if self._grammar is not None and self._grammar.problem:
            return Failure(message=self._grammar.problem)
        shown = ""
        ends = token.finish_reason == "stop"
        # lm-eval asks for one token more than it scores and drops the last entry, so that the token
        # that ends a text needs an entry of its own. In conversations OpenAI shows none.
        if self.job.ask.continues or not ends:
            self._score(token)
        if not ends:  # the token that ends a turn is none of the text
            shown = self._stops.add(self._text.add(token.token))
        finish = token.finish_reason
        if finish is not None:
            shown += self._stops.add(self._text.finish()) + self._stops.finish()
        if self._stops.found is not None:
            finish = "stop"
        if not shown and finish is None:
            return None
        steps, self._untold = tuple(self._untold), []
        return Piece(text=shown, tokens=self._tokens, steps=steps, finish=finish)

    def _score(self, token: GeneratedToken) -> None:
        wanted = self.job.ask.alternatives
        if wanted is None:
            return
        is_first = self._tokens == 1 and not self.job.ask.continues
        chosen, others = token_logprobs(
            token.logprobs, token.token, wanted, self._token_bytes, first=is_first
        )
        self._untold.append(Step(chosen=chosen, others=tuple(others)))
