"""Safetensors files damaged in named ways."""

import json
import math
import re
from dataclasses import dataclass, field
from random import Random

from mlx_tune.files.safetensors import DTYPE_BYTES

OTHER_DTYPES = ["F4", "F8_E8M0", "F6_E2M3", "C64", "f32", "F128", "BF16 ", "", "FLOAT", "F32\u0000"]
SPELLINGS = [
    "1.0", "1e0", "1E0", "0.0", "0e0", "-0", "-0.0", "-1", "01", "00", "+1", "0x10", "1_0", " 1",
    "1 ", "1.", ".5", "1e", "1e400", "-1e400", "NaN", "nan", "Infinity", "-Infinity", "１", "٣",
    "null", "true", '"1"', "[1]", "{}", "9007199254740993", "2147483648", "18446744073709551615",
    "18446744073709551616", "9" * 30, "9" * 5000, "1" + "0" * 400,
]  # fmt: skip
VALUES = [
    "null",
    "true",
    "false",
    '"x"',
    '""',
    "[]",
    "{}",
    "0",
    "1.5",
    "[[]]",
    '{"a":{}}',
    "[null]",
]
ODD_TEXT = [
    r"\ud800", r"\udc00\ud800", r"\ud83d\ude00", r"\ud83d\u0041", r"\u0000", r"\u0041", r"\/",
    r"\x41", r"\u12G4", r"\u+123", r"\u 123", r"\u1_23", r"\u123", "\\", r"\"", r"\a", r"\0",
    "\u2028", "\ufeff", "\x7f", "\x00", "\x1f", "\n", "\t", "é", "𝒳", "\ufffe",
]  # fmt: skip
BLANKS = [" ", "\n", "\t", "\r", "  \n", "\x0b", "\x0c", "\x00", "\xa0", "\u2028", "\ufeff", "\x85"]
NOT_UTF8 = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xe2\x82",
    b"\x80",
    b"\xfe",
]
LENGTHS = [0, 1, 2, 7, 8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1, 10**8, 10**8 + 1]


class Raw(str):
    """A piece of JSON as it is to be written."""


class Pairs(list):
    """A JSON object as pairs, so that a key can stand twice."""

    def get(self, name):
        return next(value for key, value in self if key == name)

    def put(self, name, value):
        next(pair for pair in self if pair[0] == name)[1] = value

    def copy(self):
        return Pairs([*pair] for pair in self)


@dataclass
class Draft:
    """A file before it is written."""

    entries: Pairs = field(default_factory=Pairs)
    data: bytes = b""

    def tensors(self) -> list[Pairs]:
        return [fields for name, fields in self.entries if name != "__metadata__"]


def sound(random: Random) -> Draft:
    """A file that both readers accept."""
    draft = Draft()
    for name in random.sample(
        ["w", "a.lora_a", "é", "\\", '"', "x" * 70, ""], random.randint(2, 5)
    ):
        dtype = random.choice(sorted(DTYPE_BYTES))
        shape = [random.choice([0, 1, 1, 2, 3]) for _ in range(random.randint(0, 3))]
        begin = len(draft.data)
        draft.data += random.randbytes(math.prod(shape) * DTYPE_BYTES[dtype])
        offsets = [begin, len(draft.data)]
        fields = Pairs([["dtype", dtype], ["shape", shape], ["data_offsets", offsets]])
        random.shuffle(fields)
        draft.entries.append([name, fields])
    if random.random() < 0.7:
        texts = ["null", "{}", '{"format":"mlx"}', '{"a":"b","é":""}']
        draft.entries.append(["__metadata__", Raw(random.choice(texts))])
    random.shuffle(draft.entries)
    return draft


