from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from helpers import tiny
from mlx_tune.continual.fold import UnmergedLinear, delta, fold, negated_factors
from mlx_tune.continual.recall import score
from mlx_tune.errors import IncompatibleError
from mlx_tune.training.batches import collate
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.loop import Trainer
from mlx_tune.training.packed import PackedForward

TOKENS = mx.array([[7, 8, 9, 10, 11]])


def logits(model) -> np.ndarray:
    return np.array(model(TOKENS).astype(mx.float32))


def test_the_change_by_hand():
    a, b = mx.array([[1.0], [2.0]]), mx.array([[3.0, 4.0, 5.0]])
    assert np.array(delta(a, b, 2.0)).tolist() == [[6.0, 12.0], [8.0, 16.0], [10.0, 20.0]]


def test_three_sessions_are_all_there():
    """The seed program kept one adapter, so its third session lost the first.

    Each session's model, as trained, is the fold of its chain with its own adapter live; folding
    that adapter too must give the same logits, at every depth.
    """
    chain = []
    for seed, rank in ((1, 4), (2, 2), (3, 8)):
        as_trained = tiny.model()
        fold(as_trained, chain)
        chain.append(tiny.adapter_on(as_trained, seed=seed, rank=rank))
        folded = tiny.model()
        fold(folded, chain, rounded=False)
        wanted = logits(as_trained)
        assert np.abs(logits(folded) - wanted).max() <= 1e-4 * np.abs(wanted).max()

    def folded_logits(adapters):
        model = tiny.model()
        fold(model, adapters)
        return logits(model)

    whole = folded_logits(chain)
    for missing in range(3):  # each of the three changes the answer: none is lost, none is idle
        without = folded_logits(chain[:missing] + chain[missing + 1 :])
        assert np.abs(whole - without).max() > 1e-2


def test_a_fold_rounds_once_to_the_stored_type():
    adapters = [tiny.adapter_for(tiny.model(), seed=seed, size=0.02) for seed in (1, 2, 3)]
    stored = tiny.model()
    stored.set_dtype(mx.bfloat16)
    path = "model.layers.0.mlp.up_proj"
    total = np.array(dict(stored.named_modules())[path].weight.astype(mx.float32))
    for adapter in adapters:
        total = total + np.array(delta(*adapter.factors[path], adapter.scale))
    fold(stored, adapters)
    folded = dict(stored.named_modules())[path].weight
    assert folded.dtype == mx.bfloat16
    exact = mx.array(total).astype(mx.bfloat16)
    # float32 sums in another order may fall to the other side of a rounding boundary.
    same = np.array(folded.astype(mx.float32)) == np.array(exact.astype(mx.float32))
    assert same.mean() > 0.999


def test_folding_an_empty_chain_changes_nothing():
    model = tiny.model()
    before = {n: np.array(v) for n, v in tree_flatten(model.parameters())}
    fold(model, [])
    for name, value in tree_flatten(model.parameters()):
        assert np.array_equal(np.array(value), before[name])


def test_the_same_chain_folds_to_the_same_bits():
    adapters = [tiny.adapter_for(tiny.model(), seed=seed) for seed in (1, 2)]
    models = [tiny.model(), tiny.model()]
    for model in models:
        fold(model, adapters)
    assert np.array_equal(logits(models[0]), logits(models[1]))


def test_a_quantised_layer_is_left_as_it_is_with_the_chain_beside_it():
    adapters = [tiny.adapter_for(tiny.model(), seed=seed) for seed in (1, 2)]
    quantised = tiny.model()
    nn.quantize(quantised, group_size=32, bits=4)
    reference = tiny.model()
    nn.quantize(reference, group_size=32, bits=4)
    fold(quantised, adapters)
    layer = quantised.model.layers[1].mlp.down_proj
    assert isinstance(layer, UnmergedLinear)
    assert layer._chain_a.shape == (64, 8)
    x = mx.random.normal((3, 64), key=mx.random.key(0))
    wanted = np.array(reference.model.layers[1].mlp.down_proj(x))
    for adapter in adapters:
        a, b = adapter.factors["model.layers.1.mlp.down_proj"]
        wanted = wanted + 2.0 * (np.array(x) @ np.array(a) @ np.array(b))
    assert np.allclose(np.array(layer(x)), wanted, atol=1e-4)


