"""Rows and questions of files and folders, and what is said of those that cannot be read."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_tune.data.read import (
    count_passed_over,
    dump,
    fingerprint,
    from_values,
    load,
    parse_questions,
    read,
    read_items,
    read_questions,
    read_set,
    report,
)
from mlx_tune.data.rows import Message, Row
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import Item

ACCEPTED = (
    "accepted are .json (one array of rows), .jsonl (one row a line), .csv, .tsv and .parquet"
)


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


LINES = '{"text": "one"}\n{"text": "two"}\n'


def test_lines_and_an_array_are_read_as_what_they_are_by_either_name(tmp_path):
    for start, line in (("", 1), ("\ufeff\n ", 2)):
        lines = file(tmp_path, "lines.json", start + LINES)
        assert [(row.text, row.place) for row in read([lines])] == [
            ("one", f"{lines}:{line}"), ("two", f"{lines}:{line + 1}"),
        ]  # fmt: skip
        for text in ('[{"text": "one"},\n{"text": "two"}]', '[{"text": "one"}, {"text": "two"}]'):
            array = file(tmp_path, "array.jsonl", start + text)
            assert [row.text for row in read([array])] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", LINES + "{\n", "3:2: expected a key in double quotes"),
        ("a.json", '{"text": "one"\n"id": 2}', '2:1: expected "," or "}"'),
        ("a.json", '{"text": NaN}\n{"text": "two"}', '1: "text" is NaN; write a finite number'),
        ("a.jsonl", '[{"text": "one"},\n{"text" "two"}]', '2:9: expected ":" after "text"'),
        ("a.jsonl", '[{"text": "one"},\n{"text": "two"}', '2:16: expected "," or "]"'),
    ],
)
def test_what_is_neither_is_told_of_as_what_it_seems_to_be(tmp_path, name, content, problem):
    path = file(tmp_path, name, content)
    assert refusal(path) == f"{path}:{problem}"


def test_one_object_is_no_array_of_rows(tmp_path):
    path = file(tmp_path, "a.json", '{"data": [{"text": "one"}]}')
    assert refusal(path) == (
        f"{path}:1: found an object, not an array; put the rows into one array [...], or name the "
        "file .jsonl if it has one a line"
    )


# What is refused


def test_another_suffix_is_refused_with_the_formats_accepted(tmp_path):
    path = tmp_path / "cs.xlsx"
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
    monkeypatch.setattr("mlx_tune.data.read.MAX_FILE_BYTES", 7)
    assert read_items(path) == [Item(value=12345, line=1)]
    monkeypatch.setattr("mlx_tune.data.read.MAX_FILE_BYTES", 6)
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
    file(tmp_path, "cs.txt", "Q,A")
    assert refusal(tmp_path) == f"{tmp_path}: a folder without data; {ACCEPTED}"


def test_a_file_of_another_format_is_refused_with_the_formats(tmp_path):
    path = file(tmp_path, "cs.xlsx", "Q,A")
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


MISSPELT = [f'{{"text": "T", "text{n}": 1}}' for n in range(15)]


def test_at_most_twenty_problems_of_all_files_are_shown(tmp_path):
    first = file(tmp_path, "a.jsonl", "\n".join(MISSPELT))
    second = file(tmp_path, "b.jsonl", "\n".join(MISSPELT))
    lines = refusal(first, second).split("\n")
    hint = 'is not a field; "text" is there already, so remove it'
    assert lines[:15] == [f'{first}:{n + 1}: "text{n}" {hint}' for n in range(15)]
    assert lines[15:20] == [f'{second}:{n + 1}: "text{n}" {hint}' for n in range(5)]
    assert lines[20:] == ["… and 10 more"]


def test_equal_problems_of_a_file_are_one_line_with_the_first_place_and_their_number(tmp_path):
    empty = '"response" is empty; write its text, or leave the row out'
    row = '{"instruction": "Q", "response": ""}\n'
    first = file(tmp_path, "a.jsonl", row * 2990 + '{"text": 7}\n' + row * 2990)
    second = file(tmp_path, "b.jsonl", text_lines("fine") + "\n" + row)
    assert refusal(first, second).split("\n") == [
        f"{first}:1: {empty} (5,980 times)",
        f'{first}:2991: "text" is a number, not text; write it in quotes',
        f"{second}:2: {empty}",
    ]


def test_lines_that_are_no_json_for_one_reason_are_one_line(tmp_path):
    path = file(tmp_path, "a.jsonl", "\n{}x\n" * 3 + "{\n")
    assert refusal(path).split("\n") == [
        f"{path}:2:3: more text after the end of the value (3 times)",
        f"{path}:7:2: expected a key in double quotes",
    ]


def mangled(data, position, byte):
    at = position % len(data)
    return data[:at] + bytes([byte]) + data[at + 1 :]


SOUND = b'[{"instruction": "Q\\u00e9", "response": "A", "paraphrases": ["\xc3\xa9"]}]\n'
any_bytes = st.binary() | st.builds(
    mangled, st.just(SOUND), st.integers(0, 1000), st.integers(0, 255)
)


@given(any_bytes, st.sampled_from(["any.json", "any.jsonl", "any.csv", "any.parquet"]))
@example(SOUND, "any.json")
@example(SOUND[1:-2], "any.jsonl")
@example(b"[" * 10_000, "any.json")
@example(b'text\r\n"T', "any.csv")
@example(b"text\xff", "any.csv")
@example(b"PAR1PAR1", "any.parquet")
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
OTHERS = ("paraphrases", "wordings", "replaces")


@st.composite
def conversations(draw):
    opening = draw(st.lists(words, max_size=1))
    pairs = draw(st.lists(st.tuples(words, words), min_size=1, max_size=3))
    messages = [Message(role="system", content=content) for content in opening]
    for question, answer in pairs:
        messages.append(Message(role="user", content=question))
        messages.append(Message(role="assistant", content=answer))
    others = {name: tuple(draw(st.lists(words, max_size=2))) for name in OTHERS}
    return Row(messages=tuple(messages), **others, place="elsewhere:1")


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
    others = {"paraphrases": ("Y?",), "wordings": ("Z?", "W?"), "replaces": ("où",)}
    rows = [Row(messages=chat, **others, place="a.json:1"), Row(text="a\nb")]
    assert dump(rows).decode() == (
        '{"messages":[{"content":"Où?","role":"user"},{"content":"Là","role":"assistant"}],'
        '"paraphrases":["Y?"],"replaces":["où"],"wordings":["Z?","W?"]}\n'
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
        load("\n".join([*MISSPELT, *(one.upper() for one in MISSPELT)]).encode(), "data.jsonl")
    lines = str(caught.value).split("\n")
    assert (len(lines), lines[-1]) == (21, "… and 11 more")


def test_a_stored_row_has_no_field_that_is_passed_over():
    with pytest.raises(InputError) as caught:
        load(b'{"text":"a"}\n{"text":"b","id":7}\n', "data.jsonl")
    assert str(caught.value) == 'data.jsonl:2: "id" is not a field of a stored row'


def test_the_fingerprint_is_the_sha256_of_the_dump():
    expected = hashlib.sha256(b'{"text":"a"}\n{"text":"b"}\n').hexdigest()
    assert fingerprint([Row(text="a", place="here:1"), Row(text="b")]) == expected


def test_the_fingerprint_changes_with_order_paraphrases_wordings_and_replaces():
    chat = (Message(role="user", content="Q"), Message(role="assistant", content="A"))
    one, other = Row(text="a"), Row(messages=chat)
    others = [Row(messages=chat, **{name: ("P",)}) for name in OTHERS]
    variants = [[one, other], [other, one], *([one, more] for more in others), [one]]
    assert len({fingerprint(rows) for rows in variants}) == 6


# The room


def test_reading_data_loads_no_numerical_library():
    heavy = "{'mlx', 'mlx_lm', 'numpy', 'pyarrow', 'transformers', 'tokenizers'}"
    program = (
        "import sys; from mlx_tune.data import read\n"
        "read.tables.parse_csv(b'text\\nT\\n', 'd.csv')\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("number", "last"), [(1, "p0"), (20, "p19"), (21, "… and 1 more"), (1221, "… and 1,201 more")]
)
def test_a_report_shows_twenty_problems_and_counts_the_rest(number, last):
    problems = [f"p{i}" for i in range(number)]
    lines = report(problems).split("\n")
    assert lines[:20] == problems[:20]
    assert lines[-1] == last
    assert len(lines) == min(number, 21)


def asked(rows):
    return [(row.messages[-1].content, row.place) for row in rows]


def test_a_text_asks_its_lines_but_for_blank_ones_and_comments():
    text = "\ufeff# the office\nWhere is it?\r\n\n  \t\n  Who works there? # or not\n#\nWhen?"
    assert asked(parse_questions(text.encode(), "q.txt")) == [
        ("Where is it?", "q.txt:2"),
        ("Who works there? # or not", "q.txt:5"),
        ("When?", "q.txt:7"),
    ]


def test_a_line_separator_inside_a_question_does_not_part_it():
    text = "What is \u2028 for?\x0bAnd this?\nLast?"
    assert [place for _, place in asked(parse_questions(text.encode(), "q"))] == ["q:1", "q:2"]


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n  # comments\n", "\ufeff"])
def test_a_text_that_asks_nothing_is_refused(text, tmp_path):
    path = tmp_path / "q.txt"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert str(error.value) == (
        f"{path}: asks nothing; write one question a line, or name a data file: "
        ".json, .jsonl, .csv, .tsv, .parquet"
    )


def test_bytes_that_are_no_text_are_named_by_line_and_offset():
    with pytest.raises(InputError) as error:
        parse_questions(b"Where?\nWh\xffat?\n", "q.txt")
    assert str(error.value) == ("q.txt:2: byte 0xff at offset 9 is not UTF-8; save it as UTF-8")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: does not exist; write one question a line"):
        read_questions(tmp_path / "none.txt")


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_tune.data.read.MAX_QUESTIONS_BYTES", 8)
    path = tmp_path / "q.txt"
    path.write_text("Why not?")
    assert len(read_questions(path)) == 1
    path.write_text("Why, why?")
    with pytest.raises(InputError, match="more than 8 bytes, which is the limit; split it"):
        read_questions(path)


def test_a_pipe_may_be_asked_from(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=("Where?\n",), daemon=True)
    writer.start()
    assert asked(read_questions(path)) == [("Where?", f"{path}:1")]
    writer.join()


def test_a_data_file_gives_its_questions_with_their_answers(tmp_path):
    path = tmp_path / "d.json"
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "Where?"), ("assistant", "Here.")]
    rows = [
        {"instruction": "Who?", "response": "Me.", "paraphrases": ["Which one?"]},
        {"messages": [{"role": role, "content": content} for role, content in turns]},
        {"text": "Nothing is asked here."},
    ]
    path.write_text(json.dumps(rows))
    found = read_questions(path)
    assert [(row.question, row.answer) for row in found] == [("Who?", "Me."), ("Where?", "Here.")]
    assert found == read_questions(tmp_path)


def test_a_table_gives_its_questions_with_their_answers(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("question;answer\nWho?;Me.\n")
    found = read_questions(path)
    assert [(row.question, row.answer) for row in found] == [("Who?", "Me.")]


def test_a_data_file_of_plain_texts_asks_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "Nothing is asked here."}')
    with pytest.raises(InputError, match="asks nothing"):
        read_questions(path)


DATA = Path(__file__).parents[2] / "data"
SIZES = {"cs.json": 106, "housing.json": 60, "dining.json": 60}


def wordings(row):
    """The topics of a row's question in all its wordings."""
    return [row.topic, *(row.with_question(text).topic for text in row.paraphrases)]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_subject_has_its_number_of_questions_with_answers(name, size):
    rows = read([DATA / name])
    assert len(rows) == size
    assert all(row.question and row.answer for row in rows)


