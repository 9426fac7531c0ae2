"""Scores of a model without generating, and exact paired tests of two scores.

Recall needs one forward pass. With the taught answer as input, the argmax at every answer position
equals the taught token exactly when greedy generation would produce that answer, because generation
has the same input as long as it has followed the answer. (Two kernels may round a near tie of two
tokens differently; in float32, on tiny models and on the real one, tests found both ways equal.)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_tune.data.tokenise import Example
from mlx_tune.errors import NotFiniteError
from mlx_tune.training.adapter import Factors
from mlx_tune.training.batches import collate, shared_prefix
from mlx_tune.training.generic import Network, network
from mlx_tune.training.loss import cross_entropy

_ROWS = 16  # a forward pass; more gains nothing on a CPU
_LOGITS_BYTES = 1 << 28  # a forward pass; 16 long answers over 128,256 words would be 4 GB


@dataclass(frozen=True, kw_only=True)
class Miss:
    """Where a greedy answer leaves the taught one.

    Attributes:
        at: Index, among an example's tokens, of the first token of its last answer that is not the
            model's first choice. Before it the greedy answer is the taught one.
        token: The model's first choice there.
    """

    at: int
    token: int


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How well a set of examples is known.

    Attributes:
        verbatim: One flag an example: True where every answer token is the model's argmax.
        token_accuracy: Share of answer tokens that are.
        loss: Mean over answer tokens, nats per token.
        losses: Sum over each example's answer tokens, nats; empty when read from a record.
        max_token_losses: The largest loss of each example's answer tokens, nats; likewise. Below
            ln 2 every token has a probability over one half, so it is the argmax.
        misses: Where each example's greedy answer leaves the taught one, None where it does not;
            likewise. Earlier answers of a conversation are given, as they are in use.
    """

    verbatim: tuple[bool, ...]
    token_accuracy: float
    loss: float
    losses: tuple[float, ...] = ()
    max_token_losses: tuple[float, ...] = ()
    misses: tuple[Miss | None, ...] = ()

    @property
    def asked(self) -> int:
        """How many examples were scored."""
        return len(self.verbatim)

    @property
    def right(self) -> int:
        """How many are known verbatim."""
        return sum(self.verbatim)

    @property
    def rate(self) -> float:
        """Share known verbatim, 0 to 1; 0 of none is 0."""
        return self.right / self.asked if self.asked else 0.0


def score(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    forward: Network | None = None,
    factors: Factors | None = None,
) -> Recall:
    """Score examples by the model's argmax at every supervised token.

    Args:
        model: The model as it is used: folded, in evaluation mode.
        examples: Questions with the taught answers.
        forward: The model as a function, where there is one already, as in training.
        factors: Of an adapter beside the weights; None for none.

    Returns:
        The flags in the order of the examples.

    Raises:
        NotFiniteError: The model computes no finite loss.
    """
    forward = forward or network(model)
    prefix = shared_prefix(examples) if forward.shares_prefix else ()
    verbatim = np.ones(len(examples), dtype=bool)
    losses, largest = np.zeros(len(examples)), np.zeros(len(examples))
    misses: list[Miss | None] = [None] * len(examples)
    right = tokens = 0
    for chosen in _passes(examples, vocabulary=model.args.vocab_size):
        part = [examples[i] for i in chosen]
        batch = collate(part, prefix)
        taught = sum(sum(example.supervised) for example in part)  # the rest is padding
        logits, targets = forward.logits(factors or {}, batch)[:taught], batch.targets[:taught]
        choices = np.array(mx.argmax(logits, axis=-1))
        hits = choices == np.array(targets)
        nats = np.array(cross_entropy(logits, targets), dtype=np.float64)
        right, tokens = right + int(hits.sum()), tokens + hits.size
        begin = 0
        for i, example in zip(chosen, part, strict=True):
            count = sum(example.supervised)
            own = slice(begin, begin + count)
            verbatim[i] = hits[own].all()
            losses[i], largest[i] = nats[own].sum(), nats[own].max()
            misses[i] = _first_miss(example, hits[own], choices[own])
            begin += count
    if not np.isfinite(losses).all():
        raise NotFiniteError(
            "the model's answers are not finite numbers; train again with a lower --learning-rate"
        )
    return Recall(
        verbatim=tuple(verbatim.tolist()),
        token_accuracy=right / tokens if tokens else 0.0,
        loss=float(losses.sum()) / tokens if tokens else 0.0,
        losses=tuple(losses.tolist()),
        max_token_losses=tuple(largest.tolist()),
        misses=tuple(misses),
    )


def _first_miss(example: Example, hits: np.ndarray, choices: np.ndarray) -> Miss | None:
    """Return the first miss of an example's last answer.

    Args:
        example: With n supervised tokens.
        hits: bool (n,), whether each is the model's first choice.
        choices: int (n,), the first choices.
    """
    answer = len(example.tokens) - example.last_answer  # the last answer's tokens are the last
    wrong = np.flatnonzero(~hits[-answer:])
    if not wrong.size:
        return None
    first = int(wrong[0])
    return Miss(at=example.last_answer + first, token=int(choices[-answer:][first]))


