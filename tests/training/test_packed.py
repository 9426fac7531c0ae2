"""The packed forward pass: its gradients, dropout, recomputed layers and fused linear layers."""

import functools
import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from helpers import tiny
from mlx_tune.continual.fold import UnmergedLinear
from mlx_tune.training.adapter import base_layer
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import attach
from mlx_tune.training.loss import cross_entropy
from mlx_tune.training.packed import FusedLinear, PackedForward, attention, can_pack, will_pack
from mlx_tune.training.shapes import Shape

SCALE = 2.0
SHARE = 0.25  # of dropout
KEYS = (None, mx.random.key(0))
ROWS = tiny.rows(4)
PREFIX = ROWS[0].tokens[:10]
PADDED = Shape(rows=4, prefix=10, flat=60, width=25, supervised=20)


@pytest.fixture(scope="module")
def factors():
    return tiny.adapter_for(tiny.model()).factors


def packed(**options) -> PackedForward:
    return PackedForward(tiny.model(), scale=SCALE, **options)


def measured(called, factors, key=None, *, batch=None):
    batch = batch or collate(ROWS, PREFIX)
    return tiny.measured(lambda f: called.loss(f, batch, key)[0], factors)


def test_the_model_itself_still_works():
    tokens = mx.array([PREFIX])
    for changes in ({}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}):
        model = tiny.model(**changes)
        before = np.array(model(tokens))
        PackedForward(model)
        assert np.array_equal(np.array(model(tokens)), before)


def test_every_tokens_gradient_is_the_naive_one_and_a_padding_tokens_is_zero(factors):
    """Through the embedding, which is called with every token once, the padding (token 0) too."""
    model = tiny.model(tie_word_embeddings=False)
    adapted = tiny.model(tie_word_embeddings=False)
    attach(adapted, factors, SCALE)
    called = PackedForward(model, scale=SCALE)
    batch = collate(ROWS, PREFIX, PADDED)
    assert (np.array(batch.tokens) == 0).sum() > 10

    def ours(weight):
        model.model.embed_tokens.weight = weight
        return called.loss(factors, batch)[0]

    def naive(weight):
        adapted.model.embed_tokens.weight = weight
        total = mx.array(0.0)
        for row in ROWS:
            taught = np.flatnonzero(row.supervised)
            logits = adapted(mx.array([row.tokens[:-1]]))[0][mx.array(taught - 1)]
            targets = mx.array([row.tokens[t] for t in taught])
            total = total + cross_entropy(logits, targets).sum()
        return total

    weight = model.model.embed_tokens.weight
    found, wanted = (np.array(mx.grad(loss)(weight)) for loss in (ours, naive))
    assert not found[0].any()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_attention_is_mlxs_own_with_grouped_queries():
    shapes = [(3, 6, 5, 8), (3, 2, 7, 8), (3, 2, 7, 8)]
    q, k, v = (mx.random.normal(s, key=mx.random.key(i)) for i, s in enumerate(shapes))
    seen = mx.arange(7)[None, None, None] <= mx.arange(5)[None, None, :, None] + 2
    bias = mx.broadcast_to(mx.where(seen, 0.0, -1e9), (3, 1, 5, 7))
    found = np.array(attention(q, k, v, scale=0.3, bias=bias))
    wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=bias)
    assert np.abs(found - np.array(wanted)).max() < 1e-6


def test_a_bfloat16_model_is_computed_in_its_own_type_and_its_factors_stay_float32(factors):
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    called = PackedForward(model, scale=SCALE)
    batch = collate(ROWS, PREFIX)
    value, gradients = mx.value_and_grad(lambda f: called.loss(f, batch)[0])(factors)
    assert value.dtype == mx.float32
    assert {g.dtype for pair in gradients.values() for g in pair} == {mx.float32}
    wanted, _ = measured(packed(), factors)
    assert value.item() == pytest.approx(wanted, rel=1e-2)


