"""A LoRA adapter of llama.cpp comes in as it was written; what is none is refused in one line."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from helpers import tiny
from helpers.gguf_files import copied
from mlx_tune.errors import InputError
from mlx_tune.models import bases
from mlx_tune.models.gguf_export import write_gguf, write_lora
from mlx_tune.models.load import load
from mlx_tune.training.lora_gguf import in_our_order, read_lora_gguf

F32 = GGMLQuantizationType.F32
ALPHA = 6.0


def written(tmp_path, **changes):
    """Write an adapter; return it, its base and the file."""
    folder = tiny.base_folder(tmp_path / "base", **changes)
    base = load(bases.locate(str(folder), say=lambda line: None))
    adapter = tiny.adapter_for(base.model, rank=3)
    write_lora(tmp_path / "lora.gguf", adapter.factors, ALPHA, base.info)
    return adapter, base, tmp_path / "lora.gguf"


@pytest.mark.parametrize("changes", [{}, {"model_type": "qwen2"}, {"num_key_value_heads": 4}])
def test_it_comes_back_as_it_was(tmp_path, changes):
    adapter, base, path = written(tmp_path, **changes)
    found = read_lora_gguf(path)
    again = in_our_order(found, base.info.config)
    assert (again.rank, again.scale) == (3, ALPHA / 3)
    assert again.factors.keys() == adapter.factors.keys()
    for module, pair in adapter.factors.items():
        for ours, theirs in zip(pair, again.factors[module], strict=True):
            assert mx.array_equal(ours, theirs), module
    assert found.base is None


def test_ranks_may_differ_and_no_alpha_is_a_scale_of_one(tmp_path):
    adapter, _, path = written(tmp_path)
    down, up = (np.array(f.T) for f in adapter.factors["model.layers.0.mlp.up_proj"])
    narrow = {
        "blk.0.ffn_up.weight.lora_a": (down[:2], F32),
        "blk.0.ffn_up.weight.lora_b": (up[:, :2].copy(), F32),
    }
    url = "https://huggingface.co/someone/tiny-bf16"
    fields = {"adapter.lora.alpha": 0.0, "general.base_model.0.repo_url": url}
    copied(path, tmp_path / "other.gguf", fields=fields, tensors=narrow)
    found = read_lora_gguf(tmp_path / "other.gguf")
    assert found.base == url
    assert (found.adapter.rank, found.adapter.scale) == (3, 1.0)
    lora_a, lora_b = map(np.array, found.adapter.factors["model.layers.0.mlp.up_proj"])
    assert np.allclose(lora_a @ lora_b, (up[:, :2] @ down[:2]).T, atol=1e-6)


A, B = "blk.0.ffn_up.weight.lora_a", "blk.0.ffn_up.weight.lora_b"
ONES = np.ones((3, 32), dtype=np.float32)
EMBEDDING = {"token_embd.weight.lora_a": (ONES, F32), "token_embd.weight.lora_b": (ONES.T, F32)}
REFUSED = {  # by what is said: fields to change, keys to drop, tensors to change
    'is a "adapter" of type "control"; expected a LoRA': ({"adapter.type": "control"}, [], {}),
    "an activated LoRA changes only what follows": (
        {"adapter.alora.invocation_tokens": 5}, [], {},
    ),
    'adapter.lora.alpha is "-1.0"; expected a number above 0': (
        {"adapter.lora.alpha": -1.0}, [], {},
    ),
    '"blk.0.ffn_up" has one factor; expected a pair': ({}, [B], {}),
    '"token_embd" is no linear layer of a transformer layer': ({}, [], EMBEDDING),
    '"blk.0.ffn_up.weight.lora_mid" is no lora_a or lora_b': (
        {}, [], {"blk.0.ffn_up.weight.lora_mid": (ONES, F32)},
    ),
    "blk.0.ffn_up: lora_a [2, 32] and lora_b [64, 3] do not fit": ({}, [], {A: (ONES[:2], F32)}),
    "blk.0.ffn_up holds a NaN or an infinity": ({}, [], {A: (ONES * np.nan, F32)}),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_plain_lora_is_refused(tmp_path, words):
    fields, drop, tensors = REFUSED[words]
    _, _, path = written(tmp_path)
    copied(path, tmp_path / "other.gguf", fields=fields, drop=drop, tensors=tensors)
    with pytest.raises(InputError) as error:
        read_lora_gguf(tmp_path / "other.gguf")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_model_is_a_base(tmp_path):
    _, base, path = written(tmp_path)
    write_gguf(tmp_path / "model.gguf", base, dict(base.info.config), "f32")
    with pytest.raises(InputError, match=r"is a whole model, not an adapter; use it as a base"):
        read_lora_gguf(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="is an adapter, not a model; take it with: mlx-tune"):
        bases.locate(str(path))


def test_no_factors_and_no_file_are_refused(tmp_path):
    _, base, _ = written(tmp_path)
    write_lora(tmp_path / "none.gguf", {}, ALPHA, base.info)
    with pytest.raises(InputError, match="holds no factors"):
        read_lora_gguf(tmp_path / "none.gguf")
    with pytest.raises(InputError, match=r"absent.gguf: missing, or not a file"):
        read_lora_gguf(tmp_path / "absent.gguf")
