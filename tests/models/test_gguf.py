"""A tiny GGUF file, written here, comes out as the model it was made from."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFWriter
from mlx.utils import tree_flatten
from mlx_lm import load

from helpers import tiny
from mlx_tune.errors import InputError
from mlx_tune.models.gguf import convert

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def gguf_name(name: str) -> str:
    path = name.removesuffix(".weight")
    if not path.startswith("model.layers."):
        return f"{NAMES[path]}.weight"
    _, _, layer, part = path.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Order rotary rows as llama.cpp's converter does: halves (i, i+d/2) to pairs (i, i+1)."""
    rows, columns = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write(path, model, *, architecture="llama", pre="smollm") -> None:
    config = tiny.config()
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    vocabulary = tiny.hf_tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.get), "th"])
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["t h"])  # an empty list is no GGUF array
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(tiny.CHATML)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, value in tree_flatten(model.parameters()):
        values = np.array(value)
        projection = name.split(".")[-2]
        if projection in heads:
            values = permuted(values, heads[projection])
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_tokenizer_and_template_come_out_as_they_went_in(tmp_path):
    model = tiny.model(vocab_size=tiny.VOCABULARY + 1)
    write(tmp_path / "tiny.gguf", model)
    (tmp_path / "mlx").mkdir()
    convert(tmp_path / "tiny.gguf", tmp_path / "mlx")
    loaded, tokenizer = load(str(tmp_path / "mlx"))
    for (name, value), (_, wanted) in zip(
        sorted(tree_flatten(loaded.parameters())), sorted(tree_flatten(model.parameters())),
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(np.array(value), np.array(wanted)), name
    tokens = mx.array([[5, 6, 7]])
    assert np.array_equal(np.array(loaded(tokens)), np.array(model(tokens)))
    text = "Room 402, it's: où? https://x.example/@a#b\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    digits = tokenizer.encode("402")
    assert len(digits) == 3
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer._tokenizer.chat_template == tiny.CHATML


def test_another_tokenizer_is_refused_by_name(tmp_path):
    path = tmp_path / "tiny.gguf"
    write(path, tiny.model(), pre="llama-bpe")
    with pytest.raises(InputError) as error:
        convert(path, tmp_path)
    assert str(error.value) == (
        f"{path}: architecture and tokenizer ('llama', 'llama-bpe'); can convert llama, smollm"
    )


def test_another_architecture_is_refused_by_name(tmp_path):
    path = tmp_path / "tiny.gguf"
    write(path, tiny.model(), architecture="gpt2")
    with pytest.raises(InputError, match=r"\('gpt2', 'smollm'\); can convert llama, smollm"):
        convert(path, tmp_path)
