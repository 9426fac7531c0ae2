"""Tiny seeded models, tokenizers and rows, built in memory; a folder where a test needs files."""

import importlib
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import MODEL_REMAPPING
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlx_tune.data.tokenise import Example
from mlx_tune.models import tokenizer as ours
from mlx_tune.training.adapter import Adapter, flatten_factors, init_adapter
from mlx_tune.training.generic import attach

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3B = {
    "model_type": "llama",
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128_256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""The sizes of the home model; nothing so large is built but in a slow test."""

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


def model(seed: int = 0, **changes):
    """A two-layer model, a Llama unless told, with weights large enough that its answers differ."""
    settings = config(**changes)
    kind = settings["model_type"]
    module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")
    mx.random.seed(seed)
    made = module.Model(module.ModelArgs.from_dict(settings))
    made.set_dtype(mx.float32)
    mx.eval(made.parameters())
    made.freeze()
    made.eval()
    return made


def irregular(model):
    """Give every norm weights of its own; a new one has ones, as if it were not there."""
    mx.random.seed(3)
    norms = [(n, w) for n, w in tree_flatten(model.parameters()) if n.endswith("norm.weight")]
    drawn = [(n, w + 0.3 * mx.random.normal(w.shape)) for n, w in norms]
    model.load_weights(drawn, strict=False)
    return model


def adapter_for(model, *, seed: int = 1, rank: int = 4, size: float = 0.1) -> Adapter:
    """An adapter with values as training might leave them: both factors non-zero."""
    adapter, _ = init_adapter(model, rank=rank, scale=2.0, seed=seed)
    mx.random.seed(seed)
    factors = {
        path: tuple(mx.random.normal(factor.shape) * size for factor in pair)
        for path, pair in sorted(adapter.factors.items())
    }
    return Adapter(factors=factors, rank=rank, scale=2.0)


def adapter_on(model, **options) -> Adapter:
    """Such an adapter, attached to the model."""
    adapter = adapter_for(model, **options)
    attach(model, adapter.factors, adapter.scale)
    return adapter


def example(*tokens: int, taught: int = 1) -> Example:
    """A row whose last tokens are supervised."""
    flags = [False] * (len(tokens) - taught) + [True] * taught
    return Example(tokens=tokens, supervised=tuple(flags))


def rows(count: int = 8, prefix: int = 10) -> list[Example]:
    """Rows of different lengths that begin alike; the fourth has two supervised spans."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        length = prefix + 4 + 3 * i
        tokens = [*range(3, 3 + prefix), *random.integers(3, 250, length - prefix).tolist()]
        flags = [t >= length - 2 - i % 4 or (i == 3 and t == prefix + 2) for t in range(length)]
        made.append(Example(tokens=tuple(tokens), supervised=tuple(flags)))
    return made


def measured(loss, factors) -> tuple[float, dict[str, np.ndarray]]:
    """A function of an adapter's factors: its value, and its gradients by name."""
    value, gradients = mx.value_and_grad(loss)(dict(factors))
    return float(np.array(value)), {n: np.array(g) for n, g in flatten_factors(gradients).items()}


def assert_same(found, wanted, tolerance: float = 1e-5) -> None:
    """Compare a loss and its gradients, each relative to the largest number in it."""
    assert abs(found[0] - wanted[0]) <= tolerance * abs(wanted[0])
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        size = np.abs(gradient).max()
        assert size > 0, f"{name}: nothing to compare"
        assert np.abs(found[1][name] - gradient).max() <= tolerance * size, name


def base_folder(
    folder: Path,
    *,
    seed: int = 0,
    dtype=mx.float32,
    bits: int | None = None,
    template: str | None = CHATML,
    **changes,
):
    """Write a tiny model as an MLX folder, as `--base` takes one; quantised if it has bits."""
    from mlx_lm.utils import save_model

    folder.mkdir(parents=True, exist_ok=True)
    made, settings = model(seed, **changes), config(**changes)
    made.set_dtype(dtype)
    if bits:
        settings["quantization"] = {"group_size": 32, "bits": bits}
        nn.quantize(made, **settings["quantization"])
    save_model(folder, made)
    (folder / "config.json").write_text(json.dumps(settings))
    hf_tokenizer(template).save_pretrained(folder)
    return folder
