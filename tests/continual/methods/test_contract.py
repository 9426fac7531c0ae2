"""One suite over all methods: what the training may rely on, whichever was asked for."""

import dataclasses
import importlib
import pkgutil
import re

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_tune.continual import methods
from mlx_tune.continual.methods import METHODS, Method, method
from mlx_tune.errors import UsageError

KINDS = ("method",)  # files of the folder that hold no method
EVERY = pytest.mark.parametrize("one", METHODS.values(), ids=METHODS)


def module_of(one: Method):
    return importlib.import_module(f"{methods.__name__}.{one.name}")


def test_every_file_is_a_method_and_the_first_is_the_default():
    files = {module.name for module in pkgutil.iter_modules(methods.__path__)} - {*KINDS}
    assert files == set(METHODS)
    assert next(iter(METHODS)) == "rehearsal"


@EVERY
def test_a_method_is_named_as_its_file_and_found_under_that_name(one):
    assert module_of(one).METHOD is one is METHODS[one.name] is method(one.name)


@EVERY
def test_a_hyphen_is_as_good_as_an_underscore(one):
    assert method(one.name.replace("_", "-")) is one


@EVERY
def test_its_file_says_paper_idea_and_equation(one):
    doc = module_of(one).__doc__
    sections = [doc.index(f"\n{name}:\n") for name in ("Paper", "Idea", "Equation")]
    assert sections == sorted(sections)
    assert re.search(r"arXiv:\d{4}\.\d{5}", doc) or "the old program" in doc


@EVERY
def test_a_method_cannot_be_changed(one):
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.replay = "all"


@EVERY
def test_what_it_replays_can_be_given_as_a_flag(one):
    assert one.replay in {"auto", "all", "none"} or float(one.replay) > 0


@EVERY
@pytest.mark.parametrize("length", range(4))
def test_it_stands_on_the_whole_chain_but_for_the_old_program(one, length):
    chain = [f"session {number}" for number in range(length)]
    under = list(one.stands_on(chain))
    assert under == (chain[-1:] if one.name == "seed" else chain)
    assert chain == [f"session {number}" for number in range(length)]


def few_values(one: Method, sessions: int):
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=seed, rank=seed) for seed in range(1, sessions + 1)]
    return tiny.measured(lambda f: one.penalty(f, past), tiny.adapter_for(model, seed=9).factors)


@EVERY
@pytest.mark.parametrize("sessions", [0, 1, 3])
def test_its_penalty_is_one_finite_number_with_finite_gradients(one, sessions):
    model = tiny.model()
    past = [tiny.adapter_for(model, seed=seed, rank=seed) for seed in range(1, sessions + 1)]
    found = one.penalty(tiny.adapter_for(model, seed=9).factors, past)
    assert (found.dtype, found.shape) == (mx.float32, ())
    value, gradients = few_values(one, sessions)
    assert np.isfinite(value)
    assert value >= 0
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    pulls = any(gradient.any() for gradient in gradients.values())
    assert pulls == (one.penalty_weight > 0 and sessions > 0)


@EVERY
def test_a_penalty_of_no_weight_pulls_at_nothing(one):
    value, gradients = few_values(dataclasses.replace(one, penalty_weight=0.0), 2)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients.values())


@EVERY
def test_its_penalty_grows_with_its_weight(one):
    value, _ = few_values(one, 2)
    twice, _ = few_values(dataclasses.replace(one, penalty_weight=2 * one.penalty_weight), 2)
    assert twice == pytest.approx(2 * value, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rehersal", "'rehersal' is not a method of remembering; did you mean \"rehearsal\"?"),
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


@EVERY
@pytest.mark.skip(reason="waits for the training engine to call the methods")
def test_a_small_training_with_it_learns_and_leaves_a_chain_that_reads_back(one, lab):
    """Two sessions of a few facts each, trained with the method.

    To be held to: the second session's rows are learned; the record names the method; the chain
    folds again; the same seed gives the same bytes; with `none` the first session is worse off
    than with `rehearsal`.
    """
