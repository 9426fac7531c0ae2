"""The methods that limit forgetting, as one table: paper, idea, equation, and what each changes.

`settings.METHODS` owns their names, because a setting lists its choices; a test compares the two.
How they do, measured side by side, is in `docs/methods.md`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import mlx.core as mx

from mlx_tune.continual.gate import SEVERITY, Decision
from mlx_tune.errors import UsageError
from mlx_tune.store.session import PROMOTE
from mlx_tune.training.adapter import Adapter, Factors

_Session = TypeVar("_Session")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to learn new rows without forgetting old ones; the defaults are those of rehearsal.

    Attributes:
        name: As a person gives it.
        paper: Where it comes from.
        idea: Why it limits forgetting.
        equation: What is minimised, or what the weights become.
        replay: The default of ``--replay`` with this method.
        folds_newest_only: The new adapter is trained on base + the newest adapter, not on base +
            all adapters.
        distils: Old rows are trained towards the distribution that the folded model predicts, not
            towards the taught tokens.
        penalty_weight: Weight λ of the orthogonality penalty, dimensionless; 0 for none.
        searches_scale: The gate searches a multiplier β of the newest change.
        synthesises: The model writes the old rows itself.
    """

    name: str
    paper: str
    idea: str
    equation: str
    replay: str = "auto"
    folds_newest_only: bool = False
    distils: bool = False
    penalty_weight: float = 0.0
    searches_scale: bool = False
    synthesises: bool = False

    def stands_on(self, chain: Sequence[_Session]) -> Sequence[_Session]:
        """Return the sessions that are folded underneath the new one, root first.

        Args:
            chain: The sessions from the root to HEAD, or one item for each of them.
        """
        return chain[-1:] if self.folds_newest_only else chain

    def penalty(self, factors: Factors, past: Sequence[Adapter]) -> mx.array:
        """Return what is added to the loss of a step, its weight included, float32 ().

        It depends on no row, so its gradient is taken once a step, not once a micro-batch.

        Args:
            factors: Of the adapter in training, by module path.
            past: The adapters it stands on.
        """
        if not self.penalty_weight:
            return mx.array(0.0)
        return self.penalty_weight * overlap(factors, past)


_TABLE = (
    Method(
        name="rehearsal",
        paper=(
            "Scialom et al. 2022, arXiv:2205.12393 (a language model learns task after task with "
            "some of the old data mixed in); Rolnick et al. 2019, arXiv:1811.11682 (experience "
            "replay); Ibrahim et al. 2024, arXiv:2403.08763 (the same in pre-training)."
        ),
        idea=(
            "Old rows are trained again among the new ones, so the old loss is still minimised. "
            "The fold predicts the old rows already, so few passes are enough. Which rows come, "
            "and how many an epoch, is decided in continual/rehearse.py."
        ),
        equation="loss = mean over the supervised tokens of new ∪ old rows of −log p(token)",
    ),
    Method(
        name="none",
        paper=(
            "Luo et al. 2023, arXiv:2308.08747, measure what this forgets; Lialin et al. 2023, "
            "arXiv:2307.05695 (ReLoRA), fold and start a fresh adapter likewise, on one data set."
        ),
        idea="The chain is folded and the new rows are trained alone: the control.",
        equation=(
            "loss = mean over the supervised tokens of the new rows of −log p(token); "
            "W_t = W_0 + Σ_{i ≤ t} scale_i (A_i B_i)ᵀ"
        ),
        replay="none",
    ),
    Method(
        name="seed",
        paper="None: a program that loads only its newest adapter trains this way.",
        idea=(
            "Each session stands on the base and the newest adapter, so a third session no longer "
            "stands on the first. Kept for comparison."
        ),
        equation="W_t = W_0 + scale_{t−1} (A_{t−1} B_{t−1})ᵀ + scale_t (A_t B_t)ᵀ",
        replay="none",
        folds_newest_only=True,
    ),
    Method(
        name="self_distill",
        paper=(
            "Li and Hoiem 2016, arXiv:1606.09282 (learning without forgetting). Yang et al. 2024, "
            "arXiv:2402.13669 (SDFT), also let a model be its own teacher, by answers it rewrites."
        ),
        idea=(
            "On old rows the model is held to its own predictions from before the session. The "
            "teacher is the folded model: the student with its adapter scaled to 0, so no second "
            "model is held. A distribution constrains the model more than the taught token does."
        ),
        # The paper softens both with a temperature of 2, which raises the unlikely tokens. It is 1
        # here: an answer is known when its likeliest tokens are kept.
        equation=(
            "loss = Σ_n w_n KL(p_n ‖ q_n), KL(p ‖ q) = Σ_v p_v (log p_v − log q_v), "
            "p = softmax(teacher), q = softmax(student), so d loss / d student = w (q − p)"
        ),
        distils=True,
    ),
    Method(
        name="orthogonal",
        paper="Wang et al. 2023, arXiv:2310.14152 (O-LoRA).",
        idea=(
            "An adapter changes the output for inputs that lie along the columns of its A. With "
            "the new columns orthogonal to every old one, the new change is zero wherever an old "
            "change acts."
        ),
        # The squares are the paper's. Its published code adds up absolute values, whose gradient
        # is as large close to a right angle as far from it. Measured on SmolLM2-135M after one
        # session (rank 8): 41 from the first step to the last, where the task's is 0.8, so that
        # clipping the norm to 1 leaves the task next to nothing of A. The squares' falls from 1.3
        # to 0.02, and the angles come out the same. That code also has a term for the size of A
        # and B, whose weight its scripts set to 0.
        equation="loss = −log p(new) + λ Σ_modules Σ_past Σ_jk (A_pastᵀ A)_jk², λ = 0.5",
        replay="none",
        penalty_weight=0.5,
    ),
    Method(
        name="synthetic",
        paper=(
            "Huang et al. 2024, arXiv:2403.01244 (SSR: rehearsal on rows that the model wrote); "
            "Xu et al. 2024, arXiv:2406.08464 (Magpie: an aligned model, given the template up to "
            "the user's text, writes that text itself); Chen et al. 2024, arXiv:2411.07175 "
            "(REMIX: mixing in even unrelated rows helps to keep old facts)."
        ),
        idea=(
            "Where old rows may not be kept, the model writes rows of what it still knows before "
            "it is trained on new ones; see continual/synthetic.py."
        ),
        equation=(
            "question ~ p(· | the template's opening), answer = argmax p(· | question), token by "
            "token; loss = mean over the supervised tokens of new ∪ synthetic rows of −log p(token)"
        ),
        synthesises=True,
    ),
    Method(
        name="soup",
        paper=(
            "Wortsman et al. 2021, arXiv:2109.01903 (weights before and after fine-tuning, "
            "interpolated); Wortsman et al. 2022, arXiv:2203.05482 (model soups)."
        ),
        idea=(
            "On the line from the weights before a session to those after it, a point often knows "
            "the new rows and still the old ones. The adapter is linear, so its scale times β is "
            "that point, and nothing is trained for it. The training itself is rehearsal's."
        ),
        equation="W(β) = W_{t−1} + β scale_t (A_t B_t)ᵀ, 0 < β ≤ 1",
        searches_scale=True,
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _TABLE}
"""By name; the first is the default."""


def find_method(name: str) -> Method:
    """Return a method by its name; ``self-distill`` is as good as ``self_distill``.

    Raises:
        UsageError: There is no such method.
    """
    found = METHODS.get(name.replace("-", "_"))
    if found is None:
        near = difflib.get_close_matches(name[:40].replace("-", "_").casefold(), METHODS, n=1)
        fix = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(METHODS)}"
        raise UsageError(f"{name[:40]!r} is not a method of remembering; {fix}")
    return found


