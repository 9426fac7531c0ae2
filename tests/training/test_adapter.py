import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters

import tiny
from mlx_tune.errors import IncompatibleError, InputError
from mlx_tune.training.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    attach,
    from_safetensors,
    to_safetensors,
)


def test_a_fresh_adapter_changes_nothing():
    model = tiny.model()
    tokens = mx.array([[5, 6, 7, 8]])
    before = np.array(model(tokens))
    attach(model, rank=4, scale=2.0, seed=0)
    assert np.array_equal(np.array(model(tokens)), before)


def test_all_seven_projections_of_every_layer_are_adapted_and_nothing_else_trains():
    model = tiny.model()
    attach(model, rank=4, scale=2.0, seed=0)
    found = dict(tree_flatten(model.trainable_parameters()))
    assert len(found) == 2 * 7 * 2  # layers × projections × factors
    # q 32→32, k and v 32→16, o 32→32, gate and up 32→64, down 64→32; rank 4
    per_layer = 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 64) + (64 + 32))
    assert sum(value.size for value in found.values()) == 2 * per_layer


def test_one_seed_draws_one_adapter():
    def first(seed):
        model = tiny.model()
        attach(model, rank=2, scale=2.0, seed=seed)
        return np.array(model.model.layers[0].self_attn.q_proj.lora_a)

    assert np.array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def test_an_adapter_survives_its_files():
    adapter = tiny.adapter_on(tiny.model())
    files = adapter.files(num_layers=2)
    back = Adapter.from_files(files[WEIGHTS_FILE], files[CONFIG_FILE], place="here")
    assert (back.rank, back.scale, back.factors.keys()) == (4, 2.0, adapter.factors.keys())
    for path, (lora_a, lora_b) in adapter.factors.items():
        assert np.array_equal(np.array(back.factors[path][0]), np.array(lora_a))
        assert np.array_equal(np.array(back.factors[path][1]), np.array(lora_b))


def test_mlx_lm_reads_the_files_and_computes_the_same(tmp_path):
    model = tiny.model()
    adapter = tiny.adapter_on(model)
    for name, data in adapter.files(num_layers=2).items():
        (tmp_path / name).write_bytes(data)
    theirs = load_adapters(tiny.model(), str(tmp_path))
    tokens = mx.array([[9, 8, 7]])
    assert np.allclose(np.array(theirs(tokens)), np.array(model(tokens)), atol=1e-6)


def test_a_factor_without_its_partner_is_refused():
    adapter = tiny.adapter_on(tiny.model())
    files = adapter.files(num_layers=2)
    arrays = from_safetensors(files[WEIGHTS_FILE], place="x")
    del arrays["model.layers.0.mlp.up_proj.lora_b"]
    with pytest.raises(InputError) as error:
        Adapter.from_files(to_safetensors(arrays), files[CONFIG_FILE], place="s")
    assert str(error.value) == (
        "s/adapters.safetensors: model.layers.0.mlp.up_proj.lora_a stands alone; expected a pair"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    data = to_safetensors({"w": mx.array([1.0, value])})
    with pytest.raises(InputError, match="x: w holds numbers that are not finite"):
        from_safetensors(data, place="x")


def test_a_truncated_file_is_refused_before_mlx_sees_it():
    data = to_safetensors({"w": mx.ones((8,))})
    with pytest.raises(InputError, match="the file is damaged"):
        from_safetensors(data[:-3], place="x")


def test_the_config_is_the_one_mlx_lm_writes():
    config = json.loads(tiny.adapter_on(tiny.model()).files(num_layers=2)[CONFIG_FILE])
    assert config["fine_tune_type"] == "lora"
    assert config["lora_parameters"]["scale"] == 2.0


def test_an_architecture_that_merges_projections_says_which_it_lacks():
    from mlx_lm.models import phi3

    changes = {"rope_scaling": None, "original_max_position_embeddings": 512}
    config = tiny.config(model_type="phi3", **changes)
    merged = phi3.Model(phi3.ModelArgs.from_dict(config))
    lacking = attach(merged, rank=2, scale=2.0, seed=0)
    attention = [f"self_attn.{x}_proj" for x in "qkv"]
    assert lacking == (*attention, "mlp.gate_proj", "mlp.up_proj")
    assert attach(tiny.model(), rank=2, scale=2.0, seed=0) == ()


def test_a_model_without_the_projections_is_refused_by_name():
    import mlx.nn as nn

    class Odd(nn.Module):
        layers = (nn.Linear(2, 2),)

    with pytest.raises(IncompatibleError, match="has none of the projections"):
        attach(Odd(), rank=1, scale=1.0, seed=0)
