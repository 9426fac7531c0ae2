"""A tokenizer as a GGUF file has it, from a tokenizer.json and back.

llama.cpp knows byte-level BPE by the name of how text is split before, and SentencePiece's BPE by a
score for each token. What would be split otherwise there than here is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from mlx_tune.errors import InputError

BYTE_LEVEL, SENTENCE_PIECE = "gpt2", "llama"
"""llama.cpp's names for the two kinds."""

_SPACE = "▁"

_GPT4_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_GPT4_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4_SPLITS = {digits: _GPT4_WORDS + digits + _GPT4_REST for digits in (r"\p{N}{1,3}", r"\p{N}")}
"""By how many digits stay together, the pattern that splits text for Llama 3 and for Qwen2."""

_NFC = {"type": "NFC"}


@dataclass(frozen=True, kw_only=True)
class _Split:
    """How text is split before byte-pair encoding.

    Attributes:
        pre_tokenizers: Of a tokenizer.json, one after another.
        normalizer: What Hugging Face's does to a text before, and llama.cpp does not.
        ignore_merges: Whether a word that is a token is taken whole.
    """

    pre_tokenizers: Sequence[Mapping[str, Any]]
    normalizer: Mapping[str, Any] | None = None
    ignore_merges: bool = False


def _byte_level(*, splits: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": splits,
    }  # fmt: skip


def _gpt4(digits: str) -> list[dict[str, Any]]:
    first = {
        "type": "Split", "pattern": {"Regex": GPT4_SPLITS[digits]}, "behavior": "Isolated",
        "invert": False,
    }  # fmt: skip
    return [first, _byte_level(splits=False)]


_SPLITS = {
    "gpt-2": _Split(pre_tokenizers=[_byte_level(splits=True)]),
    "smollm": _Split(
        pre_tokenizers=[{"type": "Digits", "individual_digits": True}, _byte_level(splits=True)]
    ),
    "llama-bpe": _Split(pre_tokenizers=_gpt4(r"\p{N}{1,3}"), ignore_merges=True),
    "smaug-bpe": _Split(pre_tokenizers=_gpt4(r"\p{N}{1,3}")),
    "qwen2": _Split(pre_tokenizers=_gpt4(r"\p{N}"), normalizer=_NFC),
}
"""By llama.cpp's name."""

_OTHER_NAMES = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "phi-2": "gpt-2",
    "starcoder": "smollm",
    "deepseek-r1-qwen": "qwen2",
}
"""llama.cpp's names for the same."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a GGUF file says of how text is split.

    Attributes:
        kind: ``BYTE_LEVEL`` or ``SENTENCE_PIECE``.
        pre: How text is split before byte-pair encoding, as :func:`split_name` names it.
        tokens: Every token's text by its id.
        types: Of each, a ``gguf.TokenType``.
        merges: Two tokens each, in order of their rank; none of SentencePiece's.
        scores: Of each token, the higher the earlier it is merged; none of a byte-level one.
        adds_space: Whether text begins with a space that nobody wrote.
    """

    kind: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    adds_space: bool = False


def to_vocabulary(
    raw: Mapping[str, Any], size: int, *, has_template: bool, name: str
) -> Vocabulary:
    """Return what a GGUF file says of a tokenizer.

    Args:
        raw: The content of a tokenizer.json.
        size: How many embeddings the model has.
        has_template: Whether what it splits are conversations, which begin with a token.
        name: The base's, for messages.

    Raises:
        InputError: llama.cpp would split text in another way.
    """
    model = raw["model"]
    tokens, types = _padded(raw, size, name)
    pre = _byte_level_name(raw)
    if pre is not None:
        merges = [" ".join(pair) for pair in _pairs(model)]
        return Vocabulary(kind=BYTE_LEVEL, pre=pre, tokens=tokens, types=types, merges=merges)
    prefix = _adds_space(raw, has_template)
    scores = None if prefix is None else _scores(model, tokens, types)
    if prefix is None or scores is None:
        raise InputError(
            f"{name}: its tokenizer is none that is written as GGUF; known are the byte-level ones "
            "of SmolLM2, Llama 3, Qwen2 and GPT-2, and SentencePiece's BPE"
        )
    return Vocabulary(
        kind=SENTENCE_PIECE,
        pre="default",
        tokens=tokens,
        types=[_byte_type(token, kind) for token, kind in zip(tokens, types, strict=True)],
        scores=scores,
        adds_space=prefix,
    )