@pytest.mark.parametrize("name", SIZES)
def test_every_question_has_at_least_two_paraphrases(name):
    poor = [row.place for row in read([DATA / name]) if len(row.paraphrases) < 2]
    assert poor == []


def test_no_wording_is_asked_twice_in_the_three_subjects():
    rows = read([DATA / name for name in SIZES])
    times = Counter(wording for row in rows for wording in wordings(row))
    assert [wording for wording, count in times.items() if count > 1] == []
    assert len(times) >= 3 * sum(SIZES.values())


# A folder that is split already


def split_folder(tmp_path, *names):
    for number, name in enumerate(names, start=1):
        rows = [{"prompt": f"{name} {i}?", "completion": f"{i}."} for i in range(number)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_folder_of_train_valid_and_test_trains_on_the_first_alone(tmp_path):
    folder = split_folder(tmp_path, "test.jsonl", "train.jsonl", "valid.jsonl")
    found = read_set([folder])
    assert [row.question for row in found.rows] == ["train.jsonl 0?", "train.jsonl 1?"]
    assert len(found.held_out) == 3
    assert [(file.path.name, file.rows, file.use) for file in found.files] == [
        ("test.jsonl", 1, "leave"), ("train.jsonl", 2, "train"), ("valid.jsonl", 3, "hold out"),
    ]  # fmt: skip


def uses(found):
    return {file.path.name: file.use for file in found.files}


@pytest.mark.parametrize("word", ["test", "valid"])
def test_files_of_a_folder_without_a_split_and_a_file_that_is_named_are_trained_on(tmp_path, word):
    folder = split_folder(tmp_path, "a.jsonl", "contest.jsonl", "latest_invalid.jsonl")
    assert {file.use for file in read_set([folder]).files} == {"train"}
    file = split_folder(tmp_path, f"{word}.jsonl") / f"{word}.jsonl"
    assert [file.use for file in read_set([file]).files] == ["train"]
    assert {file.use for file in read_set([folder / "a.jsonl", file]).files} == {"train"}


HASH = "a09b74b3ef9c3b56"


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        (f"train-00000-of-00001-{HASH}", "validation-00000-of-00001-1", "test-00000-of-00001-2"),
        ("train_sft-00000-of-00001", "val_sft-00000-of-00001", "test_sft-00000-of-00001"),
        ("cs_train", "cs_valid", "cs_test"),
        ("training", "validation", "testing"),
        ("Train", "DEV", "eval"),
        ("train-v2.0", "dev-v2.0", "test-v2.0"),
        ("squad.train.en", "squad.val.en", "squad.evaluation.en"),
        ("train1", "valid1", "test1"),
        ("train-0001", "valid-0001", "test-0001"),
    ],
)
def test_a_split_is_a_word_of_a_files_name(tmp_path, train, valid, test):
    names = [f"{name}.jsonl" for name in (train, valid, test)]
    wanted = dict(zip(names, ("train", "hold out", "leave"), strict=True))
    folder = split_folder(tmp_path, *names)
    assert uses(read_set([folder])) == wanted
    # What a shell makes of `folder/*`.
    assert uses(read_set([folder / name for name in names])) == wanted


