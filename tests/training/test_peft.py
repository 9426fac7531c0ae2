"""Adapters of PEFT: what PEFT itself wrote is read, means the same, and is written as it was."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import regex

from helpers import tiny
from mlx_tune.continual.fold import fold
from mlx_tune.errors import InputError, NotFiniteError
from mlx_tune.training.adapter import Adapter, joined
from mlx_tune.training.peft import CONFIG_FILE, WEIGHTS_FILE, peft_files, read_peft

GOLDEN = Path(__file__).parents[1] / "golden" / "peft"
NAMES = ("llama", "mistral", "qwen2")
MLX_LMS = {"mistral": "llama"}
"""By architecture, its name among mlx-lm's, where that is another."""


def reference(name):
    """Return the tiny base that PEFT adapted, the tokens, and the logits that PEFT computed."""
    arrays, metadata = mx.load(str(GOLDEN / name / "logits.safetensors"), return_metadata=True)
    settings = json.loads(metadata["config"])
    settings |= {"rope_parameters": None, "model_type": MLX_LMS.get(name, name)}
    model = tiny.model(**settings)
    weights = {k.removeprefix("base."): v for k, v in arrays.items() if k.startswith("base.")}
    model.load_weights(list(weights.items()))
    return model, arrays["tokens"], np.array(arrays["logits"])


def logits(model, tokens):
    return np.array(model(tokens[None])[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_of_peft_gives_the_logits_that_peft_computes(name):
    model, tokens, wanted = reference(name)
    before = logits(model, tokens)
    fold(model, [read_peft(GOLDEN / name).adapter], rounded=False)
    assert np.abs(logits(model, tokens) - wanted).max() <= 1e-4
    assert np.abs(before - wanted).max() > 0.1  # the adapter changes something


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_it_is_written_with_the_tensors_that_peft_wrote(name, tmp_path):
    found = read_peft(GOLDEN / name)
    for file, data in peft_files(found.adapter, base="some/base").items():
        (tmp_path / file).write_bytes(data)
    ours, theirs = (mx.load(str(path / WEIGHTS_FILE)) for path in (tmp_path, GOLDEN / name))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]) for key in ours)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    kept = json.loads((GOLDEN / name / CONFIG_FILE).read_text())
    same = ("peft_type", "task_type", "r", "bias", "use_dora")
    assert {key: config[key] for key in same} == {key: kept[key] for key in same}
    assert sorted(config["target_modules"]) == sorted(kept["target_modules"])
    assert config["lora_alpha"] / config["r"] == found.adapter.scale


def test_ranks_and_scales_of_modules_become_one(tmp_path):
    adapter = read_peft(GOLDEN / "qwen2").adapter
    assert adapter.rank == 6  # of one module; the others have zeros
    for file, data in peft_files(adapter, base="some/base").items():
        (tmp_path / file).write_bytes(data)
    again = read_peft(tmp_path).adapter
    model, tokens, wanted = reference("qwen2")
    fold(model, [again], rounded=False)
    assert np.abs(logits(model, tokens) - wanted).max() <= 1e-4


def test_a_scale_that_is_no_whole_alpha_goes_into_the_factors(tmp_path):
    made = tiny.adapter_for(tiny.model(), rank=4, size=0.1)
    adapter = Adapter(factors=made.factors, rank=4, scale=0.7)
    for file, data in peft_files(adapter, base="some/base").items():
        (tmp_path / file).write_bytes(data)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    first, second = tiny.model(), tiny.model()
    fold(first, [adapter], rounded=False)
    fold(second, [read_peft(tmp_path).adapter], rounded=False)
    tokens = mx.arange(3, 20)
    assert np.abs(logits(first, tokens) - logits(second, tokens)).max() <= 1e-5


def test_a_chain_joined_is_one_adapter_that_computes_the_same():
    made = [tiny.adapter_for(tiny.model(), rank=r, size=0.1, seed=r) for r in (2, 3)]
    lacking = {path: pair for path, pair in made[1].factors.items() if "mlp" not in path}
    chain = [made[0], Adapter(factors=lacking, rank=3, scale=0.5)]
    one = joined(chain)
    assert one.rank == 5
    first, second = tiny.model(), tiny.model()
    fold(first, chain, rounded=False)
    fold(second, [one], rounded=False)
    tokens = mx.arange(3, 20)
    assert np.abs(logits(first, tokens) - logits(second, tokens)).max() <= 1e-5
    assert joined(chain[:1]) is chain[0]
    config = json.loads(peft_files(one, base="b")[CONFIG_FILE])
    assert (config["lora_dropout"], config["inference_mode"], config["bias"]) == (0.0, True, "none")
    alike = [Adapter(factors=one.factors, rank=one.rank, scale=0.5) for one in chain]
    assert (joined(alike).scale, one.scale) == (0.5, 1.0)  # of several, each pair has its own


