"""Sessions: names, manifests, and every way in which a folder can be not what was committed."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, UsageError
from mlx_tune.files.durable import write_folder
from mlx_tune.files.sealed import manifest, seal
from mlx_tune.store.session import (
    NAME_PATTERN,
    Session,
    check_name,
    folder_name,
    read_session,
    slug,
)
from mlx_tune.text import quoted

FILES = {"adapters.safetensors": bytes(range(256)) * 8, "data.jsonl": b'{"question":"?"}\n'}
RECORD = {"schema": 1, "number": 1, "name": "cs", "parent": None, "verdict": "promote"}
RULES = f"is not allowed; a name matches {NAME_PATTERN}; try"


def written(root: Path, record: object = RECORD, *, text: bytes | None = None) -> Path:
    """Write a session's folder around a record, or around the bytes of a bad one."""
    files = {**FILES, "session.json": json.dumps(record).encode() if text is None else text}
    sealed = seal(files)
    identity = hashlib.sha256(sealed["MANIFEST.sha256"]).hexdigest()
    path = root / folder_name(1, "cs", identity)
    write_folder(path, sealed)
    return path


def damage(path: Path) -> str:
    """Return what reading and verifying a session says is wrong with it."""
    with pytest.raises(DamagedStoreError) as caught:
        read_session(path).verify()
    return str(caught.value)


def test_a_session_reads_back_as_it_was_written(tmp_path):
    path = written(tmp_path)
    session = read_session(path)
    assert session == Session(
        path=path,
        id=hashlib.sha256((path / "MANIFEST.sha256").read_bytes()).hexdigest(),
        hashes={},
        number=1,
        name="cs",
        parent=None,
        record={},
    )
    assert session.record == RECORD
    assert session.folder_name == path.name == f"0001-cs-{session.id[:8]}"
    assert {name: session.read(name) for name in FILES} == FILES
    session.verify()


def test_a_manifest_is_sorted_and_worked_out_by_hand():
    assert manifest({"b": b"", "MANIFEST.sha256": b"not itself", "a": b"abc"}) == (
        b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n"
        b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b\n"
    )


