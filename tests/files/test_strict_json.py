"""Strict JSON: what is refused, in which words, and that every line number is right."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import (
    MAX_DEPTH,
    Item,
    JsonObject,
    kind,
    parse_json,
    parse_jsonl,
)

INDENTS = st.text(" \t\r\n", max_size=4)


def refusal(parse, text):
    """The message with which ``parse`` refuses ``text`` as the file ``cs``."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InputError) as caught:
        parse(data, "cs")
    return str(caught.value)


# What is read


def test_an_array_gives_its_elements_and_their_lines():
    items = parse_json(b'[\n  {"a": 1},\n\n  [2,\n 3], "x"\n]\n', "cs")
    assert items == [
        Item(value={"a": 1}, line=2),
        Item(value=[2, 3], line=4),
        Item(value="x", line=5),
    ]


def test_json_lines_give_a_value_a_line_and_skip_blank_lines():
    assert parse_jsonl(b'\n{"a": 1}\n \t\r\n[2]\r\n\n', "cs") == [
        Item(value={"a": 1}, line=2),
        Item(value=[2], line=4),
    ]


def test_an_object_knows_its_own_line_and_that_of_every_key():
    (item,) = parse_json(b'[\n{\n"a":\n1, "b": {\n"c": 2}}]', "cs")
    assert isinstance(item.value, JsonObject)
    assert (item.value.line, item.value.key_lines) == (2, {"a": 3, "b": 4})
    assert item.value["b"].key_lines == {"c": 5}


@pytest.mark.parametrize("parse", [parse_json, parse_jsonl])
@pytest.mark.parametrize("blank", [b"", b" \r\n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_blank_text_holds_nothing(parse, blank):
    assert parse(blank, "cs") == []


@pytest.mark.parametrize("parse", [parse_json, parse_jsonl])
def test_a_byte_order_mark_is_accepted(parse):
    (item,) = parse(b"\xef\xbb\xbf[1]", "cs")
    assert item.line == 1


def test_a_line_separator_inside_a_string_does_not_end_the_json_line():
    assert parse_jsonl('"a\u2028b\x85c"\n'.encode(), "cs") == [Item(value="a\u2028b\x85c", line=1)]


def test_an_escaped_pair_of_surrogates_is_one_character():
    assert parse_json(rb'["\ud83d\ude00"]', "cs") == [Item(value="😀", line=1)]


# What is refused


@pytest.mark.parametrize("parse", [parse_json, parse_jsonl])
def test_invalid_utf8_is_refused_with_its_byte_offset(parse):
    expected = "cs:2: byte 0xff at offset 6 is not UTF-8; save it as UTF-8"
    assert refusal(parse, b'[1,\n"\xc3\xff"]'.replace(b"\xc3", b"a")) == expected


def test_invalid_utf8_after_an_empty_first_line_stands_on_the_second():
    expected = "cs:2: byte 0xff at offset 1 is not UTF-8; save it as UTF-8"
    assert refusal(parse_jsonl, b"\n\xff") == expected


def test_the_byte_offset_counts_the_byte_order_mark():
    expected = "cs:1: byte 0xe9 at offset 5 is not UTF-8; save it as UTF-8"
    assert refusal(parse_json, b'\xef\xbb\xbf["\xe9"]') == expected


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_a_number_that_is_not_finite_is_refused_with_its_key_and_line(number):
    text = f'[{{"a": 1,\n "rank": {number}}}]'
    assert refusal(parse_json, text) == f'cs:2: "rank" is {number}; write a finite number'


def test_a_number_that_is_not_finite_in_a_list_is_named_by_the_list():
    text = '{"a": 1}\n{"ranks": [1, NaN]}'
    assert refusal(parse_jsonl, text) == 'cs:2: "ranks" is NaN; write a finite number'


def test_a_number_that_is_not_finite_and_has_no_key_is_refused_with_its_line():
    assert refusal(parse_json, "[1,\nNaN]") == "cs:2: a value is NaN; write a finite number"


def test_an_empty_key_is_still_the_key_that_is_named():
    assert refusal(parse_json, '[{"": NaN}]') == 'cs:1: "" is NaN; write a finite number'


def test_a_number_of_more_than_twenty_characters_is_shown_shortened():
    assert refusal(parse_json, f"[1{'0' * 15}e400]") == (
        f"cs:1: a value is 1{'0' * 15}e400; write a finite number"
    )
    assert refusal(parse_json, f"[1{'0' * 16}e400]") == (
        f"cs:1: a value is 1{'0' * 16}e40…; write a finite number"
    )


@pytest.mark.parametrize("digits", [309, 5_000, 1_000_000])
def test_a_huge_integer_is_refused_like_any_infinite_number(digits):
    expected = f'cs:1: "n" is {"9" * 20}…; write a finite number'
    assert refusal(parse_json, '[{"n": ' + "9" * digits + "}]") == expected


def test_the_longest_integer_a_float_can_hold_is_read_exactly():
    assert parse_json(b"[" + b"9" * 308 + b"]", "cs") == [Item(value=10**308 - 1, line=1)]


def test_a_duplicate_key_is_refused_with_both_lines():
    text = '[{"rank": 1,\n"a": 2,\n"rank": 3}]'
    assert refusal(parse_json, text) == 'cs:3: duplicate key "rank", first on line 1; keep one'


def test_one_key_in_two_objects_is_no_duplicate():
    assert len(parse_json(b'[{"a": {"a": 1}}, {"a": 2}]', "cs")) == 2


@pytest.mark.parametrize("code", ["d800", "dbff", "dc00", "dfff"])
def test_half_a_character_is_refused_with_its_key(code):
    text = f'[{{"name": "a\\u{code}"}}]'
    fix = "an unpaired surrogate; write the whole character"
    assert refusal(parse_json, text) == f'cs:1: "name" holds \\u{code}, {fix}'


def test_half_a_character_in_a_key_is_refused():
    fix = "an unpaired surrogate; write the whole character"
    assert refusal(parse_json, r'[{"a\ud800": 1}]') == rf'cs:1: "a\ud800" holds \ud800, {fix}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2", 'cs:1:6: expected "," or "]"'),
        ("[1\n 2]", 'cs:2:2: expected "," or "]"'),
        ("[1}", 'cs:1:3: expected "," or "]"'),
        ("[1,\n]", 'cs:1:3: a comma before "]"; remove it'),
        ('[{"a": 1, }]', 'cs:1:9: a comma before "}"; remove it'),
        ('[{"a": 1', 'cs:1:9: expected "," or "}"'),
        ('[{"a" 1}]', 'cs:1:7: expected ":" after "a"'),
        ("[{'a': 1}]", "cs:1:3: expected a key in double quotes"),
        ("[{1: 1}]", "cs:1:3: expected a key in double quotes"),
        ("[", "cs:1:2: expected a value"),
        ("[\n  nul]", "cs:2:3: expected a value"),
        ("[01]", 'cs:1:3: expected "," or "]"'),
        ("[1] x", "cs:1:5: more text after the end of the value"),
        ('["a]', "cs:1:2: a string without its closing quote"),
        (
            '["a\nb"]',
            "cs:1:4: a raw line break or control character in a string; "
            r"write it as \n, \t or \u00XX",
        ),
        ("\n\n  hello", "cs:3:3: expected a value"),
        ("\nx", "cs:2:1: expected a value"),
        ("\ufeff[x]", "cs:1:2: expected a value"),
    ],
)
def test_text_that_does_not_parse_is_refused_with_line_and_column(text, reason):
    assert refusal(parse_json, text) == reason


