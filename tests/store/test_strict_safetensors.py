import json
import math
import os
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from helpers.reader_comparison import compare_readers
from helpers.safetensors_mutants import KINDS
from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage import strict_safetensors
from mlx_tune.lineage.strict_safetensors import DTYPE_BYTES, Tensor, parse, read_header

W = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
V = '"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}'
KNOWN = ", ".join(DTYPE_BYTES)
WHOLE = "expected whole numbers from 0 to"
BIG = "18,446,744,073,709,551,615"
INT32 = "2,147,483,647"


def file(header: str | bytes, data: bytes | int = 4) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    body = bytes(data) if isinstance(data, int) else data
    return len(text).to_bytes(8, "little") + text + body


def one(dtype='"F32"', shape="[1]", offsets="[0,4]") -> str:
    return f'{{"w":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'


def complaint(data: bytes) -> str:
    with pytest.raises(DamagedStoreError) as error:
        parse(data, "x")
    assert error.value.exit_code == 4
    place, _, rest = str(error.value).partition(": ")
    problem, _, fix = rest.rpartition("; ")
    assert (place, fix) == ("x", "run `mlx-tune doctor`")
    return problem


def test_a_sound_file_says_where_each_tensor_lies():
    header = parse(file(f'{{{V},"__metadata__":{{"format":"mlx"}},{W}}}  ', 12), "x")
    start = 8 + len(f'{{{V},"__metadata__":{{"format":"mlx"}},{W}}}  ')
    assert header.tensors == {
        "w": Tensor(dtype="F32", shape=(1,), begin=start, end=start + 4),
        "v": Tensor(dtype="F32", shape=(2,), begin=start + 4, end=start + 12),
    }
    assert list(header.tensors) == ["w", "v"]  # in the order of their bytes
    assert header.metadata == {"format": "mlx"}


@pytest.mark.parametrize("metadata", ["null", "{}"])
def test_metadata_may_be_none(metadata):
    """MLX writes null where it was given none."""
    assert parse(file(f'{{"__metadata__":{metadata},{W}}}'), "x").metadata == {}


def test_a_file_without_tensors_and_a_tensor_without_numbers_are_sound():
    assert parse(file("{}", 0), "x").tensors == {}
    header = parse(file(one(shape="[0,3]", offsets="[0,0]"), 0), "x")
    assert header.tensors["w"].shape == (0, 3)


def test_every_dtype_is_one_the_rust_reader_knows():
    for dtype, width in DTYPE_BYTES.items():
        data = file(one(f'"{dtype}"', "[3]", f"[0,{3 * width}]"), 3 * width)
        assert parse(data, "x").tensors["w"].dtype == dtype
        ((_, tensor),) = safetensors.deserialize(data)
        assert tensor["dtype"] == dtype


def test_a_file_on_disk_is_checked_by_its_header_and_its_size(tmp_path):
    path = tmp_path / "w.safetensors"
    terabyte = 2**40
    text = one('"F32"', f"[{2**20},{2**18}]", f"[0,{terabyte}]")
    path.write_bytes(file(text, 0))
    os.truncate(path, 8 + len(text) + terabyte)  # sparse: no byte of it is ever read
    assert read_header(path).tensors["w"].end == 8 + len(text) + terabyte
    os.truncate(path, 8 + len(text) + terabyte - 1)
    with pytest.raises(DamagedStoreError) as error:
        read_header(path, fix="fetch it again")
    assert str(error.value) == (
        f'{path}: tensor "w" lacks its last 1 byte: cut short; fetch it again'
    )


def test_a_header_of_over_100_million_bytes_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    os.truncate(path, 200_000_000)
    with pytest.raises(DamagedStoreError) as error:
        read_header(path)
    assert str(error.value) == (
        f"{path}: claims a header of 100,000,001 bytes; the limit is 100,000,000; "
        "run `mlx-tune doctor`"
    )


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nowhere", "."):
        with pytest.raises(DamagedStoreError) as error:
            read_header(tmp_path / name)
        assert str(error.value) == (
            f"{tmp_path / name}: missing, or not a regular file; run `mlx-tune doctor`"
        )