def _passes(examples: Sequence[Example], *, vocabulary: int) -> Iterator[list[int]]:
    """Yield indices of examples of similar length, few enough that their logits stay bounded."""
    room = _LOGITS_BYTES // (4 * vocabulary)
    chosen: list[int] = []
    tokens = 0
    for i in sorted(range(len(examples)), key=lambda i: len(examples[i].tokens)):
        taught = sum(examples[i].supervised)
        if chosen and (len(chosen) == _ROWS or tokens + taught > room):
            yield chosen
            chosen, tokens = [], 0
        chosen.append(i)
        tokens += taught
    if chosen:
        yield chosen


@dataclass(frozen=True, kw_only=True)
class PairedChanges:
    """How many of the same questions do worse than before, and how many better.

    Were nothing lost, a change for the worse would be as likely as one for the better, so their
    number follows a binomial distribution with p = 1/2.

    Attributes:
        worse: Questions that did better before.
        better: Questions that do better now; those that do the same are in neither number.
    """

    worse: int
    better: int

    @property
    def p(self) -> float:
        """The two-sided exact p-value, 1 where nothing changed.

        The sums are of whole numbers, so it is exact for any number of changes. The exact test is
        conservative (Fagerland et al. 2013), which here means that a person is asked.
        """
        changes = self.worse + self.better
        ways = tail = 1
        for k in range(min(self.worse, self.better)):
            ways = ways * (changes - k) // (k + 1)  # the binomial coefficient, one k further
            tail += ways
        return min(2 * tail / 2**changes, 1.0)  # an even split counts its middle twice

    def is_loss(self, significance: float) -> bool:
        """Tell whether more do worse than better, significantly.

        Args:
            significance: The level that p has to be below, 0 to 1.
        """
        return self.worse > self.better and self.p < significance


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> PairedChanges:
    """Compare which questions were, and are, answered right.

    Args:
        before: One flag a question.
        after: The same questions in the same order.

    Raises:
        ValueError: They are not equally many.

    Source:
        McNemar 1947, Psychometrika 12:153-157; the exact form as in Fagerland, Lydersen and Laake
        2013, BMC Medical Research Methodology 13:91.
    """
    pairs = list(zip(before, after, strict=True))
    return PairedChanges(
        worse=sum(had and not has for had, has in pairs),
        better=sum(has and not had for had, has in pairs),
    )


def sign_test(before: Sequence[float], after: Sequence[float]) -> PairedChanges:
    """Compare losses; a higher one is worse, equal ones say nothing.

    Args:
        before: One loss a question, in nats.
        after: The same questions in the same order.

    Raises:
        ValueError: They are not equally many.

    Source:
        Dixon and Mood 1946, Journal of the American Statistical Association 41:557-566.
    """
    pairs = list(zip(before, after, strict=True))
    return PairedChanges(
        worse=sum(has > had for had, has in pairs),
        better=sum(has < had for had, has in pairs),
    )


@dataclass(frozen=True, kw_only=True)
class GeneralChange:
    """The rise of the loss on the base's own greedy answers to general questions.

    ΔG = Σᵢ nowᵢ / Σᵢ tokensᵢ − Σᵢ baseᵢ / Σᵢ tokensᵢ, where nowᵢ and baseᵢ are the losses of probe
    i's answer, summed over its tokens. 0 for the base itself; negative where the model gives those
    answers a higher probability than the base. The answers are greedy, not sampled, so this is no
    estimate of a divergence.

    Attributes:
        nats_per_token: ΔG; 0 of no tokens.
        asked: How many probes it is measured on.
        changes: How many probes have a higher loss than with the base, and how many a lower one.
        kinds: The same of each kind of probe alone, by its name; empty where they have none.

    Source:
        After the general-ability delta of Wang et al. 2023 (TRACE), arXiv:2310.06762, in nats
        instead of accuracies.
    """

    nats_per_token: float
    asked: int
    changes: PairedChanges
    kinds: Mapping[str, "GeneralChange"] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what a record keeps."""
        own = {"nats_per_token": self.nats_per_token, "asked": self.asked}
        kinds = {name: change.nats_per_token for name, change in self.kinds.items()}
        changes = {"rose": self.changes.worse, "fell": self.changes.better}
        return {**own, **changes, **({"kinds": kinds} if kinds else {})}


def general_change(
    base: Sequence[float],
    now: Sequence[float],
    tokens: Sequence[int],
    kinds: Sequence[str] = (),
) -> GeneralChange:
    """Return how the loss of answers changed from one model to another.

    Args:
        base: The base's loss of each probe's answer, nats, summed over its tokens.
        now: The model's, likewise.
        tokens: How many tokens each answer has.
        kinds: Of each probe, to be told apart by; none to tell none apart.

    Raises:
        ValueError: They are not of one length.
    """
    rises = [after - before for before, after, _ in zip(base, now, tokens, strict=True)]
    total = sum(tokens)
    parts: dict[str, list[tuple[float, float, int]]] = {}
    for kind, before, after, count in zip(kinds, base, now, tokens, strict=True) if kinds else ():
        parts.setdefault(kind, []).append((before, after, count))
    return GeneralChange(
        nats_per_token=math.fsum(rises) / total if total else 0.0,
        asked=len(rises),
        changes=sign_test(base, now),
        kinds={kind: general_change(*zip(*part, strict=True)) for kind, part in parts.items()},
    )
