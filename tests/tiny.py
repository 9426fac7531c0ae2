"""Tiny seeded models and tokenizers, built in memory; a folder of one where a test needs files."""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlx_tune.models import tokenizer as ours
from mlx_tune.training.adapter import Adapter, adapter_of, attach

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 256 + len(SPECIALS)


def hf_tokenizer(template: str | None = CHATML, specials: list[str] | None = None):
    """A byte-level tokenizer: every byte is a token, and so is every special one."""
    specials = specials or SPECIALS
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=specials[0],
        eos_token=specials[-1],
        pad_token=specials[0],
        chat_template=template,
    )


def metaspace_tokenizer(template: str, specials: list[str]) -> ours.Tokenizer:
    """A SentencePiece-like tokenizer: it puts a space before every text it is given."""
    vocab = {t: i for i, t in enumerate([*specials, "▁", *map(chr, range(33, 127)), "\n"])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=specials[0]))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    raw.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    wrapper = TokenizerWrapper(
        PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=specials[0], eos_token=specials[-1])
    )
    return ours.Tokenizer(
        wrapper=wrapper, template=template, end_ids=frozenset(wrapper.eos_token_ids)
    )


def tokenizer(template: str | None = CHATML, specials: list[str] | None = None) -> ours.Tokenizer:
    wrapper = TokenizerWrapper(hf_tokenizer(template, specials))
    return ours.Tokenizer(
        wrapper=wrapper, template=template, end_ids=frozenset(wrapper.eos_token_ids)
    )


def config(**changes) -> dict:
    return {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
    } | changes


def model(seed: int = 0, **changes) -> llama.Model:
    """A two-layer Llama with weights large enough that its answers differ."""
    mx.random.seed(seed)
    made = llama.Model(llama.ModelArgs.from_dict(config(**changes)))
    made.set_dtype(mx.float32)
    mx.eval(made.parameters())
    made.freeze()
    made.eval()
    return made


def adapter_on(model, *, seed: int = 1, rank: int = 4, size: float = 0.1) -> Adapter:
    """Attach an adapter with values as training might leave them: both factors non-zero."""
    attach(model, rank=rank, scale=2.0, seed=seed)
    mx.random.seed(seed)
    values = [
        (name, mx.random.normal(value.shape) * size)
        for name, value in tree_flatten(model.trainable_parameters())
    ]
    model.load_weights(values, strict=False)
    return adapter_of(model, rank=rank, scale=2.0)


def base_folder(folder: Path, *, seed: int = 0, dtype=mx.float32, template: str | None = CHATML):
    """Write a tiny model as an MLX folder, as `--base` takes one."""
    from mlx_lm.utils import save_model

    folder.mkdir(parents=True, exist_ok=True)
    made = model(seed)
    made.set_dtype(dtype)
    save_model(folder, made)
    (folder / "config.json").write_text(json.dumps(config()))
    hf_tokenizer(template).save_pretrained(folder)
    return folder