@pytest.mark.parametrize("command", [["shasum", "-a", "256", "-c"], ["sha256sum", "-c"]])
def test_other_programs_accept_the_manifest_and_find_damage_by_it(tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    path = written(tmp_path)
    check = [*command, "MANIFEST.sha256"]
    sound = subprocess.run(check, cwd=path, capture_output=True, text=True, check=False)
    (path / "data.jsonl").write_bytes(b"other")
    damaged = subprocess.run(check, cwd=path, capture_output=True, text=True, check=False)
    assert (sound.returncode, sound.stdout.count(": OK"), sound.stderr) == (0, 3, "")
    assert damaged.returncode == 1
    assert "data.jsonl: FAILED" in damaged.stdout


@pytest.mark.parametrize("name", ["adapters.safetensors", "data.jsonl", "session.json"])
def test_any_flipped_byte_is_found_and_located(tmp_path, name):
    path = written(tmp_path)
    whole = (path / name).read_bytes()
    for index in {0, len(whole) // 2, len(whole) - 1}:
        flipped = bytearray(whole)
        flipped[index] ^= 1
        (path / name).write_bytes(flipped)
        assert damage(path).startswith(f"{path / name}: changed after it was written: sha256 is ")


def test_the_whole_message_of_a_flipped_byte(tmp_path):
    path = written(tmp_path)
    (path / "data.jsonl").write_bytes(b"abc")
    right = hashlib.sha256(FILES["data.jsonl"]).hexdigest()
    assert damage(path) == (
        f"{path / 'data.jsonl'}: changed after it was written: sha256 is ba7816bf8f01…, "
        f"MANIFEST.sha256 says {right[:12]}…; run `mlx-tune doctor`"
    )


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path):
    path = written(tmp_path)
    whole = (path / "MANIFEST.sha256").read_bytes()
    for index in range(len(whole)):
        flipped = bytearray(whole)
        flipped[index] ^= 1
        (path / "MANIFEST.sha256").write_bytes(flipped)
        assert path.name in damage(path)


def test_a_truncated_file_is_found_and_located(tmp_path):
    path = written(tmp_path)
    os.truncate(path / "adapters.safetensors", 100)
    assert damage(path).startswith(f"{path / 'adapters.safetensors'}: changed after it was written")


def test_every_truncation_of_the_manifest_is_found(tmp_path):
    path = written(tmp_path)
    whole = (path / "MANIFEST.sha256").read_bytes()
    for length in range(len(whole)):
        (path / "MANIFEST.sha256").write_bytes(whole[:length])
        assert path.name in damage(path)


def test_a_manifest_rewritten_to_fit_other_bytes_betrays_itself_by_the_folders_name(tmp_path):
    path = written(tmp_path)
    (path / "data.jsonl").write_bytes(b"forged")
    files = {**FILES, "data.jsonl": b"forged", "session.json": json.dumps(RECORD).encode()}
    (path / "MANIFEST.sha256").write_bytes(manifest(files))
    assert f"{path}: its MANIFEST.sha256 and session.json belong to 0001-cs-" in damage(path)


def test_all_damaged_files_are_named_at_once(tmp_path):
    path = written(tmp_path)
    for name in FILES:
        (path / name).write_bytes(b"x")
    assert [name for name in FILES if str(path / name) in damage(path)] == list(FILES)


def test_reading_one_file_checks_that_file_and_no_other(tmp_path):
    path = written(tmp_path)
    session = read_session(path)
    (path / "data.jsonl").write_bytes(b"x")
    assert session.read("adapters.safetensors") == FILES["adapters.safetensors"]
    with pytest.raises(DamagedStoreError):
        session.read("data.jsonl")


def test_a_session_is_held_to_the_manifest_it_was_opened_with(tmp_path):
    path = written(tmp_path)
    session = read_session(path)
    files = {**FILES, "data.jsonl": b"forged", "session.json": json.dumps(RECORD).encode()}
    (path / "data.jsonl").write_bytes(b"forged")
    (path / "MANIFEST.sha256").write_bytes(manifest(files))
    with pytest.raises(DamagedStoreError, match="changed after it was written"):
        session.read("data.jsonl")
    with pytest.raises(DamagedStoreError, match=r"MANIFEST\.sha256: changed since it was opened"):
        session.verify()


def test_a_file_the_manifest_does_not_name_cannot_be_read(tmp_path):
    path = written(tmp_path)
    with pytest.raises(DamagedStoreError) as caught:
        read_session(path).read("../../secret")
    assert str(caught.value) == (
        f"{path}/../../secret: no such file in MANIFEST.sha256, which names "
        "adapters.safetensors, data.jsonl, session.json"
    )


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_fifo, replace_by_folder])
def test_only_regular_files_are_accepted_in_a_session(tmp_path, replace):
    path = written(tmp_path)
    session = read_session(path)
    replace(path / "data.jsonl")
    assert damage(path) == f"{path}: 'data.jsonl' is not a regular file; run `mlx-tune doctor`"
    with pytest.raises(DamagedStoreError, match="where a regular file belongs"):
        session.read("data.jsonl")


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_fifo, replace_by_folder])
def test_the_manifest_itself_must_be_a_regular_file(tmp_path, replace):
    path = written(tmp_path)
    replace(path / "MANIFEST.sha256")
    assert damage(path) == (
        f"{path / 'MANIFEST.sha256'}: a link, FIFO, device or folder where a regular file belongs; "
        "run `mlx-tune doctor`"
    )


def test_a_link_to_a_session_is_no_session(tmp_path):
    path = written(tmp_path / "elsewhere")
    link = tmp_path / path.name
    link.symlink_to(path)
    assert damage(link) == f"{link}: not a folder; run `mlx-tune doctor`"


def test_missing_and_unnamed_files_are_listed_together(tmp_path):
    path = written(tmp_path)
    (path / "data.jsonl").unlink()
    (path / "model.py").write_bytes(b"")
    assert damage(path) == (
        f"{path}: data.jsonl is missing, 'model.py' is not in MANIFEST.sha256; "
        "run `mlx-tune doctor`"
    )


def test_what_the_finder_leaves_behind_is_no_damage_unless_it_is_a_link(tmp_path):
    path = written(tmp_path)
    (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    read_session(path).verify()
    (path / ".DS_Store").unlink()
    (path / ".DS_Store").symlink_to("/etc/passwd")
    assert "'.DS_Store' is not a regular file" in damage(path)


def test_a_missing_manifest_is_damage(tmp_path):
    path = written(tmp_path)
    (path / "MANIFEST.sha256").unlink()
    assert damage(path) == f"{path / 'MANIFEST.sha256'}: missing; run `mlx-tune doctor`"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [lines[0].replace("  ", " *"), *lines[1:]],
        lambda lines: [lines[0].upper(), *lines[1:]],
        lambda lines: [*lines, f"{'0' * 64}  ../../etc/passwd"],
        lambda lines: [f"{'0' * 64}  MANIFEST.sha256", *lines],
        lambda lines: [*lines, ""],
    ],
    ids=["unsorted", "twice", "binary mark", "upper case", "path", "itself", "blank line"],
)
def test_a_manifest_line_out_of_form_is_named_by_its_number(tmp_path, change):
    path = written(tmp_path)
    lines = (path / "MANIFEST.sha256").read_text().splitlines()
    (path / "MANIFEST.sha256").write_text("".join(f"{line}\n" for line in change(lines)))
    assert re.fullmatch(
        re.escape(str(path / "MANIFEST.sha256")) + r':\d: not a line "<sha256>  <file name>" in '
        r"order of names; run `mlx-tune doctor`",
        damage(path),
    )


