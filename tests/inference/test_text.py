from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from helpers import tiny_tokenizers
from mlx_tune.errors import InputError, UsageError
from mlx_tune.inference import StopStrings, StreamingDetokenizer, TokenBytes

BUILT = {name: make() for name, make in tiny_tokenizers.KINDS.items()}
TOKEN_BYTES = {name: TokenBytes.of(tokenizer) for name, tokenizer in BUILT.items()}
WHOLE = ["byte-level", "sentencepiece"]  # these can write any text
TEXT = st.text(
    st.characters(codec="utf-8") | st.sampled_from("žůň 数🚀👩🏽\u200d<é>▁"), max_size=30
)


def streamed(token_bytes: TokenBytes, tokens) -> list[str]:
    detokenizer = StreamingDetokenizer(token_bytes)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


@pytest.mark.parametrize("name", WHOLE)
@given(text=TEXT)
def test_the_bytes_of_an_answers_tokens_are_its_text(name, text):
    tokenizer, token_bytes = BUILT[name], TOKEN_BYTES[name]
    text = text.replace("▁", "") if name == "sentencepiece" else text  # its own sign for a space
    tokens = tokenizer.encode(text)
    if not token_bytes.special.isdisjoint(tokens):
        return
    found = b"".join(token_bytes(token, first=i == 0) for i, token in enumerate(tokens))
    assert found.decode() == text == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", WHOLE)
@given(text=TEXT)
def test_a_streamed_text_is_the_decoded_one(name, text):
    tokens = BUILT[name].encode(text)
    assert "".join(streamed(TOKEN_BYTES[name], tokens)) == BUILT[name].decode(tokens)


@given(tokens=st.lists(st.integers(0, len(TOKEN_BYTES["byte-level"].vocabulary) - 1), max_size=20))
def test_any_tokens_in_any_order_stream_as_they_decode(tokens):
    found = "".join(streamed(TOKEN_BYTES["byte-level"], tokens))
    assert found == BUILT["byte-level"].decode(tokens)


@pytest.mark.parametrize("name", WHOLE)
def test_a_character_comes_whole_with_its_last_token(name):
    text = "数🚀"
    tokens = BUILT[name].encode(text)
    pieces = streamed(TOKEN_BYTES[name], tokens)
    assert len(tokens) > len(text)  # several tokens a character, or nothing would be tested
    assert [piece for piece in pieces if piece] == list(text)


def test_half_a_character_at_the_end_is_shown_as_what_it_is():
    tokens = BUILT["sentencepiece"].encode("数")
    assert "".join(streamed(TOKEN_BYTES["sentencepiece"], tokens[:-1])) == "\ufffd"


@pytest.mark.parametrize("name", tiny_tokenizers.KINDS)
def test_the_bytes_of_each_token_are_what_it_decodes_to(name):
    token_bytes, tokenizer = TOKEN_BYTES[name], BUILT[name]
    anchor = tokenizer.encode("1")[-1]  # so that no token is the first
    for token, raw in enumerate(token_bytes.vocabulary):
        decoded = tokenizer.decode_raw([anchor, token])
        if "\ufffd" not in decoded and "\ufffd" not in raw.decode(errors="replace"):
            assert (token, "1" + raw.decode()) == (token, decoded)


def test_a_byte_token_is_its_byte():
    token_bytes = TokenBytes.of(BUILT["sentencepiece"])
    tokens = BUILT["sentencepiece"].encode("数")
    assert [token_bytes(token) for token in tokens[1:]] == [b"\xe6", b"\x95", b"\xb0"]


def test_a_text_that_goes_on_keeps_its_first_space():
    tokens = BUILT["sentencepiece"].encode("kůň")
    token_bytes = TOKEN_BYTES["sentencepiece"]
    assert StreamingDetokenizer(token_bytes).add(tokens[0]) == "kůň"
    assert StreamingDetokenizer(token_bytes, continues=True).add(tokens[0]) == " kůň"
    assert token_bytes(tokens[0], first=True) == "kůň".encode()


def test_special_tokens_are_no_text():
    tokenizer = BUILT["byte-level"]
    half, rest = tokenizer.encode("🚀")[:1], tokenizer.encode("🚀")[1:]
    tokens = [*half, *tokenizer.end_ids, *rest]
    assert "".join(streamed(TOKEN_BYTES["byte-level"], tokens)) == "🚀"


def test_a_number_beyond_the_vocabulary_is_no_bytes():
    token_bytes = TOKEN_BYTES["byte-level"]
    assert token_bytes(len(token_bytes.vocabulary)) == token_bytes(-1) == b""


def test_a_decoder_that_is_not_known_is_refused():
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.wrapper.backend_tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(InputError, match=r"^this tokenizer joins its tokens by .*WordPiece"):
        TokenBytes.of(tokenizer)


LETTERS = st.text("ab", max_size=24) | st.text("a\nž👩", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5) | st.text("a\nž👩", min_size=1, max_size=4))


def oracle(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, by looking at the whole text."""
    ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


def cut(text: str, data) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(text=LETTERS, stops=STOPS, data=st.data())
def test_what_is_shown_is_the_text_before_the_first_stop_however_it_is_cut(text, stops, data):
    watch = StopStrings(stops)
    shown = [watch.add(piece) for piece in cut(text, data)]
    shown.append(watch.finish())
    assert ("".join(shown), watch.found) == oracle(text, stops)


def test_every_short_text_and_stop_of_two_letters():
    texts = ["".join(letters) for n in range(9) for letters in product("ab", repeat=n)]
    for stop in texts[1:31]:
        for text in texts:
            watch = StopStrings([stop])
            shown = "".join([*map(watch.add, text), watch.finish()])
            assert (shown, watch.found) == oracle(text, [stop]), (text, stop)


@given(text=LETTERS, stops=STOPS, data=st.data())
def test_nothing_is_held_back_that_could_not_begin_a_stop(text, stops, data):
    watch, come, shown = StopStrings(stops), "", ""
    for piece in cut(text, data):
        come, shown = come + piece, shown + watch.add(piece)
        if watch.found is None:
            held = come.removeprefix(shown)
            assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_across_three_pieces_never_shows_its_beginning():
    watch = StopStrings(["\n\nUser:"])
    assert [watch.add(piece) for piece in ["Yes.\n", "\nUs", "er: no"]] == ["Yes.", "", ""]
    assert watch.found == "\n\nUser:"
    assert watch.add("more") == watch.finish() == ""


def test_a_beginning_that_came_to_nothing_is_shown():
    watch = StopStrings(["STOP"])
    assert [watch.add("a ST"), watch.add("AR"), watch.add("ST")] == ["a ", "STAR", ""]
    assert watch.finish() == "ST"
    assert watch.finish() == ""
    assert watch.found is None


def test_the_stop_that_is_complete_first_counts_though_another_began_before():
    watch = StopStrings(["abcd", "b"])
    assert watch.add("xab") == "xa"
    assert watch.found == "b"


def test_of_two_complete_at_once_the_longer_counts():
    watch = StopStrings(["b", "ab"])
    assert watch.add("xab") == "x"
    assert watch.found == "ab"


def test_an_empty_stop_is_refused():
    with pytest.raises(UsageError, match="a stop string is empty"):
        StopStrings(["a", ""])


def test_a_long_stop_costs_constant_work_a_character():
    stop = "a" * 100_000 + "b"
    watch = StopStrings([stop])
    assert watch.add("a" * 150_000) == "a" * 50_000
    assert watch.add("b") == ""
    assert watch.found == stop
