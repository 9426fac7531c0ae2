"""Quantising a model in place."""

import mlx.nn as nn
import pytest

from helpers import tiny
from mlx_tune.errors import UsageError
from mlx_tune.models.load import Quantisation

FORM = Quantisation(bits=4, group_size=32)
SPARED = "model.layers.0.mlp.up_proj"


def quantised(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if hasattr(module, "bits")}


def test_linear_layers_and_the_embedding_are_quantised_and_the_config_says_so():
    model, config = tiny.model(), {"model_type": "llama"}
    FORM.apply(model, config)
    linears = {name for name, module in model.named_modules() if hasattr(module, "scales")}
    assert {"model.embed_tokens", SPARED} <= quantised(model) == linears
    assert config == {
        "model_type": "llama",
        "quantization": {"group_size": 32, "bits": 4, "mode": "affine"},
    }


def test_an_architecture_may_spare_a_layer_or_choose_its_bits():
    model, config = tiny.model(), {}
    other = "model.layers.1.mlp.up_proj"
    choices = {SPARED: False, other: {"group_size": 32, "bits": 8}}
    model.quant_predicate = lambda path, _: choices.get(path, True)
    FORM.apply(model, config)
    assert SPARED not in quantised(model)
    assert model.layers[1].mlp.up_proj.bits == 8
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        other: {"group_size": 32, "bits": 8},
    }


def test_a_model_without_rows_of_such_groups_is_refused():
    with pytest.raises(UsageError, match="no layer of this base has rows that groups of 128"):
        Quantisation(bits=4, group_size=128).apply(tiny.model(), {})
