"""Labels: each holds one id, and what holds none is passed over and said so."""

import errno
import os
from pathlib import Path

import pytest

from helpers.stores import fail_with, make_huge, message, names, needs_linux, recorded
from mlx_tune.errors import DiskError, UsageError
from mlx_tune.store import labels

A, B = "a" * 64, "b" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels.put_label(tmp_path / "tags", "good", A)
    return tmp_path / "tags"


def read(folder: Path) -> tuple[dict[str, str], list[str]]:
    notes: list[str] = []
    return labels.read_labels(folder, notes), notes


def test_a_label_reads_back_as_it_was_put_and_is_one_line_of_text(folder):
    labels.put_label(folder, "also", B)
    assert read(folder) == ({"also": B, "good": A}, [])
    assert (folder / "good").read_bytes() == A.encode() + b"\n"
    assert names(folder) == ["also", "good"]


def test_a_label_put_again_moves(folder):
    labels.put_label(folder, "good", B)
    assert read(folder) == ({"good": B}, [])


def test_a_dropped_label_is_gone_and_dropping_it_again_does_nothing(folder):
    labels.drop_label(folder, "good")
    labels.drop_label(folder, "good")
    assert read(folder) == ({}, [])


@needs_linux
def test_a_dropped_label_is_gone_for_good_when_drop_returns(folder, monkeypatch):
    calls = recorded(monkeypatch)
    labels.drop_label(folder, "good")
    assert calls == [("unlink", str(folder / "good")), ("flush", str(folder))]


def test_where_no_folder_is_there_are_no_labels_and_none_is_made(tmp_path):
    labels.drop_label(tmp_path / "tags", "good")
    assert read(tmp_path / "tags") == ({}, [])
    assert names(tmp_path) == []


def test_a_label_may_lack_its_line_break(folder):
    (folder / "good").write_text(B)
    assert read(folder) == ({"good": B}, [])


def write(content: bytes):
    return lambda path: path.write_bytes(content)


def link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_text(B)
    path.symlink_to("../elsewhere")


@pytest.mark.parametrize(
    "put",
    [
        write(b""),
        write(b"base\n"),
        write(b"\xff" * 64),
        write(A.upper().encode()),
        write(A.encode() + b"\n\n"),
        write(A.encode() + B.encode()),
        Path.mkdir,
        os.mkfifo,
        link,
        make_huge,
    ],
)
def test_what_holds_no_id_is_passed_over_and_said_so_once(folder, put):
    put(folder / "bad")
    notes: list[str] = []
    for _ in range(2):
        assert labels.read_labels(folder, notes) == {"good": A}
    assert notes == [f"{folder / 'bad'}: holds no session's id and is passed over; delete it"]


def test_hidden_files_are_no_labels(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".good.0123456789abcdef").write_text(B)  # what a killed write leaves
    assert read(folder) == ({"good": A}, [])


def test_a_name_that_is_no_text_is_read_like_any_other(folder):
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_text(B)
    except OSError:
        pytest.skip("this disk takes no such names")
    assert read(folder) == ({"good": A, os.fsdecode(b"\xff\xfe"): B}, [])


def test_a_file_in_place_of_the_folder_is_named_when_a_label_is_put(tmp_path):
    (tmp_path / "tags").write_bytes(b"mine")
    assert read(tmp_path / "tags") == ({}, [])
    assert message(UsageError, lambda: labels.put_label(tmp_path / "tags", "good", A)) == (
        f"{tmp_path / 'tags'} is not a folder; move it away or name another store"
    )
    assert (tmp_path / "tags").read_bytes() == b"mine"


def test_a_full_disk_leaves_the_label_as_it_was(folder, monkeypatch):
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    assert message(DiskError, lambda: labels.put_label(folder, "good", B)) == (
        f"cannot write {folder / 'good'}: no space left on device; HEAD, sessions and the last "
        "checkpoint are as they were; free some space, then run the command again"
    )
    assert read(folder) == ({"good": A}, [])
    assert os.listdir(folder) == ["good"]  # noqa: PTH208 hidden files too


def test_a_label_that_may_not_be_deleted_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(os, "unlink", fail_with(errno.EROFS))
    line = message(DiskError, lambda: labels.drop_label(folder, "good"))
    assert line.startswith(f"cannot delete {folder / 'good'}: read-only file system; ")


@pytest.mark.parametrize("call", ["listdir", "stat"])
def test_labels_that_may_not_be_read_are_no_reason_to_go_on_without(folder, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with(errno.EACCES))
        line = message(DiskError, lambda: labels.read_labels(folder))
    assert line == (
        f"cannot read {folder}: permission denied; reading changes nothing; give yourself the "
        "permission or name another store, then run the command again"
    )
