import json
import os
from threading import Thread

import pytest

from mlx_tune.data import read
from mlx_tune.data.read import parse_questions, read_questions
from mlx_tune.errors import InputError


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
        f"{path}: asks nothing; write one question a line, or name a .json or .jsonl data file"
    )


def test_bytes_that_are_no_text_are_named_by_line_and_offset():
    with pytest.raises(InputError) as error:
        parse_questions(b"Where?\nWh\xffat?\n", "q.txt")
    assert str(error.value) == ("q.txt:2: byte 0xff at offset 9 is not UTF-8; save it as UTF-8")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: does not exist; write one question a line"):
        read_questions(tmp_path / "none.txt")


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_BYTES", 8)
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


def test_a_data_file_of_plain_texts_asks_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "Nothing is asked here."}')
    with pytest.raises(InputError, match="asks nothing"):
        read_questions(path)
