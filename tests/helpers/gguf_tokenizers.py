"""Tokenizers of the kinds that GGUF files have, and texts that are hard to split."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

TEXTS = [
    "Room 402, it's 12345: où? https://x.example/@a#b\n",
    "  two  spaces\tand a tab; <|im_end|> tokens <s> </s> ",
    "naïve 東京 🙂 e\u0301",
    "",
    "hello the hell  he ll",
    "hehello</s>the thé",
]


def pieces(*, prefix=True, metaspace=None, left_out=()):
    """Return a tokenizer as SentencePiece's are converted: scores became merges."""
    words = ["he", "ll", "hell", "hello", "▁t", "th", "▁th", "he▁", "▁▁"]
    specials = ["<unk>", "<s>", "</s>"]
    letters = ["▁", *map(chr, range(33, 127)), "é"]
    tokens = [*specials, *(f"<0x{i:02X}>" for i in range(256)), *words, *letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for word in words:  # the first is merged first
        for cut in range(1, len(word)):
            pair = (word[:cut], word[cut:])
            if {*pair} <= vocab.keys() and pair not in left_out:
                merges.append(pair)
    raw = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
    else:
        before = [normalizers.Prepend("▁")] if prefix else []
        raw.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)] * prefix
    )
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    return raw