def test_a_link_is_followed(tmp_path):
    """The hub's cache is made of them."""
    (tmp_path / "blob").write_bytes(file(f"{{{W}}}"))
    (tmp_path / "link").symlink_to("blob")
    assert list(read_header(tmp_path / "link").tensors) == ["w"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "0 bytes long; a safetensors file begins with 8"),
        (b"\x02\0\0\0\0\0\0", "7 bytes long; a safetensors file begins with 8"),
        (bytes(8), 'the header begins with "", not with {'),
        (b"\x03\0\0\0\0\0\0\0{}", "claims a header of 3 bytes, and 2 follow: cut short"),
        (
            b"\xff" * 64,
            f"claims a header of {BIG} bytes; the limit is 100,000,000",
        ),
        (file(f"{{{W}}}", 5), "ends with 1 byte that no tensor claims"),
        (file(f"{{{W},{V}}}", 11), 'tensor "v" lacks its last 1 byte: cut short'),
    ],
)
def test_lengths_that_cannot_be(data, problem):
    assert complaint(data) == problem


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (f" {{{W}}}", 'the header begins with " ", not with {'),
        (f"\ufeff{{{W}}}", r'the header begins with "\ufeff", not with {'),
        (f"[{W}]", 'the header begins with "[", not with {'),
        (f"{{{W}}}".encode("utf-16-le"), "the header is not JSON (Expecting property name "
         "enclosed in double quotes: line 1 column 2 (char 1))"),
        (f"{{{W}}}".encode("utf-16"), "byte 0 of the header is not UTF-8"),
        (b'{"\xed\xa0\x80":1}', "byte 2 of the header is not UTF-8"),
        (b'{"\xc0\x80":1}', "byte 2 of the header is not UTF-8"),
        (f"{{{W},}}", "the header is not JSON (Expecting property name enclosed in double quotes: "
         "line 1 column 55 (char 54))"),
        (f"{{{W}}}x", "the header is not JSON (Extra data: line 1 column 55 (char 54))"),
        (f"{{{W}}}\0", "the header is not JSON (Extra data: line 1 column 55 (char 54))"),
        ('{"a\nb":1}', "the header is not JSON (Invalid control character at: "
         "line 1 column 4 (char 3))"),
        ('{"w":' + "[" * 100_000 + "]" * 100_000 + "}", "the header is nested too deeply"),
        (r'{"\ud800":1}', r"the header holds \ud800, half of a character"),
        (r'{"__metadata__":{"a":"\udfffb"}}', r"the header holds \udfff, half of a character"),
        (f"{{{W},{W}}}", 'the header gives "w" twice'),
        (rf'{{{W},"\u0077":1}}', 'the header gives "w" twice'),
        ('{"__metadata__":null,"__metadata__":null}', 'the header gives "__metadata__" twice'),
        ('{"__metadata__":{"a":"b","a":"c"}}', '__metadata__ gives "a" twice'),
        ('{"__metadata__":[]}', "__metadata__ is a list; expected an object"),
        ('{"__metadata__":{"a":1}}', '__metadata__ has 1 for "a"; expected text'),
        ('{"__metadata__":{"a":NaN}}', '__metadata__ has NaN for "a"; expected text'),
        ('{"w":null}', 'tensor "w" is null; expected an object'),
        ('{"w":["F32",[1],[0,4]]}', 'tensor "w" is a list; expected an object'),
        ('{"w":{}}', 'tensor "w" lacks "dtype"'),
        ('{"w":{"dtype":"F32"}}', 'tensor "w" lacks "shape"'),
        ('{"w":{"dtype":"F32","shape":[]}}', 'tensor "w" lacks "data_offsets"'),
        (f'{{{W[:-1]},"x":1}}}}', 'tensor "w" has the unknown field "x"'),
        (f'{{{W[:-1]},"shape":[1]}}}}', 'tensor "w" gives "shape" twice'),
        (one('"F4"'), f'tensor "w" has the dtype "F4"; known are {KNOWN}'),
        (one("1"), f'tensor "w" has the dtype 1; known are {KNOWN}'),
        (one('{"F32":null}'), f'tensor "w" has the dtype an object; known are {KNOWN}'),
        ('{"a\\u001b[31m\\n":1}', r'tensor "a\x1b[31m\n" is 1; expected an object'),
    ],
)  # fmt: skip
def test_what_the_header_may_not_say(header, problem):
    assert complaint(file(header)) == problem


@pytest.mark.parametrize("spelt", ["1.0", "1e0", "-0", "-1", "NaN", "Infinity", "true", "null"])
def test_numbers_that_are_not_whole(spelt):
    shown = f'data_offsets of tensor "w" holds {spelt}; {WHOLE} {BIG}'
    assert complaint(file(one(offsets=f"[{spelt},4]"))) == shown
    shown = f'shape of tensor "w" holds {spelt}; {WHOLE} {INT32}'
    assert complaint(file(one(shape=f"[{spelt}]"))) == shown


