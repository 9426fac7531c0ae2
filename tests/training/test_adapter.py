import json
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.utils import load_adapters

from helpers import tiny
from mlx_tune.continual.fold import fold
from mlx_tune.errors import DamagedStoreError, IncompatibleError, InputError
from mlx_tune.training.adapter import (
    CONFIG_FILE,
    PROJECTIONS,
    WEIGHTS_FILE,
    Adapter,
    flatten_factors,
    from_safetensors,
    init_adapter,
    to_safetensors,
    unflatten_factors,
)


def test_all_seven_projections_of_every_layer_are_adapted_and_nothing_else():
    adapter, missing = init_adapter(tiny.model(), rank=4, scale=2.0, seed=0)
    assert missing == []
    assert adapter.factors.keys() == {
        f"model.layers.{layer}.{projection}" for layer in (0, 1) for projection in PROJECTIONS
    }
    # q 32→32, k and v 32→16, o 32→32, gate and up 32→64, down 64→32; rank 4
    per_layer = 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 64) + (64 + 32))
    assert sum(f.size for pair in adapter.factors.values() for f in pair) == 2 * per_layer


def test_a_fresh_adapter_is_drawn_as_mlx_lm_draws_it_and_its_second_factors_are_zero():
    adapter, _ = init_adapter(tiny.model(), rank=64, scale=2.0, seed=0)
    for path, (lora_a, lora_b) in adapter.factors.items():
        bound = 1 / np.sqrt(lora_a.shape[0])
        drawn = np.array(lora_a)
        assert (lora_a.dtype, lora_b.dtype) == (mx.float32, mx.float32)
        assert 0.98 * bound < np.abs(drawn).max() <= bound, path
        assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)  # uniform
        assert not np.array(lora_b).any()


def test_one_seed_draws_one_adapter_and_every_layer_its_own():
    def drawn(seed):
        adapter, _ = init_adapter(tiny.model(), rank=2, scale=2.0, seed=seed)
        return [np.array(lora_a).tobytes() for lora_a, _ in adapter.factors.values()]

    assert drawn(1) == drawn(1)
    assert not set(drawn(1)) & set(drawn(2))
    assert len(set(drawn(1))) == 14


def test_what_was_drawn_before_does_not_change_an_adapter():
    mx.random.seed(5)
    first = init_adapter(tiny.model(), rank=2, scale=2.0, seed=1)[0].factors
    mx.random.seed(6)
    second = init_adapter(tiny.model(), rank=2, scale=2.0, seed=1)[0].factors
    for path, (lora_a, _) in first.items():
        assert np.array_equal(np.array(lora_a), np.array(second[path][0]))


def test_a_quantised_layer_and_one_with_a_chain_beside_it_have_their_true_dimensions():
    plain = init_adapter(tiny.model(), rank=2, scale=2.0, seed=1)[0].factors
    model = tiny.model()
    nn.quantize(model, group_size=32, bits=4)
    for chain in ([], [tiny.adapter_for(model)]):
        fold(model, chain)
        found = init_adapter(model, rank=2, scale=2.0, seed=1)[0].factors
        assert {p: (a.shape, b.shape) for p, (a, b) in found.items()} == {
            p: (a.shape, b.shape) for p, (a, b) in plain.items()
        }


def test_factors_survive_their_names():
    factors = tiny.adapter_for(tiny.model()).factors
    names = flatten_factors(factors, "m.")
    assert "m.model.layers.1.mlp.up_proj.lora_b" in names
    assert unflatten_factors(names, factors, "m.") == factors


def test_an_adapter_survives_its_files():
    adapter = tiny.adapter_for(tiny.model())
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
    adapter = tiny.adapter_for(tiny.model())
    files = adapter.files(num_layers=2)
    arrays = from_safetensors(files[WEIGHTS_FILE], place="x")
    del arrays["model.layers.0.mlp.up_proj.lora_b"]
    with pytest.raises(InputError) as error:
        Adapter.from_files(to_safetensors(arrays), files[CONFIG_FILE], place="s")
    assert str(error.value) == (
        's/adapters.safetensors: "model.layers.0.mlp.up_proj.lora_a" stands alone; expected a pair'
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    data = to_safetensors({"w": mx.array([1.0, value])})
    with pytest.raises(InputError) as error:
        from_safetensors(data, place="x")
    assert str(error.value) == (
        'x: "w" holds numbers that are not finite, 1 of 2; train again with a lower --learning-rate'
    )


def test_a_truncated_file_is_refused_before_mlx_sees_it():
    data = to_safetensors({"w": mx.ones((8,))})
    with pytest.raises(DamagedStoreError) as error:
        from_safetensors(data[:-3], place="x")
    assert re.fullmatch(
        "x: not a sound safetensors file: .*; run `mlx-tune doctor`", str(error.value)
    )


def test_every_number_of_a_checkpoint_is_float32():
    data = to_safetensors({"w": mx.ones((8,), dtype=mx.bfloat16)})
    with pytest.raises(InputError) as error:
        from_safetensors(data, place="x")
    assert str(error.value) == 'x: "w" is BF16; expected F32, float32'


def test_the_config_is_the_one_mlx_lm_writes():
    config = json.loads(tiny.adapter_for(tiny.model()).files(num_layers=2)[CONFIG_FILE])
    assert config["fine_tune_type"] == "lora"
    assert config["lora_parameters"]["scale"] == 2.0


def test_an_architecture_that_names_projections_otherwise_says_which_it_lacks():
    adapter, missing = init_adapter(tiny.model(model_type="starcoder2"), rank=2, scale=2.0, seed=0)
    assert missing == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert {path.split(".", 3)[3] for path in adapter.factors} == set(PROJECTIONS) - set(missing)


def test_projections_that_an_architecture_merges_are_adapted_merged():
    changes = {"rope_scaling": None, "original_max_position_embeddings": 512}
    merged = tiny.model(model_type="phi3", **changes)
    adapter, missing = init_adapter(merged, rank=2, scale=2.0, seed=0)
    kept = ["self_attn.o_proj", "mlp.down_proj", "self_attn.qkv_proj", "mlp.gate_up_proj"]
    assert missing == []
    assert {path.split(".", 3)[3] for path in adapter.factors} == set(kept)
    assert json.loads(adapter.files(2)["adapter_config.json"])["lora_parameters"]["keys"] == kept


def test_a_model_without_the_projections_is_refused_by_name():
    class Odd(nn.Module):
        layers = (nn.Linear(2, 2),)

    with pytest.raises(IncompatibleError, match="has none of the projections"):
        init_adapter(Odd(), rank=1, scale=1.0, seed=0)