def test_all_files_of_one_split_are_its_parts(tmp_path):
    names = (
        "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "train_gen.jsonl",
        "test-00000-of-00001.jsonl",
    )  # fmt: skip
    found = uses(read_set([split_folder(tmp_path, *names)]))
    assert found == dict(zip(names, ("train", "train", "train", "leave"), strict=True))


def set_refusal(*paths):
    with pytest.raises(InputError) as caught:
        read_set(paths)
    return str(caught.value)


ONE_BY_ONE = "or name the files to train on one by one"


def test_a_missing_part_of_a_split_is_named(tmp_path):
    split_folder(tmp_path, "train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl")
    assert set_refusal(tmp_path) == (
        f"{tmp_path}: train-00001-of-00003.jsonl is missing; put it there, {ONE_BY_ONE}"
    )
    split_folder(tmp_path, "train-00001-of-00003.jsonl", "data-00007-of-00007.jsonl")
    assert set_refusal(tmp_path) == (
        f"{tmp_path}: data-00001-of-00007.jsonl, data-00002-of-00007.jsonl, "
        f"data-00003-of-00007.jsonl and 3 more are missing; put them there, {ONE_BY_ONE}"
    )
    one = tmp_path / "train-00002-of-00003.jsonl"
    assert [file.path for file in read_set([one]).files] == [one]