def test_a_bad_escape_is_refused_where_it_stands():
    assert refusal(parse_json, '["ab\\q"]').startswith("cs:1:5: invalid \\escape")


def test_every_json_line_that_does_not_parse_is_named():
    assert refusal(parse_jsonl, '{"a": 1}\n\n {"a" 2}\n[3]\n{"a": NaN}\n') == (
        'cs:3:7: expected ":" after "a"\ncs:5: "a" is NaN; write a finite number'
    )


def test_a_json_line_may_not_go_on_in_the_next_line():
    assert refusal(parse_jsonl, '{"a": 1,\n"b": 2}') == (
        "cs:1:9: expected a key in double quotes\ncs:2:4: more text after the end of the value"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"data": [1]}', "an object"),
        ('"a"', "text"),
        ("1", "a number"),
        ("1.5", "a number"),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
    ],
)
def test_a_json_file_must_hold_an_array(text, found):
    fix = "put the rows into one array [...], or name the file .jsonl if it has one a line"
    assert refusal(parse_json, "\n" + text) == f"cs:2: found {found}, not an array; {fix}"


@pytest.mark.parametrize("unit", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("parse", [parse_json, parse_jsonl])
def test_json_nested_ten_thousand_deep_is_refused_with_the_limit(parse, unit):
    text = "[1," + unit * 10_000
    assert refusal(parse, text) == (
        "cs:1: nested more than 64 deep, which is the limit; flatten it"
    )


@pytest.mark.parametrize("parse", [parse_json, parse_jsonl])
def test_lists_and_objects_nested_exactly_to_the_limit_are_read(parse):
    half = MAX_DEPTH // 2
    text = '[{"a":' * half + "1" + "}]" * half
    (item,) = parse(text.encode(), "cs")
    assert item.line == 1
    assert refusal(parse, text.replace("1", "[]")) == (
        "cs:1: nested more than 64 deep, which is the limit; flatten it"
    )


def test_an_object_nested_to_the_limit_is_still_told_to_be_no_array():
    text = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH
    assert refusal(parse_json, text).startswith("cs:1: found an object, not an array; ")


def test_brackets_inside_strings_are_no_nesting():
    assert parse_json(b'["' + b"[" * 10_000 + b'"]', "cs") == [Item(value="[" * 10_000, line=1)]


# Words for messages


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (0, "a number"),
        (0.5, "a number"),
        ("", "text"),
        ([], "a list"),
        ({}, "an object"),
        (JsonObject(1), "an object"),
    ],
)
def test_a_value_is_named_in_words(value, words):
    assert kind(value) == words


