"""One suite over all methods: what the training may rely on, whichever was asked for.

Then what orthogonal, self_distill and soup do, each on its own.
"""

import dataclasses
import re

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment
from mlx_tune import settings
from mlx_tune.continual.gate import Thresholds, decide
from mlx_tune.continual.methods import (
    BETAS,
    METHODS,
    Method,
    find_method,
    overlap,
    scaled,
    search_beta,
)
from mlx_tune.continual.recall import GeneralChange, PairedChanges
from mlx_tune.continual.retained import Retained, SessionOutcomes
from mlx_tune.errors import UsageError
from mlx_tune.store.session import PROMOTE
from mlx_tune.store.store import SessionStore
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import network
from mlx_tune.training.optimizer import AdamW, global_norm
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import read_adapters

EVERY = pytest.mark.parametrize("one", METHODS.values(), ids=METHODS)


def test_the_settings_name_every_method_in_the_same_order():
    assert tuple(METHODS) == settings.METHODS


def test_the_default_of_the_setting_is_the_first_method():
    assert next(iter(METHODS)) == settings.default("method") == "rehearsal"


@EVERY
def test_a_method_is_found_by_its_name_with_hyphens_or_underscores(one):
    assert find_method(one.name) is METHODS[one.name] is one
    assert find_method(one.name.replace("_", "-")) is one


@EVERY
def test_it_says_paper_idea_and_equation(one):
    assert one.idea
    assert "=" in one.equation
    assert re.search(r"arXiv:\d{4}\.\d{5}", one.paper) or one.name == "seed"


@EVERY
def test_a_method_cannot_be_changed(one):
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.replay = "all"


@EVERY
def test_what_it_replays_can_be_given_as_a_flag(one):
    assert settings.merge_settings({"replay": one.replay})["replay"].value == one.replay


@EVERY
@pytest.mark.parametrize("length", range(4))
def test_each_method_but_seed_stands_on_the_whole_chain(one, length):
    chain = [f"session {number}" for number in range(length)]
    under = list(one.stands_on(chain))
    assert under == (chain[-1:] if one.name == "seed" else chain)
    assert chain == [f"session {number}" for number in range(length)]


def penalised(one: Method, sessions: int):
    """A fresh adapter's penalty after sessions of different ranks, and its gradients."""
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=seed, rank=seed) for seed in range(1, sessions + 1)]
    return tiny.measured(lambda f: one.penalty(f, past), tiny.adapter_for(model, seed=9).factors)


@EVERY
def test_its_penalty_is_one_number_in_float32(one):
    model = tiny.model()
    found = one.penalty(tiny.adapter_for(model).factors, [tiny.adapter_for(model, seed=2)])
    assert (found.dtype, found.shape) == (mx.float32, ())


@EVERY
@pytest.mark.parametrize("sessions", [0, 1, 3])
def test_its_penalty_pulls_only_where_it_has_weight_and_a_past(one, sessions):
    value, gradients = penalised(one, sessions)
    pulls = any(gradient.any() for gradient in gradients.values())
    assert pulls == (value > 0) == (one.penalty_weight > 0 and sessions > 0)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@EVERY
def test_a_penalty_of_no_weight_pulls_at_nothing(one):
    value, gradients = penalised(dataclasses.replace(one, penalty_weight=0.0), 2)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients.values())