@pytest.mark.parametrize("spelt", ["01", "+1", "0x10", "1_0", "1.", ".5", "１", "nan"])
def test_numbers_that_are_no_json(spelt):
    assert complaint(file(one(shape=f"[{spelt}]"))).startswith("the header is not JSON (")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"shape": "1"}, 'shape of tensor "w" is 1; expected a list of whole numbers'),
        ({"shape": "{}"}, 'shape of tensor "w" is an object; expected a list of whole numbers'),
        ({"shape": '["1"]'}, f'shape of tensor "w" holds "1"; {WHOLE} {INT32}'),
        ({"shape": "[[1]]"}, f'shape of tensor "w" holds a list; {WHOLE} {INT32}'),
        ({"shape": "[2147483648]"}, f'shape of tensor "w" holds 2147483648; {WHOLE} {INT32}'),
        ({"shape": f"[{'9' * 5000}]"}, f'shape of tensor "w" holds {"9" * 30}…; {WHOLE} {INT32}'),
        (
            {"shape": "[2147483647,2147483647,2147483647,0]"},
            'tensor "w" has the shape [2147483647, 2147483647, 2147483647, 0], '
            "more than 64 bits can count",
        ),
        (
            {"shape": "[2]"},
            'tensor "w" is F32 of shape [2], which takes 8 bytes; data_offsets give it 4',
        ),
        (
            {"shape": "[1,1,1,1,1,1,1,1,2]"},
            'tensor "w" is F32 of shape [1, 1, 1, 1, 1, 1, 1, 1, …], which takes 8 bytes; '
            "data_offsets give it 4",
        ),
        ({"offsets": "[0]"}, 'data_offsets of tensor "w" are 1 numbers; expected 2'),
        ({"offsets": "[0,4,4]"}, 'data_offsets of tensor "w" are 3 numbers; expected 2'),
        ({"offsets": "[4,0]"}, 'tensor "w" ends at byte 0, before its begin at 4'),
        (
            {"offsets": f"[0,{2**64}]"},
            f'data_offsets of tensor "w" holds {2**64}; {WHOLE} {BIG}',
        ),
        ({"offsets": "[4,8]"}, 'tensor "w" comes after 4 bytes that no tensor claims'),
        ({"offsets": f"[{2**64 - 5},{2**64 - 1}]"},
         'tensor "w" comes after 18,446,744,073,709,551,611 bytes that no tensor claims'),
    ],
)  # fmt: skip
def test_shapes_and_places_that_cannot_be(fields, problem):
    assert complaint(file(one(**fields))) == problem


def test_tensors_may_neither_overlap_nor_leave_a_hole():
    over = V.replace("[4,12]", "[2,10]")
    assert (
        complaint(file(f"{{{W},{over}}}", 10)) == 'tensor "v" overlaps the one before it by 2 bytes'
    )
    away = V.replace("[4,12]", "[6,14]")
    assert complaint(file(f"{{{W},{away}}}", 14)) == (
        'tensor "v" comes after 2 bytes that no tensor claims'
    )


def test_what_the_formats_own_writer_writes_is_sound():
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros((0,), np.int64), "c": np.array(True)}
    data = save(arrays, metadata={"é": "\n"})
    header = parse(data, "x")
    assert header.metadata == {"é": "\n"}
    for name, tensor in header.tensors.items():
        assert data[tensor.begin : tensor.end] == arrays[name].tobytes()
        assert tensor.shape == arrays[name].shape


def read(data: bytes):
    return parse(data, "x")


def test_nothing_is_accepted_that_the_rust_reader_refuses():
    verdicts = compare_readers(read, 5_000)
    assert verdicts.refused.keys() == {kind.__name__ for kind in KINDS}
    assert verdicts.accepted["nothing"] > 50
    assert verdicts.accepted.total() > 500


def without(rule: str):
    """Return a reader's rule made lax, as one would write it who trusts Python's own ways."""
    strict = getattr(strict_safetensors, rule)

    def any_number(owner, value, limit):
        with suppress(TypeError, ValueError, OverflowError):
            return int(float(value))  # 1.0, -0 and "1" are whole numbers too
        return strict(owner, value, limit)

    def last_key_wins(value, owner):
        known = isinstance(value, strict_safetensors._Object)
        return strict(strict_safetensors._Object(dict(value).items()) if known else value, owner)

    def guessed_encoding(raw):
        with suppress(ValueError, RecursionError):
            raw = json.dumps(json.loads(raw)).encode()  # a BOM, UTF-16, a key given twice
        return strict(raw)

    return {
        "_check_layout": lambda tensors, start, size: None,
        "_size": lambda owner, dtype, shape: math.prod(shape) * DTYPE_BYTES[dtype],
        "_check_text": lambda text: None,
        "_whole": any_number,
        "_fields": last_key_wins,
        "_document": guessed_encoding,
        "DTYPE_BYTES": {**DTYPE_BYTES, "f32": 4},
        "MAX_DIMENSION": 2**64,
    }[rule]


@pytest.mark.parametrize(
    "rule",
    [
        "_check_layout",
        "_size",
        "_check_text",
        "_whole",
        "_fields",
        "_document",
        "DTYPE_BYTES",
        "MAX_DIMENSION",
    ],
)
def test_a_reader_that_lacks_a_rule_is_caught(monkeypatch, rule):
    """The control: without any one of its rules, the same judge finds the reader out."""
    monkeypatch.setattr(strict_safetensors, rule, without(rule))
    with pytest.raises(AssertionError, match="the Rust reader refuses"):
        compare_readers(read, 20_000, seed=1)


def test_a_reader_that_takes_other_bytes_is_caught():
    def shifted(data):
        header = parse(data, "x")
        moved = {name: replace(t, begin=t.begin - 1) for name, t in header.tensors.items()}
        return replace(header, tensors=moved)

    with pytest.raises(AssertionError, match="read otherwise"):
        compare_readers(shifted, 1_000, seed=1)


def test_a_reader_that_refuses_what_is_sound_is_caught(monkeypatch):
    monkeypatch.setattr(strict_safetensors, "MAX_HEADER_BYTES", 200)
    with pytest.raises(AssertionError, match="the limit is 200"):
        compare_readers(read, 1_000, seed=1)