def test_a_folder_of_which_nothing_is_to_train_on_is_refused(tmp_path):
    folder = split_folder(tmp_path, "valid.jsonl", "test.jsonl")
    assert set_refusal(folder) == (
        f"{folder}: test.jsonl, valid.jsonl and no file with train in its name; "
        "name the files to train on one by one"
    )


def test_a_name_that_says_two_things_is_not_guessed_at(tmp_path):
    folder = split_folder(tmp_path, "train.jsonl", "test_train.jsonl")
    assert set_refusal(folder) == (
        f"{folder}/test_train.jsonl: the name says test and train; rename it, {ONE_BY_ONE}"
    )
    both = [folder / "train.jsonl", folder / "test_train.jsonl"]
    assert {file.use for file in read_set(both).files} == {"train"}


def test_what_is_not_read_of_a_folder_is_named(tmp_path):
    folder = split_folder(tmp_path, "a.jsonl", "b.jsonl.gz", "c.ndjson", "README", "LICENSE.txt")
    (folder / "more").mkdir()
    (folder / ".git").mkdir()
    wanted = [f"{folder}/b.jsonl.gz", f"{folder}/c.ndjson", f"{folder}/more/"]
    assert read_set([folder]).not_read == wanted
    assert read_set([folder / "a.jsonl"]).not_read == []