def test_a_second_session_trains_on_a_quantised_base():
    """Its fresh adapter changes nothing, and then it learns what the first one did not know."""
    model = tiny.model()
    nn.quantize(model, group_size=32, bits=4)
    chain = [tiny.adapter_for(model)]
    fold(model, chain)
    before = logits(model)
    row = tiny.example(*range(40, 60), taught=12)
    trainer = Trainer(model, [row], TrainingConfig(
        rank=4, scale=2.0, epochs=25, batch_size=1, grad_accumulation=1,
        learning_rate=1e-2, new_rows=1, seed=9, compile=False,
    ))  # fmt: skip
    assert trainer.adapter().factors.keys() == chain[0].factors.keys()
    steps = list(trainer.steps())
    assert np.array_equal(logits(model), before)  # the base and its chain stay as they are
    assert steps[0].loss == pytest.approx(score(model, [row]).loss, rel=1e-5)
    assert steps[-1].loss < 0.5 * steps[0].loss
    folded = tiny.model()
    nn.quantize(folded, group_size=32, bits=4)
    fold(folded, [*chain, trainer.adapter()])
    assert score(folded, [row]).loss < 0.6 * steps[0].loss


def refusal(adapter, model) -> str:
    with pytest.raises(IncompatibleError) as error:
        fold(model, [tiny.adapter_for(model), adapter])
    return str(error.value)


def test_an_adapter_of_another_shape_is_refused_with_the_first_three_differences():
    adapter = tiny.adapter_for(tiny.model())
    layer = "model.layers.0"
    assert refusal(adapter, tiny.model(hidden_size=48, num_attention_heads=6)) == (
        "adapter 2 of the chain does not fit the base model: "
        f"{layer}.mlp.down_proj: (64, 4), (4, 32); expected ((64, 4), (4, 48)); "
        f"{layer}.mlp.gate_proj: (32, 4), (4, 64); expected ((48, 4), (4, 64)); "
        f"{layer}.mlp.up_proj: (32, 4), (4, 64); expected ((48, 4), (4, 64))"
    )


def test_an_adapter_of_another_rank_than_it_says_is_refused():
    adapter = replace(tiny.adapter_for(tiny.model()), rank=8)
    assert refusal(adapter, tiny.model()).startswith(
        "adapter 2 of the chain does not fit the base model: "
        "model.layers.0.mlp.down_proj: (64, 4), (4, 32); expected ((64, 8), (8, 32)); "
    )


def test_an_adapter_for_layers_the_base_lacks_is_refused():
    adapter = tiny.adapter_for(tiny.model(num_hidden_layers=3))
    assert refusal(adapter, tiny.model()) == (
        "adapter 2 of the chain does not fit the base model: "
        "model.layers.2.mlp.down_proj: the base has no such layer; "
        "model.layers.2.mlp.gate_proj: the base has no such layer; "
        "model.layers.2.mlp.up_proj: the base has no such layer"
    )


@pytest.mark.parametrize("path", ["model.norm", "model.embed_tokens", "model.layers.0"])
def test_an_adapter_for_what_is_no_linear_layer_is_refused(path):
    adapter = tiny.adapter_for(tiny.model())
    pair = adapter.factors["model.layers.0.self_attn.q_proj"]
    odd = replace(adapter, factors={**adapter.factors, path: pair})
    assert refusal(odd, tiny.model()) == (
        f"adapter 2 of the chain does not fit the base model: {path}: no linear layer of the base"
    )


def test_an_adapter_may_leave_layers_alone():
    whole = tiny.adapter_for(tiny.model())
    part = {path: pair for path, pair in whole.factors.items() if "down_proj" not in path}
    model = tiny.model()
    before = np.array(model.model.layers[0].mlp.down_proj.weight)
    fold(model, [replace(whole, factors=part)])
    assert np.array_equal(np.array(model.model.layers[0].mlp.down_proj.weight), before)


def test_a_folded_chain_with_its_negated_factors_is_the_base():
    """Beside the folded weights, and so with no second model."""
    base, folded = tiny.model(), tiny.model()
    chain = [tiny.adapter_for(base, seed=seed, rank=rank) for seed, rank in ((1, 4), (2, 2))]
    fold(folded, chain)
    batch = collate(tiny.rows(4), ())
    scale = 0.5
    negated = negated_factors(chain, scale=scale)
    found = PackedForward(folded, scale=scale).logits(negated, batch)
    wanted = np.array(PackedForward(base).logits({}, batch))
    assert np.abs(np.array(found) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    with_chain = np.array(PackedForward(folded).logits({}, batch))
    assert np.abs(with_chain - wanted).max() > 0.1 * np.abs(wanted).max()
    assert negated_factors([], scale=scale) == {}


def test_a_fold_holds_the_terms_of_a_long_chain_one_at_a_time():
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}
    model = tiny.model(**wide)
    chain = [tiny.adapter_for(model, seed=seed) for seed in range(40)]
    largest = 512 * 1024 * 4
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    fold(model, chain)
    assert mx.get_peak_memory() - before < 6 * largest
