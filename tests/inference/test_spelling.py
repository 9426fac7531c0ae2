import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

import vocabularies
from mlx_tune.errors import InputError
from mlx_tune.inference.spelling import Detokeniser, Spelling, spelling, token_bytes

BUILT = {name: make() for name, make in vocabularies.KINDS.items()}
SPELT = {name: spelling(tokenizer) for name, tokenizer in BUILT.items()}
WHOLE = ["byte-level", "sentencepiece"]  # these can write any text
TEXT = st.text(
    st.characters(codec="utf-8") | st.sampled_from("žůň 数🚀👩🏽\u200d<é>▁"), max_size=30
)


def streamed(spelt: Spelling, tokens) -> list[str]:
    detokeniser = Detokeniser(spelt)
    return [*(detokeniser.add(token) for token in tokens), detokeniser.finish()]


@pytest.mark.parametrize("name", WHOLE)
@given(text=TEXT)
def test_the_bytes_of_an_answers_tokens_are_its_text(name, text):
    tokenizer, spelt = BUILT[name], SPELT[name]
    text = text.replace("▁", "") if name == "sentencepiece" else text  # its own sign for a space
    tokens = tokenizer.encode(text)
    if not spelt.special.isdisjoint(tokens):
        return
    found = b"".join(spelt(token, first=i == 0) for i, token in enumerate(tokens))
    assert found.decode() == text == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", WHOLE)
@given(text=TEXT)
def test_a_streamed_text_is_the_decoded_one(name, text):
    tokens = BUILT[name].encode(text)
    assert "".join(streamed(SPELT[name], tokens)) == BUILT[name].decode(tokens)


@given(tokens=st.lists(st.integers(0, len(SPELT["byte-level"].pieces) - 1), max_size=20))
def test_any_tokens_in_any_order_stream_as_they_decode(tokens):
    found = "".join(streamed(SPELT["byte-level"], tokens))
    assert found == BUILT["byte-level"].decode(tokens)


@pytest.mark.parametrize("name", WHOLE)
def test_a_character_comes_whole_with_its_last_token(name):
    text = "数🚀"
    tokens = BUILT[name].encode(text)
    pieces = streamed(SPELT[name], tokens)
    assert len(tokens) > len(text)  # several tokens a character, or nothing would be tested
    assert [piece for piece in pieces if piece] == list(text)


def test_half_a_character_at_the_end_is_shown_as_what_it_is():
    tokens = BUILT["sentencepiece"].encode("数")
    assert "".join(streamed(SPELT["sentencepiece"], tokens[:-1])) == "\ufffd"


@pytest.mark.parametrize("name", vocabularies.KINDS)
def test_each_token_is_spelt_as_it_decodes(name):
    spelt, tokenizer = SPELT[name], BUILT[name]
    anchor = tokenizer.encode("1")[-1]  # so that no token is the first
    for token, piece in enumerate(spelt.pieces):
        decoded = tokenizer.decode_raw([anchor, token])
        if "\ufffd" not in decoded and "\ufffd" not in piece.decode(errors="replace"):
            assert (token, "1" + piece.decode()) == (token, decoded)


def test_a_byte_token_is_its_byte():
    spelt = token_bytes(BUILT["sentencepiece"])
    tokens = BUILT["sentencepiece"].encode("数")
    assert [spelt(token) for token in tokens[1:]] == [b"\xe6", b"\x95", b"\xb0"]


def test_a_text_that_goes_on_keeps_its_first_space():
    tokens = BUILT["sentencepiece"].encode("kůň")
    spelt = SPELT["sentencepiece"]
    assert Detokeniser(spelt).add(tokens[0]) == "kůň"
    assert Detokeniser(spelt, continues=True).add(tokens[0]) == " kůň"
    assert spelt(tokens[0], first=True) == "kůň".encode()


def test_special_tokens_are_no_text():
    tokenizer = BUILT["byte-level"]
    half, rest = tokenizer.encode("🚀")[:1], tokenizer.encode("🚀")[1:]
    tokens = [*half, *tokenizer.end_ids, *rest]
    assert "".join(streamed(SPELT["byte-level"], tokens)) == "🚀"


def test_a_number_beyond_the_vocabulary_is_no_bytes():
    spelt = SPELT["byte-level"]
    assert spelt(len(spelt.pieces)) == spelt(-1) == b""


def test_a_decoder_that_is_not_known_is_refused():
    tokenizer = vocabularies.byte_level()
    tokenizer.wrapper.backend_tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(InputError, match=r"^this tokenizer joins its tokens by .*WordPiece"):
        spelling(tokenizer)