def test_a_file_that_cannot_be_read_is_a_failing_disk_and_not_damage(tmp_path, monkeypatch):
    path = written(tmp_path)

    def failing(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(
        DiskError, match=r"cannot read .*: permission denied; reading changes nothing"
    ):
        read_session(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"[]", "not a JSON object"),
        (b'{"loss": NaN}', "not valid JSON (NaN is not a finite number)"),
        (b'{"a": 1, "a": 2}', 'not valid JSON (duplicate key "a")'),
        (b"{}", '"schema", "number", "name", "parent" missing or malformed'),
    ],
)
def test_a_session_record_is_read_strictly(tmp_path, text, complaint):
    path = written(tmp_path, text=text)
    assert damage(path) == f"{path / 'session.json'}: {complaint}; run `mlx-tune doctor`"


def test_deeply_nested_json_is_damage_and_no_crash(tmp_path):
    path = written(tmp_path, text=b"[" * 100_000)
    assert "session.json: not valid JSON" in damage(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", 0),
        ("number", True),
        ("number", "1"),
        ("name", "../cs"),
        ("name", None),
        ("parent", "abc"),
        ("parent", 7),
        ("schema", "1"),
    ],
)
def test_a_malformed_key_of_the_record_is_named(tmp_path, key, value):
    path = written(tmp_path, {**RECORD, key: value})
    assert damage(path) == (
        f'{path / "session.json"}: "{key}" missing or malformed; run `mlx-tune doctor`'
    )


def test_a_session_of_a_newer_version_asks_for_an_upgrade(tmp_path):
    path = written(tmp_path, {**RECORD, "schema": 2})
    with pytest.raises(IncompatibleError) as caught:
        read_session(path)
    assert str(caught.value) == (
        f"{path / 'session.json'}: schema 2 is newer than 1, which this version reads; "
        "upgrade mlx-tune"
    )


@pytest.mark.parametrize("name", ["a", "0", "cs", "cs-notes-2", "2024", "a" * 40, "a--", "session"])
def test_plain_names_are_allowed(name):
    check_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("..", f'session name ".." {RULES} "session"'),
        ("a/b", f'session name "a/b" {RULES} "a-b"'),
        ("../../etc", f'session name "../../etc" {RULES} "etc"'),
        ("a\0b", rf'session name "a\u0000b" {RULES} "a-b"'),
        ("a\x1b[2J", rf'session name "a\u001b[2J" {RULES} "a-2j"'),
        ("a\n", rf'session name "a\n" {RULES} "a"'),
        ("\u202ecs", rf'session name "\u202ecs" {RULES} "cs"'),
        ("CS", f'session name "CS" {RULES} "cs"'),
        ("", f'session name "" {RULES} "session"'),
        ("-x", f'session name "-x" {RULES} "x"'),
        ("é", f'session name "é" {RULES} "e"'),
        ("a" * 99, f'session name "{"a" * 59}…" {RULES} "{"a" * 40}"'),
        (
            "base",
            'session name "base" is not allowed: it means the bare base model; try "base-data"',
        ),
        (
            "head",
            'session name "head" is not allowed: it means the session in use, on the server; '
            'try "head-data"',
        ),
    ],
)
def test_other_names_are_refused_with_the_pattern_and_a_name_that_would_do(name, message):
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert (str(caught.value), caught.value.exit_code) == (message, 2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CS Notes (2)", "cs-notes-2"),
        ("cs", "cs"),
        ("", "session"),
        ("数据", "session"),
        ("Ünïcode—Straße", "unicode-strasse"),
        ("x" * 39 + " y", "x" * 39),
        ("Base", "base-data"),
        ("HEAD", "head-data"),
    ],
)
def test_a_slug_by_hand(text, name):
    assert slug(text) == name


@given(st.text())
def test_a_slug_is_always_allowed_and_its_own_slug(text):
    name = slug(text)
    check_name(name)
    assert slug(name) == name


@given(st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda name: name != "base"))
def test_a_slug_leaves_an_allowed_name_alone_but_for_dashes_at_its_end(name):
    assert slug(name) == re.sub("-+", "-", name).rstrip("-")


@given(st.text(st.characters(codec=None)))
def test_quoted_text_cannot_steer_a_terminal(text):
    assert quoted(text).isprintable()