def to_tokenizer_json(vocabulary: Vocabulary, *, start: int | None) -> dict[str, Any]:
    """Return a tokenizer.json of what a GGUF file says.

    Args:
        vocabulary: What it says.
        start: The id of a token that is put before every text; None where none is.
    """
    tokens = vocabulary.tokens
    split = _of_byte_level(vocabulary) if vocabulary.kind == BYTE_LEVEL else _of_pieces(vocabulary)
    added: dict[int, bool] = {
        TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False,
    }  # fmt: skip
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], **plain, "special": added[kind]}
            for i, kind in enumerate(vocabulary.types)
            if kind in added
        ],
        "normalizer": split["normalizer"],
        "pre_tokenizer": split["pre_tokenizer"],
        "post_processor": None if start is None else _begin_with(start, tokens[start]),
        "decoder": split["decoder"],
        "model": split["model"],
    }


def split_name(name: Any) -> str | None:
    """Return the name under which a way to split text is known here; None where it is not."""
    name = _OTHER_NAMES.get(name, name)
    return name if name in _SPLITS else None


def starts_text(vocabulary: Vocabulary) -> bool:
    """Return whether llama.cpp puts a start token before a text of a file that does not say so."""
    return vocabulary.kind == SENTENCE_PIECE or vocabulary.pre == "llama-bpe"


def _padded(raw: Mapping[str, Any], size: int, name: str) -> tuple[list[str], list[int]]:
    """Return text and type of every id, also of those that no token has."""
    tokens, types = [f"[PAD{i}]" for i in range(size)], [int(TokenType.UNUSED)] * size
    unknown = raw["model"].get("unk_token")
    added = {one["id"]: one for one in raw["added_tokens"]}
    texts = {i: text for text, i in raw["model"]["vocab"].items()}
    texts |= {i: one["content"] for i, one in added.items()}
    if max(texts) >= size:
        raise InputError(f"{name}: token {max(texts)} is beyond its {size} embeddings")
    for i, text in texts.items():
        kind = TokenType.NORMAL
        if text == unknown:
            kind = TokenType.UNKNOWN
        elif i in added:
            kind = TokenType.CONTROL if added[i]["special"] else TokenType.USER_DEFINED
        tokens[i], types[i] = text, int(kind)
    return tokens, types


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of a tokenizer.json, which has them in two forms."""
    pairs = (one.split(" ") if isinstance(one, str) else one for one in model["merges"])
    return [(left, right) for left, right in pairs]


def _byte_level_name(raw: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name for how a byte-level tokenizer splits text; None where it has none.

    It leaves text as it is written, so a normalizer that composes letters is lost.
    """
    model, parts = raw["model"], [*map(_bare, _parts(raw.get("pre_tokenizer"), "pretokenizers"))]
    if model.get("type") != "BPE" or raw.get("normalizer") not in (None, _NFC):
        return None
    for name, split in _SPLITS.items():
        same = parts == [*map(_bare, split.pre_tokenizers)]
        if same and bool(model.get("ignore_merges")) == split.ignore_merges:
            return name
    return None


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a tokenizer without what changes no token."""
    return {key: value for key, value in part.items() if key != "trim_offsets"}


def _parts(found: Any, key: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(found, dict):
        return
    if found.get("type") == "Sequence":
        for one in found[key]:
            yield from _parts(one, key)
    else:
        yield found


_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREFIX = {"type": "Prepend", "prepend": _SPACE}


def _adds_space(raw: Mapping[str, Any], has_template: bool) -> bool | None:
    """Return whether a SentencePiece tokenizer begins text with a space; None of any other.

    llama.cpp does so after each special token or never. A Metaspace does not where text begins with
    a space already; one that does so only at the very beginning never does to a conversation, which
    begins with a token.
    """
    model = raw["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback") or model.get("ignore_merges"):
        return None
    before = [*_parts(raw.get("normalizer"), "normalizers")]
    after = [*_parts(raw.get("pre_tokenizer"), "pretokenizers")]
    if not after and before in ([_PREFIX, _SPACES], [_SPACES]):
        return len(before) == 2
    if before or len(after) != 1 or after[0].get("type") != "Metaspace":
        return None
    plain = after[0].get("replacement") == _SPACE and not after[0].get("split", True)
    scheme = after[0].get("prepend_scheme")
    return False if plain and (scheme == "never" or (scheme == "first" and has_template)) else None


def _scores(
    model: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> list[float] | None:
    """Return scores for which llama.cpp merges what a tokenizer's merges do; None if none do so."""
    pieces = {token for token, kind in zip(tokens, types, strict=True) if _is_piece(token, kind)}
    merges = [(left, right) for left, right in _pairs(model) if left + right in pieces]
    ranks: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, -float(rank))
    lowest = -float(len(merges))
    scores = [ranks.get(token, lowest) if token in pieces else 0.0 for token in tokens]
    remade = _merges(tokens, types, scores)
    same_order = [*dict.fromkeys(a + b for a, b in merges)] == [
        *dict.fromkeys(a + b for a, b in remade)
    ]
    return scores if same_order and set(remade) == set(merges) else None