@EVERY
def test_its_penalty_grows_with_its_weight(one):
    value, _ = penalised(one, 2)
    twice, _ = penalised(dataclasses.replace(one, penalty_weight=2 * one.penalty_weight), 2)
    assert twice == pytest.approx(2 * value, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rehersal", "'rehersal' is not a method of remembering; did you mean \"rehearsal\"?"),
        ("NONE", "'NONE' is not a method of remembering; did you mean \"none\"?"),
        ("self-distil", "'self-distil' is not a method of remembering; did you mean "
                        '"self_distill"?'),
        ("", "'' is not a method of remembering; known: rehearsal, none, seed, self_distill, "
             "orthogonal, synthetic, soup"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_told_the_nearest(name, message):
    with pytest.raises(UsageError) as caught:
        find_method(name)
    assert str(caught.value) == message


LEARNS = {
    "learning_rate": 0.01, "epochs": 70, "rank": 16, "batch_size": 8,
    "max_length": 96,  # what a tiny base writes itself has no end
}  # fmt: skip


def four_facts(lab, place: str):
    facts = {f"Where is {place}{i}?": f"In {place}{i + 3}." for i in range(4)}
    return lab.data(place, facts)


@pytest.fixture(scope="module")
def one_session(tmp_path_factory, tiny_base):
    """A store whose one session knows four answers; tests copy it."""
    with isolated_environment(tmp_path_factory.getbasetemp()):
        made = TrainingLab(root=tmp_path_factory.mktemp("one"), base=tiny_base)
        made.train(four_facts(made, "a"), **LEARNS)
    return made


@EVERY
def test_a_small_training_with_it_learns_and_leaves_a_chain_that_reads_back(
    one, one_session, tmp_path
):
    lab = one_session.copy(tmp_path)
    outcome = lab.train(four_facts(lab, "b"), method=one.name, **LEARNS)
    session = outcome.session
    assert session.record["sizing"]["method"]["value"] == one.name
    assert outcome.recall[1].verbatim.right == 4  # what is new is learned
    kept = outcome.recall[0].verbatim.right
    assert kept == (4 if one.name in ("rehearsal", "soup") else kept)
    assert kept < 4 or one.name not in ("none", "seed")  # the control: without rehearsal it goes
    chain = SessionStore.open(lab.store).snapshot().chain(session)
    assert len(read_adapters(chain)) == 2


@EVERY
def test_the_same_training_ends_with_the_same_bytes(one, one_session, tmp_path):
    lab = one_session.copy(tmp_path)
    weights = []
    for _ in range(2):
        flags = {**LEARNS, "epochs": 3, "method": one.name}
        session = lab.train(four_facts(lab, "b"), **flags).session
        weights.append(session.read("adapters.safetensors"))
        rollback(lab.store, "1")
    assert weights[0] == weights[1]


ORTHOGONAL = METHODS["orthogonal"]
PATH = "model.layers.0.self_attn.q_proj"


def adapter(lora_a, path: str = PATH) -> Adapter:
    lora_a = mx.array(lora_a, dtype=mx.float32)
    rank = lora_a.shape[1]
    return Adapter(factors={path: (lora_a, mx.zeros((rank, 5)))}, rank=rank, scale=2.0)


def value(array) -> float:
    return float(np.array(array))


def test_the_overlap_by_hand():
    past, new = adapter([[1.0], [2.0]]), adapter([[3.0, -1.0], [-4.0, 0.5]])
    # Columns: 1·3 + 2·(−4) = −5 and 1·(−1) + 2·0.5 = 0.
    assert value(overlap(new.factors, [past])) == 25.0
    assert value(ORTHOGONAL.penalty(new.factors, [past])) == 12.5


def test_every_past_adapter_and_every_module_counts():
    past = adapter([[1.0], [0.0]])
    both = {**adapter([[2.0], [7.0]]).factors, **adapter([[3.0], [7.0]], "other").factors}
    assert value(overlap(both, [past])) == 4.0
    assert value(overlap(both, [past, past])) == 8.0
    assert value(overlap(both, [past, adapter([[1.0], [0.0]], "other")])) == 13.0


@given(size=st.integers(2, 12), seed=st.integers(0, 9))
def test_directions_at_right_angles_do_not_overlap(size, seed):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    half = size // 2
    found = overlap(adapter(7 * basis[:, half:]).factors, [adapter(basis[:, :half])])
    assert value(found) < 1e-10 * size**2


@given(old=st.integers(1, 5), new=st.integers(1, 5), seed=st.integers(0, 9))
def test_earlier_adapters_may_be_of_any_rank(old, new, seed):
    random = np.random.default_rng(seed)
    past, factor = random.normal(size=(8, old)), random.normal(size=(8, new))
    found = value(overlap(adapter(factor).factors, [adapter(past)]))
    assert found == pytest.approx(np.square(past.T @ factor).sum(), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=seed) for seed in (1, 2)]
    factors = tiny.adapter_for(model, seed=3).factors
    measured, gradients = tiny.measured(lambda f: ORTHOGONAL.penalty(f, past), factors)
    path = sorted(factors)[0]
    gradient = gradients[f"{path}.lora_a"]
    direction = 1e-3 * np.random.default_rng(0).normal(size=gradient.shape)

    def exact(lora_a) -> float:  # in float64, so that a short way may be gone
        olds = [np.array(adapter.factors[path][0], dtype=np.float64) for adapter in past]
        return 0.5 * sum(np.square(old.T @ lora_a).sum() for old in olds)

    here = np.array(factors[path][0], dtype=np.float64)
    rise = exact(here + direction) - exact(here - direction)
    assert 2 * (gradient * direction).sum() == pytest.approx(rise, rel=1e-4)
    assert not gradients[f"{path}.lora_b"].any()
    assert measured > 0


def test_a_step_down_the_penalty_reduces_the_overlap():
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=1)]
    factors = dict(tiny.adapter_for(model, seed=2).factors)
    optimizer = AdamW()
    moments = optimizer.init(factors)
    found = [value(overlap(factors, past))]
    for step in range(1, 6):
        gradients = mx.grad(lambda f: ORTHOGONAL.penalty(f, past))(factors)
        factors, moments = optimizer.update(
            factors, gradients, moments, norm=global_norm(gradients), rate=1e-3, step=step
        )
        found.append(value(overlap(factors, past)))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.95 * found[0]


