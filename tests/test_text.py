"""Text from outside on one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.text import one_line, quoted

ANYTHING = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("respose", '"respose"'),
        ("größe", '"größe"'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb", r'"a\nb"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("a\x7fb", r'"a\x7fb"'),
        ("a\u2028b", r'"a\u2028b"'),
        ("\ud800", r'"\ud800"'),
        ("x" * 60, '"' + "x" * 60 + '"'),
        ("x" * 61, '"' + "x" * 59 + '…"'),
    ],
)
def test_a_name_is_shown_in_one_short_printable_line(name, shown):
    assert quoted(name) == shown


@given(ANYTHING)
def test_quoted_text_cannot_steer_a_terminal(text):
    assert quoted(text).isprintable()


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        (" a\r\n\tb\x1b[31m ", None, "a b·[31m"),
        ("\x00\n", None, "·"),
        (None, 3, ""),
        ("x" * 20, 20, "x" * 20),
        ("x" * 21, 20, "x" * 19 + "…"),
    ],
)
def test_text_is_put_on_one_line(text, limit, line):
    assert one_line(text, limit) == line


@given(ANYTHING, st.integers(1, 9))
def test_one_line_cannot_steer_a_terminal_and_keeps_its_limit(text, limit):
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