def written(value: object) -> str:
    """A value as JSON text."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{written(key)}:{written(child)}" for key, child in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def packed(text: bytes, data: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + data


# Damage to the structure: (draft, random) → None


def some(draft: Draft, random: Random) -> Pairs:
    return random.choice(draft.tensors())


def offsets_moved(draft, random):
    fields = some(draft, random)
    by = random.choice([-8, -4, -1, 1, 4, 8, 2**40, 2**64 - 4])
    fields.put("data_offsets", [max(0, at + by) for at in fields.get("data_offsets")])


def overlap(draft, random):
    some(draft, random).put("data_offsets", list(some(draft, random).get("data_offsets")))


def hole(draft, random):
    at, size = random.randint(0, len(draft.data)), random.choice([1, 4, 8, 100])
    draft.data = draft.data[:at] + bytes(size) + draft.data[at:]
    for fields in draft.tensors():
        begin, end = fields.get("data_offsets")
        fields.put("data_offsets", [x + size if begin >= at else x for x in (begin, end)])


def offsets_reversed(draft, random):
    fields = some(draft, random)
    fields.put("data_offsets", fields.get("data_offsets")[::-1])


def offsets_of_another_number(draft, random):
    fields = some(draft, random)
    fields.put("data_offsets", fields.get("data_offsets")[: random.randint(0, 1)] * 3)


def trailing_bytes(draft, random):
    draft.data += bytes(random.choice([1, 2, 8, 4096]))


def missing_bytes(draft, random):
    draft.data = draft.data[: random.randint(0, max(0, len(draft.data) - 1))]


def another_dtype(draft, random):
    some(draft, random).put("dtype", random.choice([*DTYPE_BYTES, *OTHER_DTYPES]))


def dtype_as_object(draft, random):
    fields = some(draft, random)
    fields.put("dtype", Pairs([[fields.get("dtype"), Raw("null")]]))


def another_shape(draft, random):
    some(draft, random).put("shape", [random.randint(0, 4) for _ in range(random.randint(0, 4))])


def shape_turned(draft, random):
    fields = some(draft, random)
    fields.put("shape", [1, *fields.get("shape")[::-1]])


def huge_shape(draft, random):
    sizes = [2**16, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, 10**30]
    some(draft, random).put("shape", [random.choice(sizes) for _ in range(random.randint(1, 4))])


def shape_that_overflows_before_a_zero(draft, random):
    fields = some(draft, random)
    begin = fields.get("data_offsets")[0]
    shape = [random.choice([2**31 - 1, 2**32, 65536]) for _ in range(random.randint(1, 5))]
    shape.insert(random.randint(0, len(shape)), 0)
    _resize(draft, fields, 0)
    fields.put("shape", shape)
    fields.put("data_offsets", [begin, begin])


def _resize(draft, fields, size):
    """Give a tensor another number of bytes and move what follows it."""
    begin, end = fields.get("data_offsets")
    draft.data = draft.data[:begin] + bytes(size) + draft.data[end:]
    for other in draft.tensors():
        places = other.get("data_offsets")
        if other is not fields and places[0] >= end:
            other.put("data_offsets", [x - (end - begin) + size for x in places])


def number_spelt_otherwise(draft, random):
    name = random.choice(["shape", "data_offsets"])
    fields = some(draft, random)
    numbers = list(fields.get(name)) or [0]
    at = random.randrange(len(numbers))
    same = [f"{numbers[at]}.0", f"{numbers[at]}e0", f" {numbers[at]}", f"-{numbers[at]}",
            f"0{numbers[at]}", f"+{numbers[at]}", f"{numbers[at]}\n", hex(numbers[at])]  # fmt: skip
    numbers[at] = Raw(random.choice([*same, *SPELLINGS]))
    fields.put(name, numbers)


def another_value(draft, random):
    pair = random.choice([*some(draft, random), random.choice(draft.entries)])
    pair[1] = Raw(random.choice(VALUES))


def field_missing(draft, random):
    fields = some(draft, random)
    fields.pop(random.randrange(len(fields)))


def unknown_field(draft, random):
    fields = some(draft, random)
    value = Raw(random.choice([*VALUES, *SPELLINGS]))
    fields.insert(random.randint(0, 3), [random.choice(["strides", "", "Dtype", "offset"]), value])


def field_twice(draft, random):
    fields = some(draft, random)
    key, value = random.choice(fields)
    fields.insert(random.randint(0, 3), [key, random.choice([value, Raw("null"), Raw("[0,0]")])])


def name_twice(draft, random):
    name, _ = random.choice(draft.entries)
    draft.entries.insert(random.randint(0, 5), [name, some(draft, random).copy()])


def name_twice_by_an_escape(draft, random):
    name, fields = random.choice([e for e in draft.entries if e[0] != "__metadata__" and e[0]])
    escaped = f"\\u{ord(name[0]):04x}"
    draft.entries.append([Raw(f'"{escaped}{name[1:]}"'), fields.copy()])


def metadata_otherwise(draft, random):
    draft.entries = Pairs(entry for entry in draft.entries if entry[0] != "__metadata__")
    texts = [
        '{"a":1}', '{"a":null}', '{"a":"b","a":"c"}', '{"a":["b"]}', '{"a":{"b":"c"}}', '{"a":"b"}',
        r'{"a":"\ud800"}', r'{"\udfff":"a"}', '{"":""}', "{}", "[]", '"a"', "0", "null",
    ]  # fmt: skip
    for _ in range(random.choice([1, 1, 1, 2])):
        draft.entries.append(["__metadata__", Raw(random.choice(texts))])


def entry_as_list(draft, random):
    entry = random.choice([e for e in draft.entries if e[0] != "__metadata__"])
    values = [entry[1].get(name) for name in ("dtype", "shape", "data_offsets")]
    entry[1] = Raw("[" + ",".join(map(written, values)) + "]")


def deep_nesting(draft, random):
    depth = random.choice([10, 126, 127, 128, 900, 100_000])
    opening, closing = random.choice([("[", "]"), ('{"a":', "}")])
    deep = Raw(opening * depth + "0" + closing * depth)
    random.choice([*some(draft, random), random.choice(draft.entries)])[1] = deep


# Damage to the text of the header: (text, random) → bytes


def within(text: str, random: Random, piece: str, *, strings: bool = False) -> str:
    """Put a piece somewhere; between two tokens, or inside a string."""
    marks = r'(?<=")[a-zA-Z_]' if strings else r"[{}\[\]:,]"
    places = [match.start() for match in re.finditer(marks, text)] or [0]
    at = random.choice(places)
    return text[:at] + piece + text[at:]


def blank(text, random):
    return within(text, random, random.choice(BLANKS)).encode()


def blank_at_an_end(text, random):
    piece = random.choice(BLANKS)
    return random.choice([piece + text, text + piece, text + "    "]).encode()


def odd_text_in_a_string(text, random):
    return within(text, random, random.choice(ODD_TEXT), strings=True).encode()


def odd_text_between(text, random):
    pieces = ["/**/", "//\n", ",", ":", "'", "#", "}", "]", "{", "null", "\\", "\x1f", "NaN", '""']
    return within(text, random, random.choice(pieces)).encode()


def no_utf8(text, random):
    encoded = text.encode()
    at = random.randint(0, len(encoded))
    return encoded[:at] + random.choice(NOT_UTF8) + encoded[at:]


def another_encoding(text, random):
    encodings = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "utf-32-le"]
    return text.encode(random.choice(encodings))


def other_quotes(text, random):
    return text.replace('"', random.choice(["'", "“", ""])).encode()


def text_cut(text, random):
    return text[: random.randint(0, len(text) - 1)].encode()


def text_after_the_end(text, random):
    return (text + random.choice(["{}", "x", "\x00", ",", "null", "}", text])).encode()


# Damage to the bytes of the file: (data, random) → bytes


def bit_flipped(data, random):
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def byte_replaced(data, random):
    at = random.randrange(len(data))
    return data[:at] + random.choice([b"0", b"1", b" ", b'"', b"\x00", b"}", b"9"]) + data[at + 1 :]


def slice_removed(data, random):
    at = random.randrange(len(data))
    return data[:at] + data[at + random.randint(1, 8) :]


def bytes_inserted(data, random):
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.randint(1, 8)) + data[at:]


def slice_repeated(data, random):
    at = random.randrange(len(data))
    piece = data[at : at + random.randint(1, 40)]
    return data[:at] + piece + data[at:]


def file_cut(data, random):
    return data[: random.randrange(len(data))]


def file_extended(data, random):
    return data + random.randbytes(random.randint(1, 40))


def another_length(data, random):
    length = int.from_bytes(data[:8], "little")
    near = [length + by for by in (-8, -2, -1, 1, 2, 8) if length + by >= 0]
    return random.choice([*LENGTHS, *near]).to_bytes(8, "little") + data[8:]


def nothing(data, random):
    """The control: a file that is sound stays so."""
    return data


TO_STRUCTURE = (
    offsets_moved, overlap, hole, offsets_reversed, offsets_of_another_number, trailing_bytes,
    missing_bytes, another_dtype, dtype_as_object, another_shape, shape_turned, huge_shape,
    shape_that_overflows_before_a_zero, number_spelt_otherwise, another_value, field_missing,
    unknown_field, field_twice, name_twice, name_twice_by_an_escape, metadata_otherwise,
    entry_as_list, deep_nesting,
)  # fmt: skip
TO_TEXT = (
    blank, blank_at_an_end, odd_text_in_a_string, odd_text_between, no_utf8, another_encoding,
    other_quotes, text_cut, text_after_the_end,
)  # fmt: skip
TO_BYTES = (
    bit_flipped, byte_replaced, slice_removed, bytes_inserted, slice_repeated, file_cut,
    file_extended, another_length,
)  # fmt: skip
KINDS = (*TO_STRUCTURE, *TO_TEXT, *TO_BYTES)


def mutant(random: Random) -> tuple[str, bytes]:
    """A file damaged once, by a kind, and now and then a second time by its bytes."""
    kind = random.choice((*KINDS, nothing))
    draft = sound(random)
    if kind in TO_STRUCTURE:
        kind(draft, random)
    text = written(draft.entries)
    encoded = kind(text, random) if kind in TO_TEXT else text.encode()
    data = packed(encoded, draft.data)
    if kind in TO_BYTES:
        data = kind(data, random)
    elif kind is not nothing and data and random.random() < 0.1:
        data = random.choice(TO_BYTES)(data, random)
    return kind.__name__, data