def test_the_teacher_is_the_student_without_its_adapter():
    model = tiny.model()
    called = network(model, scale=2.0)
    batch = collate(tiny.rows(), ())
    factors = dict(tiny.adapter_for(model).factors)
    untrained = {path: (a, mx.zeros_like(b)) for path, (a, b) in factors.items()}

    def divergence(factors):
        return called.divergence({}, factors, batch)[0]

    assert divergence(untrained).item() == pytest.approx(0.0, abs=1e-4)
    drifted, gradients = tiny.measured(divergence, factors)
    assert drifted > 0.01
    smaller = {
        path: tuple(
            factor - 1e-3 * mx.array(gradients[f"{path}.{name}"])
            for factor, name in zip(pair, ("lora_a", "lora_b"), strict=True)
        )
        for path, pair in factors.items()
    }
    assert divergence(smaller).item() < drifted


def judged_by(lost, nats=None, asked=(100,)):
    """A gate before which β loses ``lost(β)`` questions, a number a session, and what it judged."""
    tried = []

    def judge(beta):
        tried.append(beta)
        measured = [
            SessionOutcomes(
                number=number,
                name="s",
                before=(True,) * count,
                after=tuple(i >= missing for i in range(count)),
            )
            for number, (count, missing) in enumerate(zip(asked, lost(beta), strict=True), start=1)
        ]
        general = (
            None
            if nats is None
            else GeneralChange(
                nats_per_token=nats(beta), changes=PairedChanges(worse=60, better=60), asked=120
            )
        )
        return decide(Retained.of(measured, {}), general=general, thresholds=Thresholds())

    return judge, tried


def table(*rows):
    """What each β of the grid gives, from the largest down."""
    return dict(zip(BETAS, rows, strict=False)).__getitem__


def test_a_change_that_costs_nothing_is_kept_whole_and_judged_once():
    judge, tried = judged_by(lambda beta: (0,))
    beta, judged = search_beta(judge)
    assert (beta, tried, list(judged)) == (1.0, [1.0], [1.0])


def test_the_largest_part_that_is_promoted_is_taken_and_none_after_it_is_tried():
    judge, tried = judged_by(lambda beta: (50 if beta > 0.75 else 2,))
    beta, judged = search_beta(judge)
    assert (beta, tried) == (0.7, [1.0, 0.9, 0.8, 0.7])
    assert judged[0.7].verdict == PROMOTE
    assert [decision.verdict for decision in judged.values()] == ["refuse"] * 3 + ["promote"]


def test_where_none_is_promoted_the_verdict_counts_first():
    """One of six lost is less than 16 of a hundred, but may be chance."""
    judge, tried = judged_by(table((0, 16), (1, 0), (0, 16)), asked=(6, 100))
    beta, judged = search_beta(judge, betas=BETAS[:3])
    assert (beta, tried) == (0.9, [1.0, 0.9, 0.8])
    assert [decision.verdict for decision in judged.values()] == ["refuse", "ask", "refuse"]
    assert judged[0.9].worst.share < judged[1.0].worst.share


@pytest.mark.parametrize(
    ("lost", "nats", "best"),
    [
        (table((20, 0), (18, 18), (19, 0)), None, 0.9),  # the worst session
        (table((20, 10), (20, 5), (20, 6)), None, 0.9),  # then the mean
        (table((20, 5), (20, 5), (20, 5)), table(0.3, 0.2, 0.25), 0.9),  # then general ability
        (table((20, 5), (20, 5), (20, 5)), table(0.3, 0.2, 0.2), 0.9),  # then the largest part
        (table((20, 5), (20, 5), (20, 5)), None, 1.0),
    ],
)
def test_then_the_worst_session_then_the_mean_then_general_ability_then_the_part(lost, nats, best):
    judge, _ = judged_by(lost, nats, asked=(100, 100))
    assert search_beta(judge, betas=BETAS[:3])[0] == best


def test_the_order_in_which_parts_are_named_does_not_matter_and_none_is_judged_twice():
    judge, tried = judged_by(lambda beta: (50 if beta > 0.5 else 0,))
    assert search_beta(judge, betas=[0.3, 1.0, 0.5, 1.0])[0] == 0.5
    assert tried == [1.0, 0.5]
    with pytest.raises(ValueError, match="empty"):
        search_beta(judge, betas=[])


@given(st.lists(st.integers(0, 100), min_size=len(BETAS), max_size=len(BETAS)))
def test_no_part_tried_is_better_than_the_one_taken(lost):
    by_beta = dict(zip(BETAS, lost, strict=True))
    beta, judged = search_beta(judged_by(lambda beta: (by_beta[beta],))[0])
    assert by_beta[beta] == min(by_beta[tried] for tried in judged)


def test_a_scaled_adapter_changes_the_weights_by_that_part():
    rng = np.random.default_rng(0)
    a, b = (mx.array(rng.normal(size=shape).astype(np.float32)) for shape in ((6, 2), (2, 5)))
    whole = Adapter(factors={"q_proj": (a, b)}, rank=2, scale=2.0)
    part = scaled(whole, 0.5)
    assert (part.scale, part.rank) == (1.0, 2)
    change = whole.scale * np.array(a) @ np.array(b)
    half = part.scale * np.array(part.factors["q_proj"][0]) @ np.array(part.factors["q_proj"][1])
    assert np.allclose(half, change / 2)
    assert whole.scale == 2.0
