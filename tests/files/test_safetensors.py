import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from helpers.reader_comparison import compare_readers
from helpers.safetensors_mutants import KINDS
from mlx_tune.errors import DamagedStoreError
from mlx_tune.files import safetensors as module
from mlx_tune.files.safetensors import DTYPE_BYTES, Tensor, parse, read_header

W = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
V = '"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}'
UNSOUND = "not a sound safetensors file: "
KNOWN = ", ".join(DTYPE_BYTES)


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
    assert problem.startswith(UNSOUND)
    return problem.removeprefix(UNSOUND)


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
        f"{path}: {UNSOUND}incomplete metadata, file not fully covered; fetch it again"
    )


def test_a_header_of_over_100_million_bytes_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    os.truncate(path, 200_000_000)
    with pytest.raises(DamagedStoreError) as error:
        read_header(path)
    assert str(error.value) == f"{path}: {UNSOUND}header too large; run `mlx-tune doctor`"


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


# What the format's own reader refuses; its words differ from version to version


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\0\0\0\0\0\0",
        bytes(8),
        b"\x03\0\0\0\0\0\0\0{}",
        b"\xff" * 64,
        file(f"{{{W}}}", 5),
        file(f"{{{W},{V}}}", 11),
        file(one(shape="[2]")),
        file(one(offsets="[4,0]")),
        file(one(offsets="[0]")),
        file(one(shape="[2147483647,2147483647,2147483647,0]")),
        file("{'w':1}".encode("utf-16")),
        file(b'{"\xc0\x80":1}'),
        file(f"{{{W},}}"),
        file(f"{{{W}}}x"),
        file('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"),
        file(r'{"\ud800":1}'),
        file('{"__metadata__":{"a":1}}'),
        file('{"w":{"dtype":"F32"}}'),
        file(f'{{{W[:-1]},"shape":[1]}}}}'),
    ],
    ids=lambda data: repr(data[:80]),
)
def test_what_breaks_a_rule_of_the_format_is_refused_in_one_line(data):
    assert complaint(data).isprintable()


@pytest.mark.parametrize("place", ["[2,10]", "[6,14]"], ids=["overlap", "hole"])
def test_a_tensor_that_overlaps_another_or_leaves_a_hole_is_named(place):
    moved = V.replace("[4,12]", place)
    assert "v" in re.split(r"\W+", complaint(file(f"{{{W},{moved}}}", 14)))


@pytest.mark.parametrize("spelt", ["1.0", "1e0", "-0", "-1", "NaN", "01", "true", "null", '"1"'])
def test_numbers_that_are_not_whole_are_refused(spelt):
    for text in (one(offsets=f"[{spelt},4]"), one(shape=f"[{spelt}]")):
        assert "JSON" in complaint(file(text))


def test_a_name_of_a_damaged_file_cannot_steer_a_terminal():
    name = "a\\u001b[31m\\n" + "x" * 1000
    line = complaint(file(one(offsets="[4,8]").replace("w", name, 1)))
    assert line.isprintable()
    assert len(UNSOUND + line) == 240
    assert line.startswith("invalid offset for tensor `a·[31m xxx")


# What it accepts and is refused all the same


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (f" {{{W}}}", "the header does not begin with {"),
        (f"{{{W},{W}}}", 'duplicate key "w"'),
        (rf"{{{W},{W.replace('w', chr(92) + 'u0077', 1)}}}", 'duplicate key "w"'),
        ('{"__metadata__":{"a":"b","a":"c"}}', 'duplicate key "a"'),
        ('{"w":["F32",[1],[0,4]]}', 'tensor "w" is not an object'),
        (f'{{{W[:-1]},"x":1}}}}', 'tensor "w" has the unknown field "x"'),
        (one('{"F32":null}'), f'tensor "w" has a dtype other than {KNOWN}'),
        (
            one(shape="[2147483648,0]", offsets="[0,0]"),
            'tensor "w" has a dimension of 2147483648; MLX holds 2,147,483,647',
        ),
    ],
)
def test_what_mlx_would_misread_or_nobody_writes_is_refused(header, problem):
    data = file(header, 0 if "[0,0]" in header or "metadata" in header else 4)
    safetensors.deserialize(data)
    assert complaint(data) == problem


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64", "f32"])
def test_a_type_that_mlx_cannot_compute_with_is_refused(dtype):
    """By the format's own reader, if it is too old to know the type."""
    line = complaint(file(one(f'"{dtype}"', "[8]", "[0,64]"), 64))
    assert "dtype other than" in line or "unknown variant" in line or "invalid shape" in line


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


def test_a_reader_that_does_not_ask_the_formats_own_is_caught(monkeypatch):
    """The control: without it, the same judge finds the reader out."""
    lax = SimpleNamespace(deserialize=len, SafetensorError=safetensors.SafetensorError)
    monkeypatch.setattr(module, "safetensors", lax)
    with pytest.raises(AssertionError, match="the Rust reader refuses"):
        compare_readers(read, 1_000, seed=1)


def test_a_reader_that_takes_dimensions_mlx_cuts_is_caught(monkeypatch):
    monkeypatch.setattr(module, "MAX_DIMENSION", 2**64)
    with pytest.raises(AssertionError, match=r"MLX gives .* another shape"):
        compare_readers(read, 5_000, seed=1)


def test_a_reader_that_takes_other_bytes_is_caught():
    def shifted(data):
        header = parse(data, "x")
        moved = {name: replace(t, begin=t.begin - 1) for name, t in header.tensors.items()}
        return replace(header, tensors=moved)

    with pytest.raises(AssertionError, match="read otherwise"):
        compare_readers(shifted, 1_000, seed=1)


def test_a_reader_that_refuses_what_is_sound_is_caught():
    def impatient(data):
        if len(data) > 200:
            raise DamagedStoreError("x: too long")
        return read(data)

    with pytest.raises(AssertionError, match="too long"):
        compare_readers(impatient, 1_000, seed=1)
