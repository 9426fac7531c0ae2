"""Flushing: what cannot be flushed is told from what failed to be."""

import errno
import os

import pytest

from helpers.stores import fail_with
from mlx_tune.files.durable import flush, sync_file, sync_folder

CANNOT = [errno.EINVAL, errno.ENOTSUP, errno.ENOTTY]


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 a count of names, not of paths


@pytest.mark.parametrize("code", CANNOT, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_flushed_on_its_disk_is_gone_on_with(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fail_with(code))
    sync_folder(tmp_path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_folder_whose_flush_fails_is_no_such_thing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_folder(tmp_path)


@pytest.mark.parametrize("code", [*CANNOT, errno.EIO], ids=errno.errorcode.get)
def test_a_files_flush_is_never_skipped(tmp_path, monkeypatch, code):
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_file(tmp_path / "file")


def test_a_flush_that_failed_is_not_tried_again(tmp_path, monkeypatch):
    tries = []

    def failing(descriptor: int) -> None:
        tries.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="output"):
        flush(file.fileno())
    assert len(tries) == 1


@pytest.mark.parametrize("code", [None, errno.EIO])
def test_no_descriptor_stays_open_whatever_happens(tmp_path, monkeypatch, code):
    (tmp_path / "file").write_bytes(b"x")
    if code:
        monkeypatch.setattr(os, "fsync", fail_with(code))
    before = open_descriptors()
    for call in (lambda: sync_folder(tmp_path), lambda: sync_file(tmp_path / "file")):
        try:
            call()
        except OSError:
            assert code
    assert open_descriptors() == before


def test_a_link_is_not_flushed_in_place_of_a_file(tmp_path):
    (tmp_path / "victim").write_bytes(b"x")
    (tmp_path / "file").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        sync_file(tmp_path / "file")
