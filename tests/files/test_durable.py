"""Durable writes: whole or not at all, flushed in an order that a power cut cannot undo."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from helpers.stores import contents, fail_with, names
from mlx_tune.errors import DiskError, UsageError
from mlx_tune.files import durable
from mlx_tune.files.durable import (
    append_line,
    discard_folder,
    make_folder,
    new_file,
    new_folder,
    replace_file,
    write_folder,
)

FILES = {"a.txt": b"first\n", "b.bin": bytes(range(256)) * 40, "empty": b""}


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list that takes every flush and every rename, with the path it was about."""
    calls: list[tuple[str, str]] = []
    real_fsync, real_rename, real_replace = os.fsync, Path.rename, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append(("rename", str(target)))
        return real_rename(self, target)

    def replace(self: Path, target: Path) -> Path:
        calls.append(("rename", str(target)))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "replace", replace)
    return calls


def test_a_written_folder_holds_exactly_the_files_given(tmp_path):
    write_folder(tmp_path / "deep" / "er" / "folder", FILES)
    assert contents(tmp_path / "deep" / "er" / "folder") == FILES


def test_nothing_is_left_in_scratch_after_a_write(tmp_path):
    write_folder(tmp_path / "folder", FILES, scratch=tmp_path / "scratch")
    assert names(tmp_path) == ["folder", "scratch"]
    assert names(tmp_path / "scratch") == []


def test_an_existing_folder_is_never_overwritten(tmp_path):
    write_folder(tmp_path / "folder", {"a": b"old"})
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "folder", {"a": b"new"})
    assert contents(tmp_path / "folder") == {"a": b"old"}


def test_a_folder_that_appears_during_the_write_is_not_overwritten(tmp_path, monkeypatch):
    real_fill = durable._fill

    def overtaken(draft, files):
        real_fill(draft, files)
        write_other()

    def write_other():
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").write_bytes(b"theirs")

    monkeypatch.setattr(durable, "_fill", overtaken)
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "folder", {"a": b"ours"})
    assert contents(tmp_path / "folder") == {"a": b"theirs"}
    assert names(tmp_path / ".tmp") == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors named by Linux")
def test_files_and_their_folder_are_flushed_before_the_rename_and_the_parent_after(
    tmp_path, monkeypatch
):
    (tmp_path / ".tmp").mkdir()
    calls = recorded(monkeypatch)
    write_folder(tmp_path / "folder", {"a": b"1", "b": b"2"})
    kinds = [kind for kind, _ in calls]
    places = [Path(place) for _, place in calls]
    draft = places[2]
    assert kinds == ["flush", "flush", "flush", "rename", "flush"]
    assert draft.parent == tmp_path / ".tmp"
    assert places == [draft / "a", draft / "b", draft, tmp_path / "folder", tmp_path]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors named by Linux")
def test_a_replaced_file_is_flushed_before_the_rename_and_its_folder_after(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    replace_file(tmp_path / "HEAD", b"base\n")
    assert [kind for kind, _ in calls] == ["flush", "rename", "flush"]
    assert Path(calls[0][1]).parent == tmp_path
    assert calls[1][1] == str(tmp_path / "HEAD")
    assert calls[2][1] == str(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors named by Linux")
def test_each_folder_made_on_the_way_is_flushed_into_its_parent(tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    make_folder(tmp_path / "a" / "b")
    assert calls == [("flush", str(tmp_path)), ("flush", str(tmp_path / "a"))]


def test_on_a_mac_the_drive_is_flushed_once_before_the_rename_and_once_after(tmp_path, monkeypatch):
    (tmp_path / ".tmp").mkdir()
    asked, handed_over = [], []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _descriptor, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", handed_over.append)
    real_rename, at_rename = Path.rename, []

    def rename(self, target):
        at_rename.append((len(handed_over), len(asked)))
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    write_folder(tmp_path / "folder", {"a": b"1", "b": b"2"})
    assert at_rename == [(2, 1)]
    assert (len(handed_over), asked) == (2, [51, 51])


def test_on_a_mac_the_drive_itself_is_flushed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _descriptor, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    replace_file(tmp_path / "HEAD", b"base\n")
    assert asked == [51, 51]


def test_a_disk_without_full_flush_gets_a_plain_one(tmp_path, monkeypatch):
    flushed, real_fsync = [], os.fsync
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", fail_with(errno.ENOTSUP))
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(fd), real_fsync(fd)))
    replace_file(tmp_path / "HEAD", b"base\n")
    assert len(flushed) == 2


def test_a_full_flush_that_fails_is_not_hidden_by_a_plain_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", fail_with(errno.EIO))
    with pytest.raises(DiskError):
        replace_file(tmp_path / "HEAD", b"base\n")


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:7]))
    write_folder(tmp_path / "folder", FILES)
    assert contents(tmp_path / "folder") == FILES