class Counted(nn.Module):
    """A norm that counts how often it is computed."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.calls = norm, 0

    def __call__(self, x: mx.array) -> mx.array:
        self.calls += 1
        return self.norm(x)


@pytest.mark.parametrize(("layers", "calls"), [(0, [1, 1]), (1, [2, 1]), (2, [2, 2]), (9, [2, 2])])
def test_the_first_layers_are_computed_again_in_each_backward_pass_and_no_more(
    factors, layers, calls
):
    """A checkpoint that outlived its run would nest in the next one's, and count double."""
    model = tiny.model()
    for layer in model.layers:
        layer.input_layernorm = Counted(layer.input_layernorm)
    norms = [layer.input_layernorm for layer in model.layers]
    before = type(model.layers[0]).__call__
    for run in (1, 2, 3):
        measured(PackedForward(model, scale=SCALE, checkpoint_layers=layers), factors)
        assert [norm.calls for norm in norms] == [run * count for count in calls]
    assert type(model.layers[0]).__call__ is before


@pytest.fixture
def masks(monkeypatch):
    """The dropout of the adapters' inputs, as multiples: (paths, mask) in the order of layers."""
    found = []
    with_adapter = FusedLinear.with_adapter

    def spy(self, x, factors, scale, dropped=None):
        if dropped is not None:
            found.append((self.paths, np.array(dropped) / np.array(x)))
        return with_adapter(self, x, factors, scale, dropped)

    monkeypatch.setattr(FusedLinear, "with_adapter", spy)
    return found


def test_dropout_zeroes_its_share_and_raises_the_rest_to_make_up_for_it(masks, factors):
    mx.eval(packed(dropout=SHARE).loss(factors, collate(ROWS, PREFIX), mx.random.key(0))[0])
    assert len(masks) == 2 * 4  # layers × inputs
    numbers = np.concatenate([mask.ravel() for _, mask in masks])
    kept = numbers != 0
    assert numbers[kept] == pytest.approx(1 / (1 - SHARE), rel=1e-5)
    # Of 13,000 numbers; three standard deviations.
    assert kept.mean() == pytest.approx(1 - SHARE, abs=0.012)
    assert numbers.mean() == pytest.approx(1, abs=0.016)


def test_every_layer_and_every_input_has_a_mask_of_its_own(masks, factors):
    mx.eval(packed(dropout=SHARE).loss(factors, collate(ROWS, PREFIX), mx.random.key(0))[0])
    widths = {mask.shape[1] for _, mask in masks}
    for width in widths:
        alike = [mask for _, mask in masks if mask.shape[1] == width]
        different = {mask.tobytes() for mask in np.sign(alike)}
        assert len(different) == len(alike) > 1


def test_with_dropout_loss_and_gradients_are_those_of_the_masks_drawn(masks, factors):
    """The same masks, recorded in the packed form and given to mlx-lm's own layers."""
    row = ROWS[2]
    found = measured(packed(dropout=SHARE), factors, mx.random.key(5), batch=collate([row], PREFIX))
    model = tiny.model()
    attach(model, factors, SCALE)
    modules = dict(model.named_modules())
    for paths, mask in masks:
        for path in paths:
            modules[path].dropout = functools.partial(mx.multiply, mx.array(mask))
    taught = np.flatnonzero(row.supervised)
    targets = mx.array([row.tokens[t] for t in taught])

    def naive(factors):
        attach(model, factors, SCALE)
        logits = model(mx.array([row.tokens[:-1]]))[0][mx.array(taught - 1)]
        return cross_entropy(logits, targets).sum()

    assert len(masks) == 2 * 4
    tiny.assert_same(found, tiny.measured(naive, factors))


