"""What the engine is asked to do, and what it says while it does it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_tune.inference import Logprob, Sampling
from mlx_tune.inference.grammar import Grammar
from mlx_tune.serving.shelf import Choice
from mlx_tune.serving.tools import Offered


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One answer to be made; everything in it was checked.

    Attributes:
        choice: Which model answers.
        prompt: Tokens after which it does, at least one.
        max_tokens: The most to generate; 0 scores the prompt alone.
        sampling: How tokens are drawn.
        stops: Texts that end the answer and are not part of it.
        alternatives: How many likely tokens are told at each step; None for no log-probabilities.
        continues: The answer goes on with the prompt's text, so a first space belongs to it.
        echo: The prompt's text, with which the answer is to begin; None for the answer alone.
        constraint: What the answer is held to.
        offered: Tools that it may call.
    """

    choice: Choice
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    alternatives: int | None = None
    continues: bool = False
    echo: str | None = None
    constraint: Grammar | None = None
    offered: Offered | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A token and what else was likely there; its own likelihood is None for a text's first."""

    chosen: Logprob
    others: tuple[Logprob, ...] = ()
    is_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some of an answer.

    Attributes:
        text: What may be shown now; may be empty.
        steps: The tokens that came, where log-probabilities were asked for.
        finish: Why it is the last: ``stop`` or ``length``; None before that.
        tokens: How many were generated until now.
    """

    text: str
    tokens: int
    steps: tuple[Step, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no answer, or no more of it.

    Attributes:
        message: One line for a person.
        status: As HTTP would say it.
        code: One word for programs.
    """

    message: str
    status: int = 500
    code: str = "internal_error"


Event = Piece | Failure
Deliver = Callable[[Event], None]
"""Takes what comes, on the engine's thread, and never waits."""


@dataclass(eq=False, kw_only=True)
class Job:
    """An ask under way.

    Attributes:
        ask: What is asked.
        deliver: Told every piece; a last one, or a failure, ends it.
        is_cancelled: Nobody is waiting any more.
    """

    ask: Ask
    deliver: Deliver
    is_cancelled: bool = False