def test_bytes_that_read_back_different_are_refused(tmp_path, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, b"X" * len(data)))
    with pytest.raises(DiskError, match=r"folder: input/output error; HEAD, sessions and"):
        write_folder(tmp_path / "folder", {"a": b"right"})
    assert names(tmp_path) == [".tmp"]


@pytest.mark.parametrize("chunk_bytes", [2, 4, 100])
@pytest.mark.parametrize("written", [b"righ", b"ri", b"", b"right!", b"rightright"])
def test_a_file_shorter_or_longer_than_it_should_be_is_refused(
    tmp_path, monkeypatch, chunk_bytes, written
):
    real_write_all = durable._write_all
    monkeypatch.setattr(durable, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(durable, "_write_all", lambda fd, _data: real_write_all(fd, written))
    with pytest.raises(DiskError):
        write_folder(tmp_path / "folder", {"a": b"right"})


def test_a_file_that_goes_on_after_the_last_whole_chunk_is_refused(tmp_path, monkeypatch):
    real_write_all = durable._write_all
    monkeypatch.setattr(durable, "CHUNK_BYTES", 4)
    monkeypatch.setattr(durable, "_write_all", lambda fd, data: real_write_all(fd, data + b"!"))
    with pytest.raises(DiskError):
        write_folder(tmp_path / "folder", {"a": b"four"})


def test_a_link_planted_under_the_temporary_name_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.secrets, "token_hex", lambda _length: "guessed")
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".HEAD.guessed").symlink_to("victim")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "HEAD", b"base\n")
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.ENOSPC, "no space left on device; {}; free some space, then run the command again"),
        (
            errno.EROFS,
            "read-only file system; {}; make the disk writable or name another store, then run the "
            "command again",
        ),
        (errno.EIO, "input/output error; {}; check the disk, then run the command again"),
        (
            errno.EACCES,
            "permission denied; {}; give yourself the permission or name another store, then run "
            "the command again",
        ),
    ],
)
@pytest.mark.parametrize("write", [write_folder, replace_file])
def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, write, code, line
):
    monkeypatch.setattr(os, "write", fail_with(code))
    target = tmp_path / "thing"
    with pytest.raises(DiskError) as caught:
        write(target, {"a": b"1"} if write is write_folder else b"1")
    assert str(caught.value) == f"cannot write {target}: " + line.format(durable.UNTOUCHED)
    assert [path for path in tmp_path.rglob("*") if path.name != ".tmp"] == []


def test_a_quota_is_a_disk_error_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", fail_with(errno.EDQUOT))
    with pytest.raises(DiskError, match="free some space or raise the quota"):
        replace_file(tmp_path / "HEAD", b"base\n")


def test_a_failure_leaves_the_replaced_file_as_it_was(tmp_path, monkeypatch):
    replace_file(tmp_path / "HEAD", b"old\n")
    monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
    with pytest.raises(DiskError):
        replace_file(tmp_path / "HEAD", b"new\n")
    assert contents(tmp_path) == {"HEAD": b"old\n"}