def _merges(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, best score first.

    Source:
        SentencePiece merges the two neighbours whose whole has the best score (Kudo and Richardson,
        arXiv 1808.06226); its model file has no list of merges.
    """
    pieces = {
        token: (score, i)
        for i, (token, kind, score) in enumerate(zip(tokens, types, scores, strict=True))
        if _is_piece(token, kind)
    }
    found = []
    for token, (score, _) in pieces.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in pieces and right in pieces:
                found.append((-score, pieces[left][1], pieces[right][1], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _is_piece(token: str, kind: int) -> bool:
    """Return whether merging makes a token; one that a person added is found in the text before.

    Unless it has a space, which the text does not have in this form.
    """
    return kind == TokenType.NORMAL or (kind == TokenType.USER_DEFINED and _SPACE in token)


def _byte_type(token: str, kind: int) -> int:
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return int(TokenType.BYTE) if is_byte and kind == TokenType.NORMAL else kind


def _of_byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    split = _SPLITS[vocabulary.pre]
    parts = [*map(dict, split.pre_tokenizers)]
    return {
        "normalizer": split.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
        "decoder": _byte_level(splits=True),
        "model": _bpe(
            vocabulary,
            merges=[merge.split(" ") for merge in vocabulary.merges],
            ignore_merges=split.ignore_merges,
        ),
    }


def _of_pieces(vocabulary: Vocabulary) -> dict[str, Any]:
    tokens, types = vocabulary.tokens, vocabulary.types
    unknown = [
        token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN
    ]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.adds_space:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    prefix = [_PREFIX] if vocabulary.adds_space else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, _SPACES]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            vocabulary,
            merges=[*map(list, _merges(tokens, types, vocabulary.scores))],
            unk_token=unknown[0] if unknown else None,
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _bpe(vocabulary: Vocabulary, *, merges: Iterable[list[str]], **settings: Any) -> dict[str, Any]:
    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return {
        "type": "BPE",
        **dict.fromkeys(
            ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        ),
        **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
        **settings,
        "vocab": {token: i for i, (token, kind) in enumerate(kinds) if kind != TokenType.UNUSED},
        "merges": list(merges),
    }


def _begin_with(number: int, text: str) -> dict[str, Any]:
    start, first, second = (
        {"SpecialToken": {"id": text, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, start, second],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }
