"""A tiny GGUF file comes out as the model it was made from; a broken one is refused in one line."""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from mlx.utils import tree_flatten
from mlx_lm import load as load_with_mlx_lm

from helpers import tiny
from helpers.gguf_files import copied
from mlx_tune.errors import InputError
from mlx_tune.models import bases, model_files
from mlx_tune.models.gguf_export import write_gguf
from mlx_tune.models.gguf_import import convert
from mlx_tune.models.load import load

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
    loaded, tokenizer = load_with_mlx_lm(str(tmp_path / "mlx"))
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


def exported(tmp_path, kind="f32", dtype=mx.float32, **changes):
    """Write a tiny base as GGUF; return it as it was loaded."""
    folder = tiny.base_folder(tmp_path / "base", dtype=dtype, **changes)
    base = load(bases.locate(str(folder), say=lambda line: None))
    write_gguf(tmp_path / "model.gguf", base, dict(base.info.config), kind)
    return base


def imported(tmp_path):
    """Open the written file as a base."""
    return load(bases.locate(str(tmp_path / "model.gguf"), say=lambda line: None))


LLAMA_3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
MODELS = [
    {},
    {"tie_word_embeddings": False, "num_key_value_heads": 4},
    {"attention_bias": True},
    {"rope_theta": 500000.0, "rope_scaling": LLAMA_3, "hidden_size": 64, "head_dim": 16},
    {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"model_type": "qwen2"},
    {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
]


@pytest.mark.parametrize("changes", MODELS, ids=[" ".join(map(str, m.values())) for m in MODELS])
def test_what_is_written_comes_back_bit_for_bit(tmp_path, changes):
    base = exported(tmp_path, **changes)
    again = imported(tmp_path)
    assert_same_weights(again.model, base.model)
    tokens = mx.array([[5, 6, 7, 200, 9]])
    assert mx.array_equal(again.model(tokens), base.model(tokens))
    text = "the 12th <|im_end|> théâtre\n"
    assert again.tokenizer.encode(text) == base.tokenizer.encode(text)
    assert again.tokenizer.template == base.tokenizer.template == tiny.CHATML
    assert again.tokenizer.end_ids == base.tokenizer.end_ids


def assert_same_weights(found, wanted):
    kept = dict(tree_flatten(found.parameters()))
    for name, array in tree_flatten(wanted.parameters()):
        assert kept[name].dtype == array.dtype, name
        assert mx.array_equal(kept[name], array), name


@pytest.mark.parametrize(("kind", "dtype"), [("f16", mx.float16), ("bf16", mx.bfloat16)])
def test_sixteen_bits_come_back_as_they_were(tmp_path, kind, dtype):
    base = exported(tmp_path, kind, dtype)
    assert_same_weights(imported(tmp_path).model, base.model)


def test_quantised_weights_become_the_nearest_bfloat16(tmp_path):
    exported(tmp_path, "q8_0")
    weights = dict(tree_flatten(imported(tmp_path).model.parameters()))
    (stored,) = [
        t for t in GGUFReader(tmp_path / "model.gguf").tensors if t.name == "token_embd.weight"
    ]
    wanted = mx.array(dequantize(stored.data, stored.tensor_type)).astype(mx.bfloat16)
    assert stored.tensor_type == GGMLQuantizationType.Q8_0
    assert mx.array_equal(weights["model.embed_tokens.weight"], wanted)
    assert {array.dtype for array in weights.values()} == {mx.bfloat16}


def test_k_quants_are_read(tmp_path):
    wide = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256}
    exported(tmp_path, **wide)
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (256, 144), dtype=np.uint8)
    packed[:, :4] = np.frombuffer(np.full(2, 0.01, dtype=np.float16).tobytes(), dtype=np.uint8)
    replace_tensor(
        tmp_path / "model.gguf", "blk.1.ffn_up.weight", packed, GGMLQuantizationType.Q4_K
    )
    found = dict(tree_flatten(imported(tmp_path).model.parameters()))[
        "model.layers.1.mlp.up_proj.weight"
    ]
    wanted = dequantize(packed, GGMLQuantizationType.Q4_K)
    assert found.dtype == mx.bfloat16  # the whole model is, once a part of it is quantised
    assert np.abs(wanted).max() > 0.1
    assert mx.array_equal(found, mx.array(wanted).astype(mx.bfloat16))


