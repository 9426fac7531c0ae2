import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_tune.continual.fold import UnmergedLinear
from mlx_tune.training.packed import FusedLinear, weight_of

IN, OUT = 64, (96, 32, 32)  # as q, k and v: the first is larger


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


X = normal(5, IN, seed=99)


def linears(form: str = "plain", bias: bool = False) -> dict[str, nn.Module]:
    """Three layers of one input, by path."""
    mx.random.seed(0)
    made = {}
    for name, size in zip("qkv", OUT, strict=True):
        linear = nn.Linear(IN, size, bias=bias)
        if form != "plain":
            mode = {"4-bit": {"bits": 4}, "8-bit": {"bits": 8}, "mxfp4": {"mode": "mxfp4"}}[form]
            linear = nn.QuantizedLinear.from_linear(linear, group_size=32, **mode)
        made[name] = linear
    mx.eval([linear.parameters() for linear in made.values()])
    return made


def factors(*names: str, ranks=(4, 4, 4)) -> dict:
    sizes = dict(zip("qkv", zip(OUT, ranks, strict=True), strict=True))
    return {
        name: (
            normal(IN, sizes[name][1], seed=ord(name)),
            normal(sizes[name][1], sizes[name][0], seed=2 * ord(name)),
        )
        for name in names
    }


def outputs(made) -> list[np.ndarray]:
    return [np.array(linear(X)) for linear in made.values()]


def assert_close(found, wanted, tolerance=1e-5):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        ours, theirs = np.array(ours), np.array(theirs)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


FORMS = [(form, bias) for form in ("plain", "4-bit", "8-bit", "mxfp4") for bias in (False, True)]


@pytest.mark.parametrize(("form", "bias"), FORMS)
def test_one_product_equals_one_for_each_layer(form, bias):
    made = linears(form, bias)
    wanted = outputs(made)
    assert_close(FusedLinear(made)(X), wanted)
    assert_close(outputs(made), wanted, 1e-6)  # the layers themselves go on as before


@pytest.mark.parametrize(("form", "bias"), FORMS)
def test_layers_of_one_form_share_one_product(monkeypatch, form, bias):
    made = linears(form, bias)
    joined = FusedLinear(made)
    calls = []
    kind = type(made["q"])
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, x: (calls.append(1), call(self, x))[1])
    joined(X)
    assert len(calls) == 1


def test_layers_lie_in_the_joined_memory_and_nothing_is_held_twice():
    made = {name: nn.Linear(1024, 1024, bias=False) for name in "qkv"}
    mx.eval([linear.parameters() for linear in made.values()])
    before = mx.get_active_memory()
    joined = FusedLinear(made)
    mx.eval(joined(normal(2, 1024)))
    gc.collect()
    assert mx.get_active_memory() - before < 1 << 20  # a copy would be 12 MiB
    again = FusedLinear(made)  # a second run's, while the first one's may still be there
    del joined
    gc.collect()
    mx.eval(again(normal(2, 1024)))
    assert mx.get_active_memory() - before < 1 << 20


def quantised_by(bits: int) -> nn.Module:
    return nn.QuantizedLinear.from_linear(nn.Linear(IN, 32), group_size=32, bits=bits)


def half(linear: nn.Module) -> nn.Module:
    linear.set_dtype(mx.bfloat16)
    return linear


MIXED = {
    "one quantised": lambda: quantised_by(4),
    "one with a bias": lambda: nn.Linear(IN, 32, bias=True),
    "one of another type": lambda: half(nn.Linear(IN, 32, bias=False)),
    "one with a chain beside it": lambda: UnmergedLinear(
        nn.Linear(IN, 32, bias=False), normal(IN, 2), normal(2, 32)
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_layers_of_different_forms_are_left_apart(name):
    made = linears()
    mx.random.seed(1)
    made["k"] = MIXED[name]()
    before = [weight_of(linear) for linear in made.values()]
    wanted = outputs({n: m for n, m in made.items() if n != "k"})
    found = FusedLinear(made)(X)
    assert_close([found[0], found[2]], wanted, 1e-6)
    assert np.array_equal(
        np.array(found[1].astype(mx.float32)), np.array(made["k"](X).astype(mx.float32))
    )
    assert all(weight_of(m) is w for m, w in zip(made.values(), before, strict=True))


def test_layers_of_different_bits_are_left_apart():
    mx.random.seed(1)
    made = {"q": quantised_by(4), "k": quantised_by(8)}
    assert_close(FusedLinear(made)(X), outputs(made), 1e-6)


def test_a_chain_beside_every_layer_is_kept():
    made = {
        name: UnmergedLinear(linear, normal(IN, 2), normal(2, size))
        for (name, linear), size in zip(linears("4-bit").items(), OUT, strict=True)
    }
    assert_close(FusedLinear(made)(X), outputs(made), 1e-6)


@pytest.mark.parametrize("names", ["qkv", "qv", "k", ""])
def test_each_layer_has_its_own_change_and_a_layer_without_factors_none(names):
    made = linears()
    given = factors(*names, ranks=(4, 2, 3))
    wanted = outputs(made)
    for i, name in enumerate("qkv"):
        if name in given:
            a, b = map(np.array, given[name])
            wanted[i] = wanted[i] + 0.5 * (np.array(X) @ a @ b)
    assert_close(FusedLinear(made).adapted(X, given, 0.5), wanted)


def test_an_adapter_may_read_something_else_than_the_layer():
    """As where dropout is on."""
    made, given, read = linears(), factors(*"qkv"), normal(5, IN, seed=7)
    wanted = [
        output + 2.0 * np.array(read @ a @ b)
        for output, (a, b) in zip(outputs(made), given.values(), strict=True)
    ]
    assert_close(FusedLinear(made).adapted(X, given, 2.0, read), wanted)


def test_changes_are_made_in_the_type_of_the_activations():
    made = linears()
    for linear in made.values():
        half(linear)
    found = FusedLinear(made).adapted(X.astype(mx.bfloat16), factors(*"qkv"), 2.0)
    assert {output.dtype for output in found} == {mx.bfloat16}


def test_one_layer_alone_is_used_as_it_is():
    made = {"o": nn.Linear(IN, 32)}
    weight = made["o"].weight
    assert_close(FusedLinear(made)(X), outputs(made), 1e-6)
    assert made["o"].weight is weight