def test_a_flush_that_fails_after_the_rename_does_not_claim_that_nothing_changed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(durable, "sync_folder", fail_with(errno.EIO))
    with pytest.raises(DiskError, match="HEAD is new and whole, a power cut may undo it"):
        replace_file(tmp_path / "HEAD", b"new\n")
    assert (tmp_path / "HEAD").read_bytes() == b"new\n"


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "HEAD").symlink_to("victim")
    replace_file(tmp_path / "HEAD", b"base\n")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert stat.S_ISREG((tmp_path / "HEAD").lstat().st_mode)


def test_appending_through_a_link_is_refused(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious\n")
    (tmp_path / "log").symlink_to("victim")
    with pytest.raises(DiskError):
        append_line(tmp_path / "log", "more")
    assert (tmp_path / "victim").read_bytes() == b"precious\n"


def test_lines_are_appended_in_order(tmp_path):
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "zwei ü", durable=False)
    assert (tmp_path / "log").read_text("utf-8") == "one\nzwei ü\n"


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    (tmp_path / "log").write_bytes(b"whole\nto")
    append_line(tmp_path / "log", "next")
    assert (tmp_path / "log").read_bytes() == b"whole\nto\nnext\n"


@pytest.mark.parametrize("line", ["a\nb", "a\rb"])
def test_a_line_break_inside_a_line_is_refused(tmp_path, line):
    with pytest.raises(UsageError, match="write one line at a time"):
        append_line(tmp_path / "log", line)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_line_waits_for_the_disk(tmp_path, monkeypatch, durable):
    flushed, real_fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(fd), real_fsync(fd)))
    append_line(tmp_path / "log", "line", durable=durable)
    assert bool(flushed) == durable


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x", ".hidden", "a\nb", "a\0b", "é"])
def test_a_file_name_that_is_not_plain_is_refused(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        write_folder(tmp_path / "folder", {name: b""})
    assert str(caught.value) == (
        f"file name {name!r} is not allowed; a name is [A-Za-z0-9_][A-Za-z0-9._-]*"
    )
    assert names(tmp_path) == []


def test_file_names_that_differ_only_in_case_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'a' and 'A' differ only in case"):
        write_folder(tmp_path / "folder", {"a": b"", "A": b""})


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "store").write_bytes(b"a file")
    with pytest.raises(UsageError) as caught:
        write_folder(tmp_path / "store" / "sessions" / "x", FILES)
    assert str(caught.value) == (
        f"{tmp_path / 'store'} is not a folder; move it away or name another store"
    )


def test_a_discarded_folder_leaves_its_place_before_its_files_go(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder", FILES)
    monkeypatch.setattr(durable.shutil, "rmtree", fail_with(errno.EIO))
    with pytest.raises(DiskError, match="cannot delete"):
        discard_folder(tmp_path / "folder", scratch=tmp_path / ".tmp")
    assert not (tmp_path / "folder").exists()
    (trash,) = (tmp_path / ".tmp").iterdir()
    assert contents(trash) == FILES


def test_a_large_file_or_folder_appears_whole(tmp_path):
    with new_file(tmp_path / "deep" / "model") as scratch:
        scratch.write_bytes(b"all of it")
        assert not (tmp_path / "deep" / "model").exists()
    with new_folder(tmp_path / "deep" / "models") as scratch:
        (scratch / "part").write_bytes(b"one")
    assert (tmp_path / "deep" / "model").read_bytes() == b"all of it"
    assert contents(tmp_path / "deep" / "models") == {"part": b"one"}
    assert names(tmp_path / "deep") == ["model", "models"]


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_one_that_fails_leaves_nothing(tmp_path, make):
    def fill(scratch: Path) -> None:
        (scratch / "part" if scratch.is_dir() else scratch).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(DiskError, match="nothing was written"), make(tmp_path / "model") as scratch:
        fill(scratch)
    assert names(tmp_path) == []
