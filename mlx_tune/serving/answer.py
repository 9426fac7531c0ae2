"""One answer as it grows: from tokens to text that may be shown."""

from mlx_tune.inference.batcher import Token
from mlx_tune.inference.logprobs import scored
from mlx_tune.inference.spelling import Spelling
from mlx_tune.inference.stops import Stops
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.job import Job, Piece, Step


class Answer:
    """Puts tokens together, and watches for stop strings."""

    def __init__(self, job: Job, tokenizer: Tokenizer, spelling: Spelling) -> None:
        self.job = job
        self._ends = tokenizer.end_ids
        self._spelling = spelling
        self._text = tokenizer.wrapper.detokenizer
        self._stops = Stops(job.ask.stops)
        self._tokens = 0
        self._waiting: list[Step] = []

    def add(self, token: Token) -> Piece | None:
        """Take a token; return what can be told now, None where that is nothing."""
        self._tokens += 1
        ends = token.finish == "stop" and token.id in self._ends
        if not ends:
            self._score(token)
            self._text.add_token(token.id)
        shown = self._stops.add(self._text.last_segment) if not ends else ""
        finish = token.finish
        if finish is not None and self._stops.found is None:
            self._text.finalize()
            shown += self._stops.add(self._text.last_segment)
        if self._stops.found is not None:
            finish = "stop"
        elif finish is not None:
            shown += self._stops.finish()
        if not shown and finish is None:
            return None
        steps, self._waiting = tuple(self._waiting), []
        return Piece(text=shown, tokens=self._tokens, steps=steps, finish=finish)

    def _score(self, token: Token) -> None:
        wanted = self.job.ask.alternatives
        if wanted is None:
            return
        first = self._tokens == 1
        chosen, others = scored(token.logprobs, token.id, wanted, self._spelling, first=first)
        self._waiting.append(Step(chosen=chosen, others=tuple(others)))
