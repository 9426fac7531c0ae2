import functools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from helpers import tiny
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import attach
from mlx_tune.training.loss import cross_entropy
from mlx_tune.training.packed import FusedLinear, PackedForward, attention, can_pack, will_pack
from mlx_tune.training.shapes import Shape

SCALE = 2.0
SHARE = 0.25  # of dropout
ROWS = tiny.rows(4)
PREFIX = ROWS[0].tokens[:10]
PADDED = Shape(rows=4, prefix=10, flat=60, width=25, supervised=20)


@pytest.fixture(scope="module")
def factors():
    return tiny.adapter_for(tiny.model()).factors


def walked(**options) -> PackedForward:
    return PackedForward(tiny.model(), scale=SCALE, **options)


def measured(called, factors, key=None, *, batch=None):
    batch = batch or collate(ROWS, PREFIX)
    return tiny.measured(lambda f: called.loss(f, batch, key)[0], factors)


def test_a_model_stays_whole_beside_its_walk():
    tokens = mx.array([PREFIX])
    for changes in ({}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}):
        model = tiny.model(**changes)
        before = np.array(model(tokens))
        PackedForward(model)
        assert np.array_equal(np.array(model(tokens)), before)


def test_every_tokens_gradient_is_the_naive_one_and_a_padding_tokens_is_zero(factors):
    """Through the embedding: in a walk it meets every token once, the padding (word 0) too."""
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


def test_a_bfloat16_model_is_walked_in_its_own_type_and_its_factors_stay_float32(factors):
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    called = PackedForward(model, scale=SCALE)
    batch = collate(ROWS, PREFIX)
    value, gradients = mx.value_and_grad(lambda f: called.loss(f, batch)[0])(factors)
    assert value.dtype == mx.float32
    assert {g.dtype for pair in gradients.values() for g in pair} == {mx.float32}
    wanted, _ = measured(walked(), factors)
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
    """What adapters see of their inputs, as multiples: (paths, mask) in the order of the layers."""
    seen = []
    adapted = FusedLinear.adapted

    def spy(self, x, factors, scale, read=None):
        if read is not None:
            seen.append((self.paths, np.array(read) / np.array(x)))
        return adapted(self, x, factors, scale, read)

    monkeypatch.setattr(FusedLinear, "adapted", spy)
    return seen


def test_dropout_zeroes_its_share_and_raises_the_rest_to_make_up_for_it(masks, factors):
    mx.eval(walked(dropout=SHARE).loss(factors, collate(ROWS, PREFIX), mx.random.key(0))[0])
    assert len(masks) == 2 * 4  # layers × inputs
    numbers = np.concatenate([mask.ravel() for _, mask in masks])
    kept = numbers != 0
    assert numbers[kept] == pytest.approx(1 / (1 - SHARE), rel=1e-5)
    # Of 13,000 numbers; three standard deviations.
    assert kept.mean() == pytest.approx(1 - SHARE, abs=0.012)
    assert numbers.mean() == pytest.approx(1, abs=0.016)


def test_every_layer_and_every_input_has_a_mask_of_its_own(masks, factors):
    mx.eval(walked(dropout=SHARE).loss(factors, collate(ROWS, PREFIX), mx.random.key(0))[0])
    widths = {mask.shape[1] for _, mask in masks}
    for width in widths:
        alike = [mask for _, mask in masks if mask.shape[1] == width]
        different = {mask.tobytes() for mask in np.sign(alike)}
        assert len(different) == len(alike) > 1


def test_with_dropout_loss_and_gradients_are_those_of_the_masks_drawn(masks, factors):
    """The same masks, taken from the walk and given to mlx-lm's own layers."""
    row = ROWS[2]
    found = measured(walked(dropout=SHARE), factors, mx.random.key(5), batch=collate([row], PREFIX))
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
    called = walked(dropout=SHARE)
    first, again, other = (measured(called, factors, mx.random.key(k)) for k in (1, 1, 2))
    assert first[0] == again[0]
    for name in first[1]:
        assert np.array_equal(first[1][name], again[1][name])
        assert not np.array_equal(first[1][name], other[1][name])
    assert first[0] != other[0]


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_computed_again_meet_the_masks_they_had(factors, layers):
    """mx.checkpoint draws an implicit mask anew, and the gradients are then of another loss."""
    kept = measured(walked(dropout=SHARE), factors, mx.random.key(3))
    again = measured(walked(dropout=SHARE, checkpoint_layers=layers), factors, mx.random.key(3))
    tiny.assert_same(again, kept, 1e-6)


def test_without_a_share_or_a_key_nothing_is_drawn(monkeypatch, factors):
    plain = measured(walked(), factors)

    def refuse(*_, **__):
        raise AssertionError("a mask was drawn")

    monkeypatch.setattr(mx.random, "bernoulli", refuse)
    assert measured(walked(), factors, mx.random.key(0))[0] == plain[0]
    assert measured(walked(dropout=SHARE), factors)[0] == plain[0]


def test_a_layer_without_factors_is_left_as_it_is(factors):
    """A chain of adapters may not cover all layers."""
    some = {path: pair for path, pair in factors.items() if "q_proj" in path or "down" in path}
    row = ROWS[1]
    model = tiny.model()
    attach(model, some, SCALE)
    wanted = np.array(model(mx.array([row.tokens[:-1]]))[0])[row.first_supervised - 1 :]
    found = np.array(walked().logits(some, collate([row], ())))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("changes", "walked"),
    [
        ({}, True),
        ({"model_type": "qwen3"}, True),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 8.0}, False),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, False),
    ],
)
def test_the_config_tells_beforehand_what_can_be_walked(changes, walked):
    assert will_pack(tiny.config(**changes)) == can_pack(tiny.model(**changes)) == walked
    assert will_pack({"model_type": "mistral"})
