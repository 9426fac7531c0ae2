"""One suite over all methods: what the training may rely on, whichever was asked for."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment
from mlx_tune import settings
from mlx_tune.continual.methods import METHODS, Method, method
from mlx_tune.errors import UsageError
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import read_adapters

EVERY = pytest.mark.parametrize("one", METHODS.values(), ids=METHODS)


def test_the_first_method_is_the_default():
    assert next(iter(METHODS)) == "rehearsal"


@EVERY
def test_a_method_is_found_under_its_name(one):
    assert METHODS[one.name] is method(one.name) is one


@EVERY
def test_a_hyphen_is_as_good_as_an_underscore(one):
    assert method(one.name.replace("_", "-")) is one


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
        method(name)
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


def test_the_settings_name_every_method_and_no_other():
    assert tuple(METHODS) == settings.METHODS