def replace_tensor(path, name, data, kind):
    fresh = path.with_suffix(".fresh")
    copied(path, fresh, tensors={name: (data, kind)})
    fresh.replace(path)


F32 = GGMLQuantizationType.F32
NAN = np.full((32,), np.nan, dtype=np.float32)
NORM = "blk.0.attn_norm.weight"
BOTH = "is not read as GGUF"
REFUSED = {  # by what is said: fields to change, keys to drop, tensors to change
    f'architecture "gpt2" {BOTH}; known: llama, qwen2, qwen3': (
        {"general.architecture": "gpt2"}, [], {},
    ),
    f'tokenizer "gpt2", split as "tekken", {BOTH}': ({"tokenizer.ggml.pre": "tekken"}, [], {}),
    f'tokenizer "t5", split as "gpt-2", {BOTH}': ({"tokenizer.ggml.model": "t5"}, [], {}),
    'is no model but a file of type "mmproj"': ({"general.type": "mmproj"}, [], {}),
    "its tokenizer cannot be read (": ({"tokenizer.ggml.merges": ["q u u"]}, [], {}),
    "is a part of a model; join the parts with `llama-gguf-split --merge`": (
        {"split.count": 3}, [], {},
    ),
    f"llama.expert_count is 8, which {BOTH}": ({"llama.expert_count": 8}, [], {}),
    f"llama.rope.dimension_count is 4, which {BOTH}": ({"llama.rope.dimension_count": 4}, [], {}),
    'positions scaled by "yarn" are not read': ({"llama.rope.scaling.type": "yarn"}, [], {}),
    "tensors for 4294967295 layers": ({"llama.block_count": 2**32 - 1}, [], {}),
    "tensors for 0 layers": ({"llama.block_count": 0}, [], {}),
    "has 0 attention heads": ({"llama.attention.head_count": 0}, [], {}),
    'context_length is "long"; expected a number': ({"llama.context_length": "long"}, [], {}),
    'llama.block_count is "None"; expected a number': ({}, ["llama.block_count"], {}),
    f"has 0 tokens and {tiny.VOCABULARY} embeddings": ({}, ["tokenizer.ggml.tokens"], {}),
    f"{tiny.VOCABULARY} tokens and 0 of their types": ({}, ["tokenizer.ggml.token_type"], {}),
    "its eos token, 9000, is none of its tokens": ({"tokenizer.ggml.eos_token_id": 9000}, [], {}),
    "has no token_embd.weight; fetch it again": ({}, ["token_embd.weight"], {}),
    "has no blk.1.ffn_up.weight; fetch it again": ({}, ["blk.1.ffn_up.weight"], {}),
    f"{NORM} is [16]; expected [32]": ({}, [], {NORM: (NAN[:16], F32)}),
    f"{NORM} holds what is no number": ({}, [], {NORM: (NAN, F32)}),
    '"blk.9.attn_norm.weight" is no part of a llama': (
        {}, [], {"blk.9.attn_norm.weight": (NAN, F32)},
    ),
    "rope_freqs.weight is not what Llama 3.1 or 3.2 has": (
        {}, [], {"rope_freqs.weight": (np.arange(4, dtype=np.float32), F32)},
    ),
}  # fmt: skip


