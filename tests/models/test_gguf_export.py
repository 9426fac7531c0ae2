"""A model written as GGUF holds what it held; what llama.cpp has no name for is refused."""

import json

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, dequantize
from mlx.utils import tree_flatten
from mlx_lm.models.rope_utils import Llama3RoPE

from helpers import tiny
from helpers.tiny import CHATML
from mlx_tune.errors import InputError, UsageError
from mlx_tune.models import bases, gguf_export
from mlx_tune.models.gguf_export import write_gguf, write_lora
from mlx_tune.models.load import load


def loaded(folder, **changes):
    """Return a tiny base as it is loaded, and its config."""
    info = bases.locate(str(tiny.base_folder(folder, **changes)), say=lambda line: None)
    return load(info), dict(info.config)


def written(tmp_path, kind="f32", **changes):
    """Write a tiny base as GGUF; return its model and what the file holds."""
    base, config = loaded(tmp_path / "base", **changes)
    write_gguf(tmp_path / "model.gguf", base, config, kind)
    return base, GGUFReader(tmp_path / "model.gguf")


def values(reader, name):
    (tensor,) = [one for one in reader.tensors if one.name == name]
    return dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize(("kind", "most"), [("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 5e-3)])
def test_fewer_bits_are_near_and_norms_stay_exact(tmp_path, kind, most):
    base, reader = written(tmp_path, kind)
    weights = dict(tree_flatten(base.model.parameters()))
    for theirs, ours in (("token_embd", "model.embed_tokens"), ("blk.1.ffn_up", "mlp.up_proj")):
        name = ours if "." in ours and ours.startswith("model") else f"model.layers.1.{ours}"
        wanted = np.array(weights[f"{name}.weight"])
        found = values(reader, f"{theirs}.weight")
        assert 0 < np.abs(found - wanted).max() <= most * np.abs(wanted).max()
        stored = gguf_export.round_trip(kind)(weights[f"{name}.weight"])
        assert np.array_equal(np.array(stored), found)
    norm = values(reader, "blk.0.attn_norm.weight")
    assert np.array_equal(norm, np.array(weights["model.layers.0.input_layernorm.weight"]))


def test_rows_that_blocks_do_not_divide_are_float16(tmp_path):
    _, reader = written(tmp_path, "q8_0", intermediate_size=48)
    kinds = {one.name: one.tensor_type.name for one in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # rows of 48
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"  # rows of 32
    assert kinds["output_norm.weight"] == "F32"


def test_the_fields_say_what_the_config_says(tmp_path):
    base, reader = written(tmp_path, num_key_value_heads=2, tie_word_embeddings=False)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert {
        "general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 32,
        "llama.feed_forward_length": 64, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.attention.key_length": 8,
        "llama.rope.dimension_count": 8, "llama.context_length": 2048,
        "llama.vocab_size": tiny.VOCABULARY, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }.items() <= fields.items()  # fmt: skip
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert "output.weight" in [one.name for one in reader.tensors]
    bos = reader.fields["tokenizer.ggml.add_bos_token"]
    assert bos.types == [GGUFValueType.BOOL]
    assert base.tokenizer.end_ids == {2}


def test_a_qwen_has_biases_and_keeps_the_order_of_its_rows(tmp_path):
    base, reader = written(tmp_path, model_type="qwen2")
    weights = dict(tree_flatten(base.model.parameters()))
    for leaf in ("weight", "bias"):
        wanted = np.array(weights[f"model.layers.0.self_attn.q_proj.{leaf}"])
        assert np.array_equal(values(reader, f"blk.0.attn_q.{leaf}"), wanted)
    names = [one.name for one in reader.tensors]
    assert "blk.0.attn_q.bias" in names
    assert "rope_freqs.weight" not in names


def test_a_qwen3_has_norms_of_its_heads(tmp_path):
    _, reader = written(tmp_path, model_type="qwen3")
    assert {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"} <= {
        one.name for one in reader.tensors
    }


def test_the_factors_of_llama_3_are_those_that_mlx_lm_computes(tmp_path):
    scaling = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    sizes = {"hidden_size": 64, "head_dim": 16, "rope_theta": 500.0, "rope_scaling": scaling}
    _, reader = written(tmp_path, **sizes)
    rope = Llama3RoPE(dims=16, base=500.0, scaling_config=scaling)
    plain = 500.0 ** (np.arange(0, 16, 2) / 16)
    assert values(reader, "rope_freqs.weight") == pytest.approx(np.array(rope._freqs) / plain)
    assert len({*np.round(values(reader, "rope_freqs.weight"), 3)}) > 2  # all three ranges


def refused(tmp_path, words, kind="f32", **changes):
    base, config = loaded(tmp_path / "base", **changes)
    with pytest.raises((InputError, UsageError), match=words):
        write_gguf(tmp_path / "model.gguf", base, config, kind)


def test_another_architecture_is_refused_by_name(tmp_path):
    more = {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0}
    refused(tmp_path, "gemma2 is not written as GGUF", model_type="gemma2", **more)


def test_another_scaling_of_positions_is_refused_by_name(tmp_path):
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    refused(tmp_path, "rope_scaling yarn is not written", rope_scaling=scaling)


def test_sliding_attention_is_refused(tmp_path):
    layers = ["sliding_attention", "full_attention"]
    refused(tmp_path, "sliding attention is not written", layer_types=layers, sliding_window=16)


def test_positions_scaled_evenly_are_told(tmp_path):
    _, reader = written(tmp_path, rope_scaling={"type": "linear", "factor": 4.0})
    assert reader.fields["llama.rope.scaling.type"].contents() == "linear"
    assert reader.fields["llama.rope.scaling.factor"].contents() == 4.0


def test_another_type_is_refused_by_name(tmp_path):
    refused(tmp_path, "type 'q4_k_m' is not written; known: f32, f16, bf16, q8_0", "q4_k_m")


def test_a_tokenizer_that_llama_cpp_splits_otherwise_is_refused(tmp_path):
    folder = tiny.base_folder(tmp_path / "base")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    info = bases.locate(str(folder), say=lambda line: None)
    with pytest.raises(InputError, match="its tokenizer is none that is written as GGUF"):
        write_gguf(tmp_path / "model.gguf", load(info), info.config, "f32")


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path):
    base, config = loaded(tmp_path / "base")
    base.model.model.embed_tokens.weight = base.model.model.embed_tokens.weight * 1e8
    with pytest.raises(InputError, match="too large for float16; take bf16 or f32"):
        write_gguf(tmp_path / "model.gguf", base, config, "f16")


def test_an_adapter_has_the_rows_in_the_order_of_its_base(tmp_path):
    base, _ = loaded(tmp_path / "base")
    adapter = tiny.adapter_for(base.model, rank=3)
    write_lora(tmp_path / "lora.gguf", adapter.factors, 6.0, base.info)
    reader = GGUFReader(tmp_path / "lora.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["adapter.lora.alpha"] == 6.0
    for path, place, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        lora_a, lora_b = map(np.array, adapter.factors[f"model.layers.1.self_attn.{path}"])
        down, up = (values(reader, f"blk.1.{place}.weight.lora_{x}") for x in "ab")
        assert np.array_equal(down, lora_a.T)
        halves = lora_b.T.reshape(heads, 2, -1, 3).swapaxes(1, 2)  # to pairs
        assert np.array_equal(up, halves.reshape(-1, 3))
    assert np.array_equal(
        values(reader, "blk.0.ffn_gate.weight.lora_b"),
        np.array(adapter.factors["model.layers.0.mlp.gate_proj"][1]).T,
    )
