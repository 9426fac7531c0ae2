"""The small base's own tokenizer, without its model."""

import json

import mlx.core as mx
import numpy as np
import pytest
from llguidance.hf import from_tokenizer

from mlx_tune.inference.constrained import Constraints
from mlx_tune.inference.spelling import Detokeniser, spelling
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


def test_every_token_is_spelt_as_two_others_spell_it(tokenizer):
    spelt, judge = spelling(tokenizer), from_tokenizer(tokenizer.wrapper._tokenizer)
    assert len(spelt.pieces) == judge.vocab_size == 49_152
    for token, piece in enumerate(spelt.pieces):
        assert piece.decode(errors="replace") == tokenizer.decode_raw([token])
        assert token in spelt.special or judge.decode_bytes([token]) == piece


def test_texts_stream_as_they_were(tokenizer):
    spelt = spelling(tokenizer)
    for text in TEXTS:
        detokeniser, tokens = Detokeniser(spelt), tokenizer.encode(text)
        assert b"".join(map(spelt, tokens)).decode() == text
        assert "".join([*map(detokeniser.add, tokens), detokeniser.finish()]) == text


def test_json_as_the_model_would_write_it_is_allowed_token_by_token(tokenizer):
    made = Constraints(tokenizer)
    for text in TEXTS[1:]:
        json.loads(text)
        grammar, said = made.json_object().begin(), [1]
        for token in [*tokenizer.encode(text), *tokenizer.end_ids]:
            allowed = np.array(grammar(mx.array(said), mx.zeros((1, 49_152))))[0]
            assert np.isfinite(allowed[token]), tokenizer.decode_raw(said[1:])
            said.append(token)