def refused(path, folder):
    """Return the one line about a file; nothing may have been written."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError) as error:
        convert(path, folder)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, words):
    fields, drop, tensors = REFUSED[words]
    exported(tmp_path)
    path = tmp_path / "other.gguf"
    copied(tmp_path / "model.gguf", path, fields=fields, drop=drop, tensors=tensors)
    assert words in refused(tmp_path / "other.gguf", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".json"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    exported(tmp_path)
    whole = (tmp_path / "model.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [0, 3, 8, 23, 24, *np.linspace(30, len(whole) - 1, 25, dtype=int)]:
        path.write_bytes(whole[:size])
        assert "is no whole GGUF file" in refused(path, tmp_path / "out"), size


def test_a_file_whose_counts_lie_is_refused(tmp_path):
    exported(tmp_path)
    whole = (tmp_path / "model.gguf").read_bytes()
    path = tmp_path / "lying.gguf"
    tokens = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    for place in (8, 16, tokens):  # of tensors, of fields, of the numbers of a field
        for number in (2**31, 2**62):
            path.write_bytes(whole[:place] + struct.pack("<Q", number) + whole[place + 8 :])
            assert "is no whole GGUF file" in refused(path, tmp_path / "out"), (place, number)


ODD = {"a text": "x", "a number": 7, "a list of texts": ["x"], "no number": float("nan")}


@pytest.mark.parametrize("odd", ODD)
def test_a_field_of_another_kind_is_refused_in_one_line_or_does_no_harm(tmp_path, odd):
    exported(tmp_path)
    source, path = tmp_path / "model.gguf", tmp_path / "odd.gguf"
    names = [n for n in GGUFReader(source).fields if not n.startswith(("GGUF.", "general.arch"))]
    refusals = 0
    for number, name in enumerate(names):
        copied(source, path, drop=[name], fields={name: ODD[odd]})
        (tmp_path / str(number)).mkdir()
        try:
            convert(path, tmp_path / str(number))
        except InputError as error:
            refusals += 1
            assert "\n" not in str(error), name
            assert not [*(tmp_path / str(number)).glob("*.json")], name
    assert refusals > len(names) / 3


def test_a_flipped_bit_of_the_head_is_refused_in_one_line_or_does_no_harm(tmp_path):
    exported(tmp_path)
    whole = bytearray((tmp_path / "model.gguf").read_bytes())
    path, refusals = tmp_path / "flipped.gguf", 0
    places = np.random.default_rng(0).integers(0, 6000, 150)  # fields, tokens, tensors' names
    for number, place in enumerate(places):
        flipped = whole.copy()
        flipped[place] ^= 1 << (number % 8)
        path.write_bytes(flipped)
        (tmp_path / str(number)).mkdir()
        try:
            convert(path, tmp_path / str(number))
        except InputError as error:
            refusals += 1
            assert "\n" not in str(error), place
    assert refusals > 20


def test_a_large_model_is_written_in_parts(tmp_path, monkeypatch):
    base = exported(tmp_path)
    monkeypatch.setattr("mlx_tune.models.gguf_import._SHARD_BYTES", 40_000)
    again = imported(tmp_path)
    parts = sorted(again.info.folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    assert parts[0].name == f"model-00001-of-{len(parts):05}.safetensors"
    index = json.loads((again.info.folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {part.name for part in parts}
    assert_same_weights(again.model, base.model)


def test_a_second_token_that_ends_a_turn_is_kept(tmp_path):
    exported(tmp_path)
    copied(
        tmp_path / "model.gguf", tmp_path / "two.gguf", fields={"tokenizer.ggml.eot_token_id": 0}
    )
    (tmp_path / "two.gguf").replace(tmp_path / "model.gguf")
    assert imported(tmp_path).tokenizer.end_ids == {0, 2}


def test_the_only_token_that_ends_a_turn_may_be_that_of_a_turn(tmp_path):
    exported(tmp_path)
    fields, path = {"tokenizer.ggml.eot_token_id": 1}, tmp_path / "one.gguf"
    copied(tmp_path / "model.gguf", path, fields=fields, drop=["tokenizer.ggml.eos_token_id"])
    path.replace(tmp_path / "model.gguf")
    assert model_files.read_end_ids(imported(tmp_path).info.folder) == [1]


def test_a_base_of_a_file_is_converted_once_and_again_when_the_file_changes(tmp_path):
    exported(tmp_path)
    path, said = tmp_path / "model.gguf", []
    first = bases.locate(str(path), say=said.append)
    again = bases.locate(str(path), say=said.append)
    assert said == [
        f"converting {path} to MLX (once)…",
        "taking the base model's fingerprint (once)…",
    ]
    assert again == first
    assert bases.find_local(first.fingerprint) == str(path)
    scaled = np.full((32,), 2, dtype=np.float32)
    replace_tensor(path, "output_norm.weight", scaled, F32)
    assert bases.locate(str(path)).fingerprint != first.fingerprint


def test_a_file_is_converted_to_a_folder_of_ones_own(tmp_path):
    base = exported(tmp_path)
    bases.convert(str(tmp_path / "model.gguf"), tmp_path / "mine")
    mine = load(bases.locate(str(tmp_path / "mine"), say=lambda line: None))
    assert_same_weights(mine.model, base.model)