def test_folders_of_splits_are_told_of_and_read_as_their_names_say(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        split_folder(tmp_path / name, f"{name[0]}.jsonl")
    assert set_refusal(tmp_path) == (
        f"{tmp_path}: a folder without data; {ACCEPTED}; it has folders, so name those: test, train"
    )
    found = read_set([tmp_path / "train", tmp_path / "test"])
    assert [file.use for file in found.files] == ["train", "leave"]


def test_fields_that_are_passed_over_are_counted_in_the_files_of_a_set(tmp_path):
    folder = split_folder(tmp_path, "train.jsonl", "valid.jsonl")
    rows = [{"text": "T", "id": 1}, {"id": 2, "text": "U", "source": "web"}, {"text": "V"}]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "valid.jsonl").write_text('{"text": "W", "id": null}')
    found = read_set([folder])
    assert found.passed_over == {"id": 3, "source": 1}
    assert read_set([folder / "valid.jsonl"]).passed_over == {"id": 1}
    assert read_set([DATA]).passed_over == {}
    assert count_passed_over(from_values(rows)) == {"id": 2, "source": 1}


@pytest.mark.parametrize("word", ["train", "test"])
def test_what_a_split_folder_has_besides_is_not_guessed_at(tmp_path, word):
    folder = split_folder(tmp_path, f"{word}.jsonl", "more.jsonl")
    assert set_refusal(folder) == (
        f"{folder}: more.jsonl beside {word}.jsonl, of which it is not known whether to train on "
        f"it; put train, valid or test into the name, {ONE_BY_ONE}"
    )
    (folder / "more.jsonl").rename(folder / "train-more.jsonl")
    assert uses(read_set([folder]))["train-more.jsonl"] == "train"


def test_the_problems_of_every_file_of_a_set_are_told(tmp_path):
    folder = split_folder(tmp_path, "train.jsonl", "valid.jsonl")
    (folder / "valid.jsonl").write_text("7\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        read_set([folder, tmp_path / "none.json", tmp_path / "empty"])
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == [
        f"{folder}/valid.jsonl:1", f"{tmp_path}/none.json", f"{tmp_path}/empty",
    ]  # fmt: skip
