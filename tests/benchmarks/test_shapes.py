import pytest
from mlx.utils import tree_flatten

from benchmarks.shapes import SHAPES
from benchmarks.sides import mlx_model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-3.2-3b", 3_212_749_824), ("smollm2-135m", 134_515_008)],  # as their pages say
)
def test_a_shape_has_as_many_weights_as_its_model(name, parameters):
    shape = SHAPES[name]
    layer = sum(i * o for i, o in shape.projections()) + 2 * shape.hidden
    assert shape.layers * layer + (shape.vocabulary + 1) * shape.hidden == parameters


def test_a_shape_is_built_as_it_says():
    shape = SHAPES["tiny"]
    model = mlx_model.build(shape, dtype="bfloat16", seed=0)
    weights = dict(tree_flatten(model.parameters()))
    found = [
        weight.shape
        for name, weight in weights.items()
        if name.startswith("model.layers.0.") and "norm" not in name
    ]
    assert sorted(found) == sorted((o, i) for i, o in shape.projections())
    assert {str(weight.dtype) for weight in weights.values()} == {"mlx.core.bfloat16"}


def test_llama_3_gets_its_rotary_scaling():
    scaling = SHAPES["llama-3.2-3b"].config()["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 32.0)
