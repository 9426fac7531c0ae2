"""One answer to be generated, and its text as it grows: what requests and the engine exchange."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_tune.inference import (
    GeneratedToken,
    Logprob,
    Sampling,
    StopStrings,
    StreamingDetokenizer,
    TokenBytes,
    token_logprobs,
)
from mlx_tune.inference.grammar import Grammar, GrammarProcessor
from mlx_tune.serving.errors import ApiError, internal_error
from mlx_tune.serving.registry import RegisteredModel
from mlx_tune.serving.tools import ToolSet


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One answer to be generated; everything in it was checked.

    Attributes:
        prompt: Token ids, at least one.
        max_tokens: The most to generate; 0 scores the prompt alone.
        stops: Texts that end the answer and are not part of it.
        top_logprobs: How many likely tokens to return at each step; None for no log-probabilities.
        continues: The answer continues the prompt's text, so a first space belongs to it.
        is_repeat: Another answer to the prompt of the one before, as `n` asks for.
        echo: The prompt's text, with which the answer is to begin; None for the answer alone.
    """

    model: RegisteredModel
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    continues: bool = False
    is_repeat: bool = False
    echo: str | None = None
    grammar: Grammar | None = None
    tools: ToolSet | None = None


@dataclass(frozen=True, kw_only=True)
class TokenStep:
    """A token and what else was likely there; a text's first token has no likelihood."""

    chosen: Logprob
    others: tuple[Logprob, ...] = ()
    is_first: bool = False


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    """What was added to an answer.

    Attributes:
        text: What may be shown now; may be empty.
        tokens: How many were generated until now.
        steps: The tokens that came, where log-probabilities were asked for.
        finish: Why it is the last: ``stop`` or ``length``; None before that.
    """

    text: str
    tokens: int
    steps: tuple[TokenStep, ...] = ()
    finish: str | None = None


Event = TextDelta | ApiError


@dataclass(eq=False, kw_only=True)
class GenerationJob:
    """A request under way.

    Attributes:
        deliver: Called with every event on the engine's thread, so it must not wait; a last delta
            or an error ends the job.
        is_cancelled: Nobody is waiting any more.
    """

    request: GenerationRequest
    deliver: Callable[[Event], None]
    is_cancelled: bool = False


class AnswerBuilder:
    """Turns an answer's tokens into text that may be shown, and watches for stop strings."""

    def __init__(
        self, job: GenerationJob, token_bytes: TokenBytes, grammar: GrammarProcessor | None
    ) -> None:
        self.job = job
        self._token_bytes, self._grammar = token_bytes, grammar
        self._text = StreamingDetokenizer(token_bytes, continues=job.request.continues)
        self._stops = StopStrings(job.request.stops)
        self._tokens = 0
        self._untold: list[TokenStep] = []

    def add(self, token: GeneratedToken) -> Event | None:
        """Take a token; return what can be sent now, None where that is nothing."""
        self._tokens += 1
        if self._grammar is not None and self._grammar.problem:
            return internal_error(self._grammar.problem)
        shown, finish = "", token.finish_reason
        # lm-eval asks for one token more than it scores and drops the last entry, so that the token
        # that ends a text needs an entry of its own. In conversations OpenAI shows none.
        if self.job.request.continues or finish != "stop":
            self._score(token)
        if finish != "stop":  # the token that ends a turn is not part of the text
            shown = self._stops.add(self._text.add(token.token))
        if finish is not None:
            shown += self._stops.add(self._text.finish()) + self._stops.finish()
        if self._stops.found is not None:
            finish = "stop"
        if not shown and finish is None:
            return None
        steps, self._untold = tuple(self._untold), []
        return TextDelta(text=shown, tokens=self._tokens, steps=steps, finish=finish)

    def _score(self, token: GeneratedToken) -> None:
        wanted = self.job.request.top_logprobs
        if wanted is None:
            return
        is_first = self._tokens == 1 and not self.job.request.continues
        chosen, others = token_logprobs(
            token.logprobs, token.token, wanted, self._token_bytes, first=is_first
        )
        self._untold.append(TokenStep(chosen=chosen, others=tuple(others)))