# Properties


@st.composite
def laid_out_array(draw):
    """The text of an array of objects, laid out anyhow, and the offsets of objects and keys."""
    text, offsets = "", []
    for number in range(draw(st.integers(0, 5))):
        text += ("," if number else "") + draw(INDENTS)
        opened, keys = len(text), {}
        text += "{"
        for key in "abc"[: draw(st.integers(0, 3))]:
            text += ("," if keys else "") + draw(INDENTS)
            keys[key] = len(text)
            text += f'"{key}"{draw(INDENTS)}:{draw(INDENTS)}{draw(st.sampled_from(["1", "[{}]"]))}'
            text += draw(INDENTS)
        text += draw(INDENTS) + "}" + draw(INDENTS)
        offsets.append((opened, keys))
    opening = draw(INDENTS) + "[" + draw(INDENTS)
    shifted = [
        (opened + len(opening), {key: at + len(opening) for key, at in keys.items()})
        for opened, keys in offsets
    ]
    return opening + text + "]" + draw(INDENTS), shifted


@given(laid_out_array())
def test_lines_of_rows_and_keys_are_right_however_the_array_is_laid_out(laid_out):
    text, offsets = laid_out
    items = parse_json(text.encode(), "cs")
    found = [(item.line, item.value.line, item.value.key_lines) for item in items]
    expected = [
        (
            text.count("\n", 0, opened) + 1,
            text.count("\n", 0, opened) + 1,
            {key: text.count("\n", 0, at) + 1 for key, at in keys.items()},
        )
        for opened, keys in offsets
    ]
    assert found == expected


@given(st.lists(st.one_of(st.text(" \t\r", max_size=3), st.integers())))
def test_lines_of_json_lines_are_right_for_any_mix_with_blank_lines(lines):
    text = "\n".join(line if isinstance(line, str) else f"  {line} " for line in lines)
    expected = [
        Item(value=line, line=number)
        for number, line in enumerate(lines, start=1)
        if isinstance(line, int)
    ]
    assert parse_jsonl(text.encode(), "cs") == expected


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars.filter(lambda value: value not in (math.inf, -math.inf)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(values), st.sampled_from([None, 0, 1, "\t"]), st.booleans())
def test_whatever_the_standard_library_writes_reads_back_equal(rows, indent, ascii_only):
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    assert [item.value for item in parse_json(text.encode(), "cs")] == rows


def oracle(text):
    """The rows of a JSON array by the standard library, or None where strict JSON refuses."""

    def pairs(found):
        if len(dict(found)) < len(found):
            raise ValueError("duplicate key")
        return dict(found)

    def no_constant(name):
        raise ValueError(name)

    def finite(number):
        if math.isinf(float(number)):
            raise ValueError(number)
        return float(number)

    try:
        rows = json.loads(
            text, object_pairs_hook=pairs, parse_constant=no_constant, parse_float=finite
        )
        json.dumps(rows, ensure_ascii=False).encode()  # refuses lone surrogates
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None


PIECES = ["[", "]", "{", "}", ",", ":", " ", "\n", '"a"', '"b"', "1", "-2.5e3", "null", "true"]
ODD_PIECES = ["NaN", "1e400", "01", r'"\ud800"', r'"\ud83d\ude00"', '"', "\\", "\t", "x"]


@given(st.lists(st.sampled_from(PIECES + ODD_PIECES), max_size=20).map("".join))
@example('[{"a":1,"a":1}]')
@example('[{"a":[1e400]}]')
@example("[[],{},]")
@example('[{"a":1}]\n')
def test_it_accepts_exactly_what_the_standard_library_does_made_strict(inside):
    for text in (inside, f"[{inside}]", f'[{{"c":{inside}}}]'):
        try:
            rows = [item.value for item in parse_json(text.encode(), "cs")]
        except InputError:
            rows = None
        blank = not text.strip(" \t\r\n")
        assert rows == ([] if blank else oracle(text))


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'"' + b"\\" * 100_001)
@example(b"[" + b"9" * 100_000 + b"]")
@example(b"[-]")
def test_any_bytes_are_read_or_refused_with_an_input_error(data):
    for parse in (parse_json, parse_jsonl):
        try:
            found = parse(data, "cs")
        except InputError as error:
            found = str(error)
            assert all(problem.startswith("cs:") for problem in found.split("\n"))
        assert found is not None
