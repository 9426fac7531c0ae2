"""Reading paths, and storing rows as bytes."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_tune.data import read as module
from mlx_tune.data.read import dump, fingerprint, load, read, read_items
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import Item

ACCEPTED = "accepted are .json (one array of rows) and .jsonl (one row a line)"


def refusal(*paths):
    with pytest.raises(InputError) as caught:
        read(paths)
    return str(caught.value)


def file(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def text_lines(*texts):
    return "\n".join(json.dumps({"text": text}) for text in texts)


# What is read


def test_files_are_read_in_the_order_given_and_rows_know_their_places(tmp_path):
    lines = file(tmp_path, "b.jsonl", "\n" + text_lines("one", "two"))
    array = file(tmp_path, "a.json", '[\n{"text": "three"}]')
    rows = read([lines, array])
    assert [row.text for row in rows] == ["one", "two", "three"]
    assert [row.place for row in rows] == [f"{lines}:2", f"{lines}:3", f"{array}:2"]


def test_a_folder_gives_its_own_data_files_by_name(tmp_path):
    file(tmp_path, "b.json", '[{"text": "two"}]')
    file(tmp_path, "a.jsonl", text_lines("one"))
    file(tmp_path, "c.JSON", '[{"text": "three"}]')
    file(tmp_path, "README.md", "not data")
    file(tmp_path, "._b.json", b"\x00\x05\x16\x07")
    (tmp_path / "deeper").mkdir()
    file(tmp_path / "deeper", "d.json", '[{"text": "not read"}]')
    (tmp_path / "folder.json").mkdir()
    assert [row.text for row in read([tmp_path])] == ["one", "two", "three"]


def test_files_are_read_by_their_suffix_in_either_case(tmp_path):
    array, lines = tmp_path / "a.JSON", tmp_path / "b.jsonl"
    array.write_text("[1,\n2]")
    lines.write_text("[1]\n2")
    assert read_items(array) == [Item(value=1, line=1), Item(value=2, line=2)]
    assert read_items(lines) == [Item(value=[1], line=1), Item(value=2, line=2)]


# What is refused


def test_another_suffix_is_refused_with_the_formats_accepted(tmp_path):
    path = tmp_path / "cs.csv"
    with pytest.raises(InputError) as caught:
        read_items(path)
    assert str(caught.value) == f"{path}: not a data format; {ACCEPTED}"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "cs.json"
    os.mkfifo(path)
    with pytest.raises(InputError) as caught:
        read_items(path)
    assert str(caught.value) == f"{path}: not a regular file; {ACCEPTED}"


def test_a_file_of_five_gigabytes_is_refused_from_its_size(tmp_path):
    path = tmp_path / "cs.json"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)  # sparse: it takes no room
    with pytest.raises(InputError) as caught:
        read_items(path)
    limit = "5,368,709,120 bytes; the limit is 1,073,741,824, so split it"
    assert str(caught.value) == f"{path}: {limit}"


def test_a_file_of_exactly_the_limit_is_read(tmp_path, monkeypatch):
    path = tmp_path / "cs.json"
    path.write_text("[12345]")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 7)
    assert read_items(path) == [Item(value=12345, line=1)]
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 6)
    with pytest.raises(InputError) as caught:
        read_items(path)
    assert str(caught.value) == f"{path}: 7 bytes; the limit is 6, so split it"


def test_a_missing_path_is_refused_with_the_formats(tmp_path):
    path = tmp_path / "cs.json"
    assert refusal(path) == f"{path}: does not exist; {ACCEPTED}"


def test_a_path_that_no_file_can_have_is_refused_as_missing(tmp_path):
    path = tmp_path / "c\0s.json"
    assert refusal(path) == f"{path}: does not exist; {ACCEPTED}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cs.json", ""),
        ("cs.json", "\n \n"),
        ("cs.json", b"\xef\xbb\xbf"),
        ("cs.json", "[]"),
        ("cs.json", " [ ] \n"),
        ("cs.jsonl", ""),
        ("cs.jsonl", "\n\r\n"),
    ],
)
def test_an_empty_file_or_array_is_refused_with_the_formats(tmp_path, name, content):
    path = file(tmp_path, name, content)
    assert refusal(path) == f"{path}: holds no rows; {ACCEPTED}"


def test_a_folder_without_data_is_refused_with_the_formats(tmp_path):
    file(tmp_path, "cs.csv", "Q,A")
    assert refusal(tmp_path) == f"{tmp_path}: a folder without data; {ACCEPTED}"


def test_a_file_of_another_format_is_refused_with_the_formats(tmp_path):
    path = file(tmp_path, "cs.csv", "Q,A")
    assert refusal(path) == f"{path}: not a data format; {ACCEPTED}"


def test_no_paths_are_refused():
    assert refusal() == f"no data was named; {ACCEPTED}"


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path, monkeypatch):
    path = file(tmp_path, "cs.json", "[]")

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", denied)
    assert refusal(path) == f"{path}: Permission denied; make it readable"


def test_the_problems_of_all_files_are_told_at_once(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    empty = file(folder, "a.json", "")
    broken = file(folder, "b.jsonl", "{\n" + text_lines("fine") + "\n[1,")
    misspelt = file(tmp_path, "cs.json", '[{"txt": "x"},\n7]')
    missing = tmp_path / "missing.json"
    assert refusal(folder, misspelt, missing).split("\n") == [
        f"{empty}: holds no rows; {ACCEPTED}",
        f"{broken}:1:2: expected a key in double quotes",
        f"{broken}:3:4: expected a value",
        f'{misspelt}:1: "txt" is not a field; did you mean "text"?',
        f"{misspelt}:2: a row is an object, not a number; "
        'write {"instruction": "…", "response": "…"}',
        f"{missing}: does not exist; {ACCEPTED}",
    ]


def test_at_most_twenty_problems_of_all_files_are_shown(tmp_path):
    first = file(tmp_path, "a.jsonl", "x\n" * 15)
    second = file(tmp_path, "b.jsonl", '{"text": ""}\n' * 15)
    lines = refusal(first, second).split("\n")
    assert lines[:15] == [f"{first}:{n}:1: expected a value" for n in range(1, 16)]
    empty = '"text" is empty; write its text, or leave the row out'
    assert lines[15:] == [*(f"{second}:{n}: {empty}" for n in range(1, 6)), "… and 10 more"]


def mangled(data, position, byte):
    at = position % len(data)
    return data[:at] + bytes([byte]) + data[at + 1 :]


SOUND = b'[{"instruction": "Q\\u00e9", "response": "A", "paraphrases": ["\xc3\xa9"]}]\n'
any_bytes = st.binary() | st.builds(
    mangled, st.just(SOUND), st.integers(0, 1000), st.integers(0, 255)
)


@given(any_bytes, st.sampled_from(["any.json", "any.jsonl"]))
@example(SOUND, "any.json")
@example(SOUND[1:-2], "any.jsonl")
@example(b"[" * 10_000, "any.json")
@example(b'[{"text": ' + b"9" * 5_000 + b"}]", "any.json")
def test_a_file_of_any_bytes_gives_rows_or_an_input_error(tmp_path_factory, content, name):
    folder = tmp_path_factory.getbasetemp()
    path = file(folder, name, content)
    try:
        found = read([path])
    except InputError as error:
        found = str(error).split("\n")
        assert all(line.startswith((f"{path}:", "… and ")) for line in found)
    else:
        assert all(row.place.startswith(f"{path}:") for row in found)
    assert found


# Bytes and back

words = st.text(min_size=1).filter(str.strip)


@st.composite
def conversations(draw):
    opening = draw(st.lists(words, max_size=1))
    pairs = draw(st.lists(st.tuples(words, words), min_size=1, max_size=3))
    messages = [Message(role="system", content=content) for content in opening]
    for question, answer in pairs:
        messages.append(Message(role="user", content=question))
        messages.append(Message(role="assistant", content=answer))
    paraphrases = draw(st.lists(words, max_size=2))
    return Row(messages=tuple(messages), paraphrases=tuple(paraphrases), place="elsewhere:1")


rows_of_any_kind = st.lists(conversations() | st.builds(Row, text=words))


@given(rows_of_any_kind)
def test_rows_that_are_dumped_load_again_equal(rows):
    loaded = load(dump(rows), "data.jsonl")
    assert loaded == rows
    assert [row.place for row in loaded] == [f"data.jsonl:{i + 1}" for i in range(len(rows))]


@given(rows_of_any_kind)
def test_a_dump_that_is_loaded_and_dumped_is_the_same_bytes(rows):
    data = dump(rows)
    assert dump(load(data, "data.jsonl")) == data


def test_a_dump_is_canonical_json_one_row_a_line():
    chat = (Message(role="user", content="Où?"), Message(role="assistant", content="Là"))
    rows = [Row(messages=chat, paraphrases=("Y?",), place="a.json:1"), Row(text="a\nb")]
    assert dump(rows).decode() == (
        '{"messages":[{"content":"Où?","role":"user"},{"content":"Là","role":"assistant"}],'
        '"paraphrases":["Y?"]}\n'
        '{"text":"a\\nb"}\n'
    )


def test_no_rows_are_no_bytes():
    assert dump([]) == b""
    assert load(b"", "data.jsonl") == []


def test_loading_what_is_no_dump_names_its_place():
    with pytest.raises(InputError) as caught:
        load(b'{"text":"a"}\n{"text":""}\n', "data.jsonl")
    assert str(caught.value) == (
        'data.jsonl:2: "text" is empty; write its text, or leave the row out'
    )


def test_loading_shows_at_most_twenty_problems():
    with pytest.raises(InputError) as caught:
        load(b"x\n" * 22, "data.jsonl")
    lines = [f"data.jsonl:{n}:1: expected a value" for n in range(1, 21)]
    assert str(caught.value).split("\n") == [*lines, "… and 2 more"]


def test_the_fingerprint_is_the_sha256_of_the_dump():
    expected = hashlib.sha256(b'{"text":"a"}\n{"text":"b"}\n').hexdigest()
    assert fingerprint([Row(text="a", place="here:1"), Row(text="b")]) == expected


def test_the_fingerprint_changes_with_order_and_paraphrases():
    chat = (Message(role="user", content="Q"), Message(role="assistant", content="A"))
    one, other = Row(text="a"), Row(messages=chat)
    probed = Row(messages=chat, paraphrases=("P",))
    variants = [[one, other], [other, one], [one, probed], [one]]
    assert len({fingerprint(rows) for rows in variants}) == 4


# The room


def test_reading_data_loads_no_numerical_library():
    heavy = "{'mlx', 'mlx_lm', 'numpy', 'transformers', 'tokenizers'}"
    program = f"import sys, mlx_tune.data.read; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
