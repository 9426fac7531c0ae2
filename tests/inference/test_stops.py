from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.errors import UsageError
from mlx_tune.inference.stops import Stops

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
    watch = Stops(stops)
    shown = [watch.add(piece) for piece in cut(text, data)]
    shown.append(watch.finish())
    assert ("".join(shown), watch.found) == oracle(text, stops)


def test_every_short_text_and_stop_of_two_letters():
    texts = ["".join(letters) for n in range(9) for letters in product("ab", repeat=n)]
    for stop in texts[1:31]:
        for text in texts:
            watch = Stops([stop])
            shown = "".join([*map(watch.add, text), watch.finish()])
            assert (shown, watch.found) == oracle(text, [stop]), (text, stop)


@given(text=LETTERS, stops=STOPS, data=st.data())
def test_nothing_is_held_back_that_could_not_begin_a_stop(text, stops, data):
    watch, come, shown = Stops(stops), "", ""
    for piece in cut(text, data):
        come, shown = come + piece, shown + watch.add(piece)
        if watch.found is None:
            held = come.removeprefix(shown)
            assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_across_three_pieces_never_shows_its_beginning():
    watch = Stops(["\n\nUser:"])
    assert [watch.add(piece) for piece in ["Yes.\n", "\nUs", "er: no"]] == ["Yes.", "", ""]
    assert watch.found == "\n\nUser:"
    assert watch.add("more") == watch.finish() == ""


def test_a_beginning_that_came_to_nothing_is_shown():
    watch = Stops(["STOP"])
    assert [watch.add("a ST"), watch.add("AR"), watch.add("ST")] == ["a ", "STAR", ""]
    assert watch.finish() == "ST"
    assert watch.finish() == ""
    assert watch.found is None


def test_the_stop_that_is_complete_first_counts_though_another_began_before():
    watch = Stops(["abcd", "b"])
    assert watch.add("xab") == "xa"
    assert watch.found == "b"


def test_of_two_complete_at_once_the_longer_counts():
    watch = Stops(["b", "ab"])
    assert watch.add("xab") == "x"
    assert watch.found == "ab"


def test_an_empty_stop_is_refused():
    with pytest.raises(UsageError, match="a stop string is empty"):
        Stops(["a", ""])


def test_a_long_stop_costs_constant_work_a_character():
    stop = "a" * 100_000 + "b"
    watch = Stops([stop])
    assert watch.add("a" * 150_000) == "a" * 50_000
    assert watch.add("b") == ""
    assert watch.found == stop
