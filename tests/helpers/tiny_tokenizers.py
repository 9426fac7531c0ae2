"""Tokenizers of the common kinds, small, trained in memory."""

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from helpers import tiny
from mlx_tune.models import tokenizer as ours

SPECIALS = ["<s>", "</s>", "<|im_end|>"]
TEXTS = [
    "žluťoučký kůň úpěl ďábelské ódy, žluťoučký kůň",
    "数据库 数据 库 👩🏽‍🚀👩🏽",
    '{"name": "žluť"}, [1, 2]',
]


def byte_level() -> ours.Tokenizer:
    """As GPT-2's and Llama 3's: its pieces may begin or end inside a character."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(raw, initial_alphabet=alphabet, vocab_size=256 + 60)
    return _ours(raw)


def sentencepiece() -> ours.Tokenizer:
    """As Llama 2's: a space before every text, and bytes for characters it does not know."""
    known = [*sorted(set("".join(TEXTS)) - set("数🚀")), "▁"]
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *known, "▁k", "ůň", "▁kůň"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("▁", "k"), ("ů", "ň"), ("▁k", "ůň")]
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<s>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _ours(raw)


def metaspace() -> ours.Tokenizer:
    """Without bytes: what it does not know it cannot write."""
    return tiny.metaspace_tokenizer(tiny.CHATML, SPECIALS)


KINDS = {"byte-level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace}


def _train(raw: Tokenizer, **options) -> None:
    raw.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(show_progress=False, **options))


def _ours(raw: Tokenizer) -> ours.Tokenizer:
    raw.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    for extra in ("<tool é>", "Ġz", "▁▁z"):  # decoders treat them as any other piece
        raw.add_tokens([AddedToken(extra, special=False, normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    wrapper = TokenizerWrapper(fast)
    ends = frozenset({*wrapper.eos_token_ids, fast.convert_tokens_to_ids("<|im_end|>")})
    return ours.Tokenizer(wrapper=wrapper, template=None, end_ids=ends)