def test_one_key_gives_one_loss_and_another_key_another(factors):
    called = packed(dropout=SHARE)
    first, again, other = (measured(called, factors, mx.random.key(k)) for k in (1, 1, 2))
    assert first[0] == again[0]
    for name in first[1]:
        assert np.array_equal(first[1][name], again[1][name])
        assert not np.array_equal(first[1][name], other[1][name])
    assert first[0] != other[0]


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_computed_again_meet_the_masks_they_had(factors, layers):
    """mx.checkpoint draws an implicit mask anew, and the gradients are then of another loss."""
    kept = measured(packed(dropout=SHARE), factors, mx.random.key(3))
    again = measured(packed(dropout=SHARE, checkpoint_layers=layers), factors, mx.random.key(3))
    tiny.assert_same(again, kept, 1e-6)


def test_without_a_share_or_a_key_nothing_is_drawn(monkeypatch, factors):
    plain = measured(packed(), factors)

    def refuse(*_, **__):
        raise AssertionError("a mask was drawn")

    monkeypatch.setattr(mx.random, "bernoulli", refuse)
    assert measured(packed(), factors, mx.random.key(0))[0] == plain[0]
    assert measured(packed(dropout=SHARE), factors)[0] == plain[0]


def test_a_teacher_has_no_dropout(factors):
    batch = collate(ROWS, PREFIX)
    found = [packed(dropout=SHARE).divergence(factors, {}, batch, key)[0] for key in KEYS]
    assert found[0].item() == found[1].item()


def test_a_layer_without_factors_is_left_as_it_is(factors):
    """A chain of adapters may not cover all layers."""
    some = {path: pair for path, pair in factors.items() if "q_proj" in path or "down" in path}
    row = ROWS[1]
    model = tiny.model()
    attach(model, some, SCALE)
    wanted = np.array(model(mx.array([row.tokens[:-1]]))[0])[row.first_supervised - 1 :]
    found = np.array(packed().logits(some, collate([row], ())))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("changes", "is_packable"),
    [
        ({}, True),
        ({"model_type": "qwen3"}, True),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 8.0}, False),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, False),
    ],
)
def test_the_config_tells_beforehand_what_can_be_packed(changes, is_packable):
    assert will_pack(tiny.config(**changes)) == can_pack(tiny.model(**changes)) == is_packable
    assert will_pack({"model_type": "mistral"})


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


def random_factors(*names: str, ranks=(4, 4, 4)) -> dict:
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
    before = [base_layer(linear).weight for linear in made.values()]
    wanted = outputs({n: m for n, m in made.items() if n != "k"})
    found = FusedLinear(made)(X)
    assert_close([found[0], found[2]], wanted, 1e-6)
    assert np.array_equal(
        np.array(found[1].astype(mx.float32)), np.array(made["k"](X).astype(mx.float32))
    )
    assert all(base_layer(m).weight is w for m, w in zip(made.values(), before, strict=True))


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
    given = random_factors(*names, ranks=(4, 2, 3))
    wanted = outputs(made)
    for i, name in enumerate("qkv"):
        if name in given:
            a, b = map(np.array, given[name])
            wanted[i] = wanted[i] + 0.5 * (np.array(X) @ a @ b)
    assert_close(FusedLinear(made).with_adapter(X, given, 0.5), wanted)


def test_an_adapter_may_have_another_input_than_the_layer():
    """As where dropout is on."""
    made, given, dropped = linears(), random_factors(*"qkv"), normal(5, IN, seed=7)
    wanted = [
        output + 2.0 * np.array(dropped @ a @ b)
        for output, (a, b) in zip(outputs(made), given.values(), strict=True)
    ]
    assert_close(FusedLinear(made).with_adapter(X, given, 2.0, dropped), wanted)


def test_changes_are_made_in_the_type_of_the_activations():
    made = linears()
    for linear in made.values():
        half(linear)
    found = FusedLinear(made).with_adapter(X.astype(mx.bfloat16), random_factors(*"qkv"), 2.0)
    assert {output.dtype for output in found} == {mx.bfloat16}


def test_one_layer_alone_is_used_as_it_is():
    made = {"o": nn.Linear(IN, 32)}
    weight = made["o"].weight
    assert_close(FusedLinear(made)(X), outputs(made), 1e-6)
    assert made["o"].weight is weight
