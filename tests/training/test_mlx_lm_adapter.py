"""An adapter that mlx-lm itself makes is read as mlx-lm reads it; what is none is refused."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm import load as load_with_mlx_lm
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from helpers import tiny
from mlx_tune.continual.fold import fold
from mlx_tune.errors import InputError, NotFiniteError
from mlx_tune.training.adapter import CONFIG_FILE, WEIGHTS_FILE
from mlx_tune.training.mlx_lm_adapter import is_mlx_lm, read_mlx_lm

TOKENS = mx.arange(3, 30)[None]
PARAMETERS = {"rank": 4, "scale": 20.0, "dropout": 0.0}


@pytest.fixture
def base(tmp_path):
    return tiny.base_folder(tmp_path / "base")


@pytest.fixture
def folder(tmp_path, base):
    """An adapter as `mlx_lm.lora` saves it: the last layer, its default keys."""
    model, _ = load_model(base)
    model.freeze()
    linear_to_lora_layers(model, 1, PARAMETERS)
    mx.random.seed(3)
    trained = {
        name: mx.random.normal(array.shape) * 0.1
        for name, array in tree_flatten(model.trainable_parameters())
    }
    made = tmp_path / "notes"
    made.mkdir()
    mx.save_safetensors(str(made / WEIGHTS_FILE), trained)
    config = {
        "model": "mlx-community/tiny-4bit", "fine_tune_type": "lora", "num_layers": 1,
        "lora_parameters": PARAMETERS, "data": "data", "iters": 100,
    }  # fmt: skip
    (made / CONFIG_FILE).write_text(json.dumps(config))
    return made


def test_it_computes_what_mlx_lm_computes_with_it(base, folder):
    assert is_mlx_lm(folder)
    found = read_mlx_lm(folder)
    theirs, _ = load_with_mlx_lm(str(base), adapter_path=str(folder))
    plain, _ = load_model(base)
    before = np.array(plain(TOKENS))
    fold(plain, [found.adapter], rounded=False)
    wanted = np.array(theirs(TOKENS))
    assert np.abs(wanted - before).max() > 0.01
    assert np.abs(np.array(plain(TOKENS)) - wanted).max() <= 1e-4
    assert (found.format, found.base, found.adapter.rank) == (
        "mlx-lm",
        "mlx-community/tiny-4bit",
        4,
    )
    assert {path.split(".")[2] for path in found.adapter.factors} == {"1"}  # the last layer


def test_sixteen_bits_are_widened(folder):
    arrays = mx.load(str(folder / WEIGHTS_FILE))
    halves = {name: array.astype(mx.bfloat16) for name, array in arrays.items()}
    mx.save_safetensors(str(folder / WEIGHTS_FILE), halves)
    for pair in read_mlx_lm(folder).adapter.factors.values():
        assert {factor.dtype for factor in pair} == {mx.float32}


CONFIGS = {
    "fine_tune_type": ("dora", 'fine_tune_type is "dora", which is no sum of a base and a product'),
    "lora_parameters": ({"rank": 4}, "lora_parameters.scale is no number above 0"),
    "lora_parameters ": ([], "lora_parameters.scale is no number above 0"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_config_that_is_no_plain_lora_is_refused(folder, key):
    value, words = CONFIGS[key]
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, key.strip(): value}))
    with pytest.raises(InputError, match=words):
        read_mlx_lm(folder)


UP = "model.layers.1.mlp.up_proj"
REFUSED = {
    f'"{UP}.m" is no lora_a or lora_b of a projection': {f"{UP}.m": mx.ones((64,))},
    '"model.embed_tokens.lora_a" is no lora_a or lora_b of a projection': {
        "model.embed_tokens.lora_a": mx.ones((259, 4))
    },
    f'"{UP}" has one factor; expected a pair': {f"{UP}.lora_a": None},
    r"lora_a \[32, 3\] and lora_b \[4, 64\] do not fit": {f"{UP}.lora_a": mx.ones((32, 3))},
    "are no factors' types": {f"{UP}.lora_a": mx.ones((32, 4), dtype=mx.int32)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_weights_that_are_none_are_refused(folder, words):
    arrays = {**mx.load(str(folder / WEIGHTS_FILE)), **REFUSED[words]}
    kept = {name: array for name, array in arrays.items() if array is not None}
    mx.save_safetensors(str(folder / WEIGHTS_FILE), kept)
    with pytest.raises(InputError, match=words):
        read_mlx_lm(folder)


def test_damage_and_numbers_that_are_none_are_refused(folder):
    arrays = mx.load(str(folder / WEIGHTS_FILE))
    spoilt = {**arrays, f"{UP}.lora_b": arrays[f"{UP}.lora_b"] * float("nan")}
    mx.save_safetensors(str(folder / "spoilt"), spoilt)
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / "spoilt.safetensors").replace(folder / WEIGHTS_FILE)
    with pytest.raises(NotFiniteError):
        read_mlx_lm(folder)
    (folder / WEIGHTS_FILE).write_bytes(whole[:-5])
    with pytest.raises(InputError, match="copy the adapter again"):
        read_mlx_lm(folder)
    mx.save_safetensors(str(folder / WEIGHTS_FILE), {})
    with pytest.raises(InputError, match="holds no factors"):
        read_mlx_lm(folder)
    (folder / CONFIG_FILE).write_text("[]")
    with pytest.raises(InputError, match="not a JSON object; copy the adapter again"):
        read_mlx_lm(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(InputError, match="missing, or not a file; mlx-lm writes it beside"):
        read_mlx_lm(folder)