def overlap(factors: Factors, past: Sequence[Adapter]) -> mx.array:
    """Return how far an adapter's A is from orthogonal to earlier ones: Σ (A_pastᵀ A)², float32 ().

    Args:
        factors: By module path; ``lora_a`` float32 (in_dims, rank).
        past: Earlier adapters of any rank; a module that one lacks adds nothing.

    Source:
        Wang et al. 2023, arXiv:2310.14152 (O-LoRA).
    """
    total = mx.array(0.0)
    for path, (lora_a, _) in factors.items():
        for adapter in past:
            if path in adapter.factors:
                total = total + mx.square(adapter.factors[path][0].T @ lora_a).sum()
    return total


BETAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Below a half most new rows are lost, and training again with more rehearsal is better."""


def search_beta(
    judge: Callable[[float], Decision], *, betas: Sequence[float] = BETAS
) -> tuple[float, Mapping[float, Decision]]:
    """Return the largest β that is promoted, else the best one.

    The best is the least severe verdict, then the highest worst share kept, then the highest
    backward transfer, then the smallest rise on general questions, then the largest β.

    Args:
        judge: Scores the model with the newest change times β, and decides. Called from the
            largest β down, and no more once one is promoted.
        betas: Which to try, in any order, each above 0 and at most 1.

    Returns:
        β, and the decision of each that was tried, in the order tried.

    Raises:
        ValueError: No β is given.
    """
    judged: dict[float, Decision] = {}
    for beta in sorted(set(betas), reverse=True):
        judged[beta] = judge(beta)
        if judged[beta].verdict == PROMOTE:
            return beta, judged
    return max(judged, key=lambda beta: (_merit(judged[beta]), beta)), judged


def _merit(decision: Decision) -> tuple[float, float, float, float]:
    """Return what is compared, higher is better.

    All decisions of a search lack the same values, so what stands in for them never decides.
    """
    worst, backward, general = decision.worst, decision.verbatim.backward, decision.general
    return (
        -SEVERITY[decision.verdict],
        float(worst.share) if worst else 0.0,
        backward.points if backward else 0.0,
        -general.nats_per_token if general else 0.0,
    )


def scaled(adapter: Adapter, beta: float) -> Adapter:
    """Return an adapter whose change is β times as large."""
    return replace(adapter, scale=adapter.scale * beta)
