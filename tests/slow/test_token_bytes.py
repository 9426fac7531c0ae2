"""The small base's own tokenizer, without its model."""

import json

import mlx.core as mx
import numpy as np
import pytest
from llguidance.hf import from_tokenizer

from mlx_tune.inference import StreamingDetokenizer, TokenBytes
from mlx_tune.inference.grammar import GrammarCompiler
from mlx_tune.models import bases
from mlx_tune.models.catalogue import SMALL
from mlx_tune.models.load import load_tokenizer

pytestmark = pytest.mark.slow

TEXTS = [
    "https://www.fit.vut.cz/study/.cs?a=1&b=%20#x žluťoučký kůň 数据库 👩🏽‍🚀\n\n\tint main() {}",
    '{"name": "Žofie", "n": [1, -2.5e10, null, true], "url": "https://a.b/c?d=e"}',
    '{\n  "a": {\n    "b": "\\u0000\\n\\"é\\""\n  }\n}',
]


@pytest.fixture(scope="module")
def tokenizer():
    info = bases.locate(SMALL)
    return load_tokenizer(info.folder, info.template)


def test_the_bytes_of_every_token_are_those_of_two_others(tokenizer):
    token_bytes, judge = TokenBytes.of(tokenizer), from_tokenizer(tokenizer.wrapper._tokenizer)
    assert len(token_bytes.vocabulary) == judge.vocab_size == 49_152
    for token, piece in enumerate(token_bytes.vocabulary):
        assert piece.decode(errors="replace") == tokenizer.decode_raw([token])
        assert token in token_bytes.special or judge.decode_bytes([token]) == piece


def test_texts_stream_as_they_were(tokenizer):
    token_bytes = TokenBytes.of(tokenizer)
    for text in TEXTS:
        detokenizer, tokens = StreamingDetokenizer(token_bytes), tokenizer.encode(text)
        assert b"".join(map(token_bytes, tokens)).decode() == text
        assert "".join([*map(detokenizer.add, tokens), detokenizer.finish()]) == text


def test_json_as_the_model_would_write_it_is_allowed_token_by_token(tokenizer):
    made = GrammarCompiler(tokenizer)
    for text in TEXTS[1:]:
        json.loads(text)
        processor, tokens = made.json_object().processor(), [1]
        for token in [*tokenizer.encode(text), *tokenizer.end_ids]:
            allowed = np.array(processor(mx.array(tokens), mx.zeros((1, 49_152))))[0]
            assert np.isfinite(allowed[token]), tokenizer.decode_raw(tokens[1:])
            tokens.append(token)