@pytest.fixture
def folder(tmp_path):
    """A sound PEFT adapter of a tiny Llama, to be spoiled."""
    adapter = tiny.adapter_for(tiny.model(), rank=2, size=0.1)
    for file, data in peft_files(adapter, base="some/base").items():
        (tmp_path / file).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("text", ['{"peft_type": "LORA"', "[]", '{"r": 1, "r": 2}'])
def test_a_config_that_is_no_json_object_is_bad_input(folder, text):
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(InputError, match=f"{CONFIG_FILE}: not .*save the adapter again with PEFT"):
        read_peft(folder)


CONFIGS = {
    "use_dora": (True, "DoRA scales every weight anew"),
    "modules_to_save": (["lm_head"], "whole layers were trained too"),
    "bias": ("all", "biases were trained too"),
    "peft_type": ("LOHA", 'peft_type is "LOHA"; expected LORA'),
    "init_lora_weights": ("pissa_niter_4", "which changes the base too"),
    "fan_in_fan_out": (True, "stored the other way round"),
    "layer_replication": ([[0, 1]], "layers were added"),
    "kasa_config": ({"a": 1}, "this version does not know what it changes"),
    "lora_alpha": (0, "expected a number above 0"),
    "alpha_pattern": ({"(": 1}, "is no pattern"),
    "base_model_name_or_path": (3, "is no text"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_config_that_is_no_plain_lora_is_refused_by_name(folder, key):
    value, words = CONFIGS[key]
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, key: value}))
    with pytest.raises(InputError) as error:
        read_peft(folder)
    assert words in str(error.value)
    assert str(folder / CONFIG_FILE) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pattern_that_takes_too_long_is_stopped(folder, monkeypatch):
    def matched(pattern, path, *, timeout):  # no pattern was found that the library is slow with
        assert 0 < timeout <= 1
        raise TimeoutError

    monkeypatch.setattr(regex, "match", matched)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, "alpha_pattern": {"(.+)+": 4}}))
    with pytest.raises(InputError, match="takes too long to match"):
        read_peft(folder)


def test_pickled_weights_are_not_read(folder):
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="pickled weights can run a program"):
        read_peft(folder)


def test_a_missing_file_and_a_truncated_one_say_so(folder):
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match="save the adapter again with PEFT"):
        read_peft(folder)
    weights.unlink()
    with pytest.raises(InputError, match="missing, or not a file"):
        read_peft(folder)


LAYER = "base_model.model.model.layers.0"
TENSORS = {
    "a name that is no factor": ({f"{LAYER}.x.bias": (3,)}, "is no lora_A or lora_B"),
    "another layer": (
        {"base_model.model.lm_head.lora_A.weight": (2, 32)}, "only layers named q_proj",
    ),
    "one of a pair": ({f"{LAYER}.self_attn.q_proj.lora_A.weight": (2, 32)}, "stands alone"),
    "other ranks": (
        {
            f"{LAYER}.self_attn.q_proj.lora_A.weight": (2, 32),
            f"{LAYER}.self_attn.q_proj.lora_B.weight": (32, 3),
        },
        "do not fit",
    ),
    "no rank": (
        {
            f"{LAYER}.self_attn.q_proj.lora_A.weight": (0, 32),
            f"{LAYER}.self_attn.q_proj.lora_B.weight": (32, 0),
        },
        "do not fit",
    ),
    "three dimensions": (
        {
            f"{LAYER}.self_attn.q_proj.lora_A.weight": (2, 32, 1),
            f"{LAYER}.self_attn.q_proj.lora_B.weight": (32, 2),
        },
        "expected two dimensions",
    ),
    "none": ({}, "holds no factors"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_no_factors_are_refused_by_name(folder, case):
    shapes, words = TENSORS[case]
    arrays = {name: mx.ones(shape) for name, shape in shapes.items()}
    mx.save_safetensors(str(folder / WEIGHTS_FILE), arrays)
    with pytest.raises(InputError, match=words):
        read_peft(folder)


def test_numbers_that_are_not_finite_are_refused(folder):
    arrays = mx.load(str(folder / WEIGHTS_FILE))
    name = min(arrays)
    arrays[name] = arrays[name] * float("nan")
    mx.save_safetensors(str(folder / WEIGHTS_FILE), arrays)
    with pytest.raises(NotFiniteError, match="save the adapter again with PEFT"):
        read_peft(folder)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_factors_in_16_bits_are_read_as_they_are(folder, dtype):
    arrays = {k: v.astype(dtype) for k, v in mx.load(str(folder / WEIGHTS_FILE)).items()}
    mx.save_safetensors(str(folder / WEIGHTS_FILE), arrays)
    found = read_peft(folder).adapter
    path = "model.layers.0.self_attn.q_proj"
    kept = arrays[f"base_model.model.{path}.lora_A.weight"].astype(mx.float32)
    assert mx.array_equal(found.factors[path][0].T, kept)
    assert found.factors[path][0].dtype == mx.float32
