"""A tokenizer written as GGUF splits text as before; what llama.cpp splits otherwise is refused."""

import json

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from helpers import tiny
from helpers.gguf_tokenizers import TEXTS, pieces
from mlx_tune.errors import InputError
from mlx_tune.models.gguf_tokenizer import (
    GPT4_SPLITS,
    Vocabulary,
    to_tokenizer_json,
    to_vocabulary,
)


def byte_level(splitter, *, normalizer=None, ignore_merges=False):
    """Return a byte-level tokenizer with a few merges."""
    raw = tiny.hf_tokenizer().backend_tokenizer
    vocab = raw.get_vocab()
    for token in ("th", "12", "the", "'s", "\u0120t"):
        vocab[token] = len(vocab)
    merges = [("t", "h"), ("1", "2"), ("th", "e"), ("'", "s"), ("\u0120", "t")]
    raw.model = models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges)
    raw.pre_tokenizer = splitter
    raw.normalizer = normalizer
    return raw


def gpt4(digits, behavior="isolated"):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_SPLITS[digits]), behavior=behavior),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
THREE, ONE = GPT4_SPLITS
KNOWN = {
    "gpt-2": byte_level(GPT2),
    "smollm": byte_level(pre_tokenizers.Sequence([DIGITS, GPT2])),
    "llama-bpe": byte_level(gpt4(THREE), ignore_merges=True),
    "smaug-bpe": byte_level(gpt4(THREE)),
    "qwen2": byte_level(gpt4(ONE), normalizer=normalizers.NFC()),
}


def vocabulary(raw, *, has_template=True, spare=0) -> Vocabulary:
    size = raw.get_vocab_size() + spare
    return to_vocabulary(json.loads(raw.to_str()), size, has_template=has_template, name="a base")


def returned(raw, *, start=None, spare=0):
    """Return a tokenizer that was a GGUF file's in between."""
    written = to_tokenizer_json(vocabulary(raw, spare=spare), start=start)
    return Tokenizer.from_str(json.dumps(written))


@pytest.mark.parametrize(("name", "raw"), KNOWN.items(), ids=KNOWN)
def test_a_byte_level_tokenizer_comes_back_as_it_was(name, raw):
    assert vocabulary(raw).pre == name
    again = returned(raw, spare=3)
    for text in TEXTS:
        ids = raw.encode(text, add_special_tokens=False).ids
        assert again.encode(text, add_special_tokens=False).ids == ids
        assert again.decode(ids) == raw.decode(ids)
    assert again.get_vocab() == raw.get_vocab()


@pytest.mark.parametrize("raw", [pieces(), pieces(prefix=False), pieces(metaspace="never")])
def test_a_sentence_piece_tokenizer_comes_back_as_it_was(raw):
    again = returned(raw, spare=3)
    for text in TEXTS:
        ids = raw.encode(text, add_special_tokens=False).ids
        assert again.encode(text, add_special_tokens=False).ids == ids
        if raw.normalizer is not None:
            assert again.decode(ids) == raw.decode(ids)
    assert again.get_vocab() == raw.get_vocab()


def test_a_token_of_spaces_that_a_person_added_is_merged_too():
    raw = pieces()
    ids = raw.encode("a   b", add_special_tokens=False).ids
    raw.add_tokens([AddedToken("▁▁", special=False, normalized=False)])
    told = vocabulary(raw)
    assert told.types[raw.token_to_id("▁▁")] == TokenType.USER_DEFINED
    assert returned(raw).encode("a   b", add_special_tokens=False).ids == ids
    assert raw.token_to_id("▁▁") in ids


def test_what_llama_cpp_is_told_of_sentence_piece():
    told = vocabulary(pieces(), spare=1)
    types = dict(zip(told.tokens, told.types, strict=True))
    scores = dict(zip(told.tokens, told.scores, strict=True))
    assert (told.kind, told.merges, told.adds_space) == ("llama", (), True)
    assert (types["<unk>"], types["<s>"]) == (TokenType.UNKNOWN, TokenType.CONTROL)
    assert (types["<0x0A>"], types["hello"]) == (TokenType.BYTE, TokenType.NORMAL)
    assert (told.tokens[-1], told.types[-1]) == (f"[PAD{len(told.tokens) - 1}]", TokenType.UNUSED)
    assert scores["he"] > scores["ll"] > scores["hell"] > scores["▁▁"] > scores["e"]


def test_a_space_at_the_very_beginning_is_none_of_a_conversation():
    raw = pieces(metaspace="first")
    assert vocabulary(raw, has_template=True).adds_space is False  # a token begins
    with pytest.raises(InputError, match="its tokenizer is none"):
        vocabulary(raw, has_template=False)


def test_a_start_token_is_put_before_a_text():
    again = returned(KNOWN["gpt-2"], start=0)
    assert again.encode("the").ids == [0, *KNOWN["gpt-2"].encode("the").ids]
    assert again.encode("the", add_special_tokens=False).ids == KNOWN["gpt-2"].encode("the").ids


REFUSED = {
    "another splitter": byte_level(pre_tokenizers.Whitespace()),
    "a space is put before": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "nothing is split": byte_level(pre_tokenizers.ByteLevel(False, use_regex=False)),
    "what splits is left out": byte_level(gpt4(THREE, "removed")),
    "a normalizer": byte_level(GPT2, normalizer=normalizers.Lowercase()),
    "whole words first": byte_level(GPT2, ignore_merges=True),
    "more before": byte_level(pre_tokenizers.Sequence([DIGITS, DIGITS, GPT2])),
    "a space only where none is": pieces(metaspace="always"),
    "a pair that is never merged": pieces(left_out=[("hell", "o")]),
    "no bytes": tiny.metaspace_tokenizer("", ["<s>", "</s>"]).wrapper.backend_tokenizer,
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_one_that_llama_cpp_splits_otherwise_is_refused(raw):
    with pytest.raises(InputError, match="its tokenizer is none that is written as GGUF"):
        vocabulary(raw)


def test_a_token_without_an_embedding_is_refused():
    with pytest.raises(InputError, match=r"token 263 is beyond its 262 embeddings"):
        vocabulary(KNOWN["gpt-2"], spare=-2)
