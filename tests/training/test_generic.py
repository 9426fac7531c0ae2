"""One contract over all architectures: a network is its model, as a function of the factors."""

import functools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

from helpers import tiny
from mlx_tune.continual.fold import fold
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError
from mlx_tune.models import runtime
from mlx_tune.training.adapter import init_adapter
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import GenericForward, attach, network
from mlx_tune.training.loss import cross_entropy
from mlx_tune.training.packed import PackedForward
from mlx_tune.training.shapes import Shape

SCALE = 2.0
TOLERANCE = 1e-5  # measured: 3e-6
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,  # of four frequencies two stay, and one is between
}
YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# The window is shorter than the rows and than the prefix they share.
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
PHI_3 = {
    "model_type": "phi3",
    "rope_scaling": None,
    "original_max_position_embeddings": 512,
}


def quantised(**changes) -> nn.Module:
    model = tiny.model(**changes)
    nn.quantize(model, group_size=32, bits=4)
    return model


def with_a_chain() -> nn.Module:
    """A second session's model: 4-bit, and the first one's adapters beside its layers."""
    model = quantised()
    fold(model, [tiny.adapter_for(model, seed=7), tiny.adapter_for(model, seed=8, rank=2)])
    return model


PACKED = {
    "llama": tiny.model,
    "qwen2": lambda: tiny.model(model_type="qwen2"),
    "qwen3": lambda: tiny.model(model_type="qwen3"),
    "as many keys as queries": lambda: tiny.model(num_key_value_heads=4),
    "sliding window": lambda: tiny.model(**WINDOW),
    "head of its own": lambda: tiny.model(tie_word_embeddings=False),
    "llama 3 rope": lambda: tiny.model(rope_scaling=LLAMA_3_ROPE),
    "linear rope": lambda: tiny.model(rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "yarn rope": lambda: tiny.model(rope_scaling=YARN_ROPE),
    "traditional rope": lambda: tiny.model(rope_traditional=True),
    "biases": lambda: tiny.model(attention_bias=True, mlp_bias=True),
    "4-bit": quantised,
    "4-bit head of its own": lambda: quantised(tie_word_embeddings=False),
    "4-bit with a chain beside it": with_a_chain,
}
# Gemma 2 scales its embeddings and caps its logits, Phi 3 merges its projections, and a dynamic
# rope turns every token by the length of the text.
CALLED = {
    "dynamic rope": lambda: tiny.model(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
    "gemma2": lambda: tiny.model(
        model_type="gemma2", query_pre_attn_scalar=8.0, final_logit_softcapping=2.0
    ),
    "phi3": lambda: tiny.model(**PHI_3),
}
ALL = PACKED | CALLED


def naive_loss(model: nn.Module, factors, rows: list[Example]) -> mx.array:
    """The sum of the supervised tokens' cross-entropies, by mlx-lm's own code, row by row."""
    attach(model, factors, SCALE)
    total = mx.array(0.0)
    for row in rows:
        logits = model(mx.array([row.tokens[:-1]]))[0]
        taught = np.flatnonzero(row.supervised)
        targets = mx.array([row.tokens[t] for t in taught])
        total = total + cross_entropy(logits[mx.array(taught - 1)], targets).sum()
    return total


class Case:
    """An architecture, factors for it, rows, and what the naive loss makes of them."""

    def __init__(self, name: str) -> None:
        self.build = lambda: tiny.irregular(ALL[name]())
        self.rows = tiny.rows(5)
        self.prefix = self.rows[0].tokens[:10]
        self.factors = tiny.adapter_for(self.build()).factors
        model = self.build()
        self.wanted = tiny.measured(lambda f: naive_loss(model, f, self.rows), self.factors)

    def loss_and_gradients(self, *batches, **options):
        called = network(self.build(), scale=SCALE, **options)

        def loss(factors):
            return sum((called.loss(factors, batch)[0] for batch in batches), mx.array(0.0))

        return tiny.measured(loss, self.factors)

    def batch(self, *, shared: bool, padded: Shape | None = None):
        return collate(self.rows, self.prefix if shared else (), padded)


case_of = functools.cache(Case)


@pytest.fixture
def case(request) -> Case:
    return case_of(request.param)


every = pytest.mark.parametrize("case", ALL, indirect=True)
packed = pytest.mark.parametrize("case", PACKED, indirect=True)


@pytest.mark.parametrize("name", ALL)
def test_a_network_is_packed_where_its_architecture_is_known_and_generic_elsewhere(name):
    found = network(ALL[name](), scale=SCALE)
    assert isinstance(found, PackedForward if name in PACKED else GenericForward)
    assert found.shares_prefix == (name in PACKED)


@pytest.mark.parametrize(
    ("name", "shared"), [*((name, 0) for name in ALL), *((name, 10) for name in PACKED)]
)
def test_logits_are_the_models_own_at_every_position(name, shared):
    """Of the base itself, and of the base with mlx-lm's LoRA layers; with a prefix and without."""
    model, adapted = tiny.irregular(ALL[name]()), tiny.irregular(ALL[name]())
    factors = tiny.adapter_for(model).factors
    attach(adapted, factors, SCALE)
    rows = [tiny.example(*row.tokens, taught=len(row.tokens) - shared - 1) for row in tiny.rows(3)]

    def own(model: nn.Module) -> np.ndarray:
        outputs = [np.array(model(mx.array([row.tokens[:-1]]))[0]) for row in rows]
        return np.concatenate([logits[shared:] for logits in outputs])

    batch = collate(rows, rows[0].tokens[:shared])
    assert batch.layout.prefix == shared
    wanted = own(model), own(adapted)  # before the packed form fuses the weights
    called = network(model, scale=SCALE)
    for given, expected in zip(({}, factors), wanted, strict=True):
        found = np.array(called.logits(given, batch))
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@every
def test_loss_and_gradients_equal_the_naive_ones(case):
    tiny.assert_same(case.loss_and_gradients(case.batch(shared=False)), case.wanted, TOLERANCE)


@every
def test_a_row_does_not_depend_on_the_others_nor_on_their_order(case):
    alone = [collate([row], ()) for row in case.rows]
    tiny.assert_same(case.loss_and_gradients(*alone), case.wanted, TOLERANCE)
    turned = collate(case.rows[::-1], ())
    tiny.assert_same(case.loss_and_gradients(turned), case.wanted, TOLERANCE)


@every
def test_padding_changes_nothing(case):
    padded = Shape(rows=5, prefix=0, flat=130, width=40, supervised=33)
    batch = case.batch(shared=False, padded=padded)
    tiny.assert_same(case.loss_and_gradients(batch), case.wanted, TOLERANCE)


@packed
@pytest.mark.parametrize(
    "padded",
    [None, Shape(rows=5, prefix=10, flat=100, width=30, supervised=33)],
    ids=["as it is", "padded"],
)
def test_a_prefix_computed_once_equals_whole_rows(case, padded):
    batch = case.batch(shared=True, padded=padded)
    assert batch.layout.prefix == 10
    tiny.assert_same(case.loss_and_gradients(batch), case.wanted, TOLERANCE)


@packed
@pytest.mark.parametrize("layers", [1, 2])
def test_layers_computed_again_equal_kept_ones(case, layers):
    found = case.loss_and_gradients(case.batch(shared=True), checkpoint_layers=layers)
    tiny.assert_same(found, case.wanted, TOLERANCE)


@packed
@pytest.mark.parametrize("chunk", [1, 5])
def test_a_loss_in_chunks_equals_the_whole(case, chunk):
    found = case.loss_and_gradients(case.batch(shared=True), loss_chunk=chunk)
    tiny.assert_same(found, case.wanted, TOLERANCE)


@packed
def test_the_functions_that_a_gpu_is_given_compute_the_same(monkeypatch, case):
    """MLX's own attention, softmax and exponential, here on the CPU: the masks fit them too."""
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    found = case.loss_and_gradients(case.batch(shared=True), loss_chunk=5)
    tiny.assert_same(found, case.wanted, TOLERANCE)


TOKENS = mx.array([[5, 6, 7, 8]])


def logits(model) -> np.ndarray:
    return np.array(model(TOKENS))


def test_a_fresh_adapter_changes_nothing():
    model = tiny.model()
    before = logits(model)
    attach(model, init_adapter(model, rank=4, scale=2.0, seed=0)[0].factors, 2.0)
    assert np.array_equal(logits(model), before)


def test_the_change_is_the_scale_times_the_product():
    model = tiny.model()
    path = "model.layers.1.mlp.up_proj"
    a, b = tiny.adapter_for(model).factors[path]
    x = mx.random.normal((3, 32), key=mx.random.key(0))
    before = np.array(model.layers[1].mlp.up_proj(x))
    attach(model, {path: (a, b)}, 3.0)
    wanted = before + 3.0 * (np.array(x) @ np.array(a) @ np.array(b))
    assert np.allclose(np.array(model.layers[1].mlp.up_proj(x)), wanted, atol=1e-5)
    assert sum(isinstance(m, LoRALinear) for m in model.modules()) == 1


def test_new_factors_take_the_place_of_those_a_model_has():
    first, second = (tiny.adapter_for(tiny.model(), seed=seed).factors for seed in (1, 2))
    twice, once = tiny.model(), tiny.model()
    attach(twice, first, 2.0)
    attach(twice, second, 2.0)
    attach(once, second, 2.0)
    assert np.array_equal(logits(twice), logits(once))


def test_a_quantised_layer_is_wrapped_and_kept():
    model = tiny.model()
    nn.quantize(model, group_size=32, bits=4)
    before = logits(model)
    attach(model, init_adapter(model, rank=2, scale=2.0, seed=0)[0].factors, 2.0)
    assert np.array_equal(logits(model), before)
    assert isinstance(model.layers[0].mlp.down_proj.linear, nn.QuantizedLinear)


def test_dropout_is_refused_where_the_layers_are_not_known():
    model = tiny.model(model_type="gemma2")
    with pytest.raises(IncompatibleError) as error:
        network(model, dropout=0.1)
    assert str(error.value) == (
        "mlx_lm.models.gemma2: --dropout needs an architecture that is known layer by layer; "
        "train this one with --dropout 0"
    )


def test_logits_are_those_after_each_supervised_token_of_padded_rows():
    """A packable model in the generic form, so that both forms are called with one batch."""
    rows = tiny.rows(4)
    factors = tiny.adapter_for(tiny.model()).factors
    batch = collate(rows, ())
    found = np.array(GenericForward(tiny.model(), scale=2.0).logits(factors, batch))
    wanted = np.array(network(tiny.model(), scale=2.0).logits(factors, batch))
    assert found.shape == (sum(sum(row.supervised) for row in rows), tiny.VOCABULARY)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_checkpointing_is_refused_where_the_layers_are_not_known():
    with pytest.raises(IncompatibleError, match="--checkpoint-layers needs an architecture"):
        network(tiny.model(model_type="gemma2", query_pre_attn_scalar=8.0), checkpoint_layers=1)
