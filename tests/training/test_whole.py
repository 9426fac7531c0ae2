import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

from helpers import tiny
from mlx_tune.errors import IncompatibleError
from mlx_tune.training.adapter import fresh
from mlx_tune.training.batches import collate
from mlx_tune.training.generic import GenericForward, attach, network

TOKENS = mx.array([[5, 6, 7, 8]])


def logits(model) -> np.ndarray:
    return np.array(model(TOKENS))


def test_a_fresh_adapter_changes_nothing():
    model = tiny.model()
    before = logits(model)
    attach(model, fresh(model, rank=4, scale=2.0, seed=0)[0].factors, 2.0)
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
    attach(model, fresh(model, rank=2, scale=2.0, seed=0)[0].factors, 2.0)
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
    """A walkable model called whole, so that both kinds of network meet one batch."""
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
