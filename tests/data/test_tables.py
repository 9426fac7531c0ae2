"""CSV and Parquet: the same rows as of the same data in JSON, and what is said of the rest."""

import datetime
import json
import math
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.data import read
from mlx_tune.data.tables import parse_csv
from mlx_tune.errors import InputError

QUESTION = "instruction, prompt, question, query, inputs"
ANSWER = "response, output, completion, answer, targets"


def csv_rows(content):
    data = content if isinstance(content, bytes) else content.encode()
    return read.check(parse_csv(data, "d.csv"), "d.csv")


def json_rows(*values):
    return read.from_values(values)


def problems_of(content):
    with pytest.raises(InputError) as caught:
        csv_rows(content)
    return str(caught.value).split("\n")


# CSV

EXCEL = (
    "\ufeffquestion;answer;wordings;Notes\r\n"
    'Where is the office?;"Room 104; ask at ""Desk 1""";"office room?\nwhich room?";x\r\n'
    'When?;"Mondays,\nTuesdays";;\r\n'
)
EQUIVALENT = [
    {
        "question": "Where is the office?", "answer": 'Room 104; ask at "Desk 1"',
        "wordings": ["office room?", "which room?"], "Notes": "x",
    },
    {"question": "When?", "answer": "Mondays,\nTuesdays"},
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_excel_writes_is_the_same_rows_as_their_json(encoding, delimiter):
    text = EXCEL if encoding == "utf-8" else EXCEL.removeprefix("\ufeff")  # utf-16 adds its own
    if delimiter == "\t":
        text = text.replace("?;", "?\t").replace('";', '"\t').replace(";;", "\t\t")
        text = text.replace("question;answer;wordings;", "question\tanswer\twordings\t")
        text = text.replace("\t;", "\t\t")
    found = csv_rows(text.encode(encoding))
    wanted = json_rows(*EQUIVALENT)
    assert found == wanted
    assert [row.passed_over for row in found] == [row.passed_over for row in wanted]
    assert [row.place for row in found] == ["d.csv:2", "d.csv:4"]


words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip)


def cell(text, delimiter):
    needs = any(one in text for one in (delimiter, '"', "\n")) or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if needs else text


@given(
    st.lists(st.tuples(words, words, st.just("") | words), min_size=1, max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_texts_are_read_as_in_json(rows, delimiter, line_end, encoding):
    lines = [("instruction", "output", "input"), *rows]
    text = "".join(delimiter.join(cell(one, delimiter) for one in row) + line_end for row in lines)
    found = csv_rows(text.encode(encoding))
    wanted = json_rows(*({"instruction": q, "output": a, "input": c} for q, a, c in rows))
    assert [row.to_json() for row in found] == [row.to_json() for row in wanted]


def test_a_windows_line_end_in_a_cell_is_a_plain_one():
    assert csv_rows(b'text\r\n"a\r\nb"\r\n')[0].text == "a\nb"


def test_a_header_in_quotes_is_parted_as_its_rows_are():
    (row,) = csv_rows('"question";"answer"\n"Q, or R";"A"\n')
    assert (row.question, row.answer) == ("Q, or R", "A")


def test_a_text_table_of_one_column_is_read():
    assert [row.text for row in csv_rows('text\nOne\n"Two, three"\n')] == ["One", "Two, three"]


def test_a_tsv_file_of_one_column_is_parted_by_tabs(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text("text\nOne, two; three\n")
    assert [row.text for row in read.read([path])] == ["One, two; three"]


def test_commas_in_the_header_do_not_part_a_table_of_semicolons():
    text = 'question;answer;"source, page, line"\nQ;A;"s, 1, 2"\n'
    (row,) = csv_rows(text)
    assert (row.question, row.answer, row.passed_over) == ("Q", "A", ("source, page, line",))


def test_rows_with_nothing_in_any_cell_are_no_rows():
    found = csv_rows("\n\nquestion,answer\n\nQ,A\n  \n,\n , \nR,B\n,\n")
    assert [(row.question, row.place) for row in found] == [("Q", "d.csv:5"), ("R", "d.csv:9")]


def test_an_index_that_pandas_writes_is_passed_over():
    (row,) = csv_rows(",question,answer\n0,Q,A\n")
    assert (row.question, row.passed_over) == ("Q", ("",))


def test_empty_cells_are_fields_that_are_not_there():
    text = "instruction,input,output,text,system,history,paraphrases,id\n"
    found = csv_rows(text + "Q,,A,,,,,\n,,,T,,,,\nQ,I,A,,S,,P,7\n")
    assert found == json_rows(
        {"instruction": "Q", "output": "A"},
        {"text": "T"},
        {"instruction": "Q", "input": "I", "output": "A", "system": "S", "paraphrases": ["P"]},
    )
    assert [row.passed_over for row in found] == [(), (), ("id",)]


def test_an_empty_cell_that_is_needed_is_told_of():
    assert problems_of("question,answer\nQ,A\nQ,\n,A\nQ,\n") == [
        'd.csv:3: "answer" is empty; write its text, or leave the row out (2 times)',
        'd.csv:4: "question" is empty; write its text, or leave the row out',
    ]


def test_a_cell_larger_than_the_csv_modules_own_limit_is_read():
    assert len(csv_rows("text\n" + "x" * 200_000)[0].text) == 200_000


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("Where?,Here.\n", '"Where?", "Here."'),
        ("question,reply\nQ,A\n", '"question", "reply"'),
        ("Question;Answer\nQ;A\n", '"Question", "Answer"'),
    ],
)
def test_a_header_that_names_nothing_to_learn_is_refused_with_what_it_has(content, found):
    assert problems_of(content) == [
        f"d.csv:1: the first line names the columns, and has {found}; it has to name a question "
        f"({QUESTION}) and an answer ({ANSWER}), or text"
    ]


def test_a_column_named_twice_is_refused():
    assert problems_of("\nquestion,answer,id,answer,id\nQ,A,1,B,2\n") == [
        'd.csv:2: 2 columns are named "answer"; keep one',
        'd.csv:2: 2 columns are named "id"; keep one',
    ]


def test_rows_of_another_width_are_refused_with_their_lines():
    text = 'question,answer\n"a\nb",A\nQ,A, and more\nQ\nQ,A, and so on\n'
    assert problems_of(text) == [
        'd.csv:4: cells: 3, and the header has 2; put a cell with "," in it into quotes (2 times)',
        'd.csv:5: cells: 1, and the header has 2; write all of them, parted by ",", empty ones too',
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('question,answer\nQ,A\nQ,"A\nQ,A\n', "3: a cell opens a quote that nothing closes"),
        (
            'question,answer\nQ,"A" or "B"\n',
            "2: text after the quote that closes a cell; double the quotes inside it",
        ),
    ],
)
def test_quotes_that_are_not_sound_are_refused(content, problem):
    assert problems_of(content) == [f"d.csv:{problem}"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"question,answer\nO\xf9?,L\xe0\n", ":2: byte 0xf9 at offset 17 is not UTF-8"),
        (b"\xff\xfeq\x00u\x00e", ": byte 0x65 at offset 6 is not UTF-16"),
    ],
)
def test_another_encoding_is_refused_with_the_one_to_save_it_in(tmp_path, data, problem):
    path = tmp_path / "d.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read.read([path])
    assert str(caught.value) == f"{path}{problem}; save it as CSV UTF-8"


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \n", b",,\n,,\n"])
def test_an_empty_table_holds_no_rows(tmp_path, content):
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no rows"):
        read.read([path])


def test_a_row_of_a_table_is_checked_as_any_other():
    assert problems_of("question,answer,respose\nQ,A,x\nR,B,y\n") == [
        'd.csv:2: "respose" is not a field; did you mean "response"? (2 times)'
    ]


@pytest.mark.parametrize(
    "cell",
    [
        "office room?\nwhich room's?",
        """["office room?", "which room's?"]""",
        """['office room?', "which room's?"]""",
        "[\n  'office room?',\n  'which room\\'s?'\n]",
        """[ "office room?", " ", "which room's?" ]""",
    ],
)
def test_a_cell_of_wordings_has_one_a_line_or_is_a_list(cell):
    """What pandas writes of a list is Python's."""
    wanted = {
        "question": "Where?",
        "answer": "Here.",
        "wordings": ["office room?", "which room's?"],
    }
    quoted = cell.replace('"', '""')
    assert csv_rows(f'question,answer,wordings\nWhere?,Here.,"{quoted}"\n') == json_rows(wanted)


@pytest.mark.parametrize("name", ["wordings", "paraphrases", "replaces"])
@pytest.mark.parametrize(
    "cell",
    [
        "['a' 'b']",  # numpy's
        "['a'\n 'b']",
        "[a, b]",
        "['a', 7]",
        "['a', ['b']]",
        "[7]",
        "['\\d']",
        "['a', 'b'] + ['c']",
        "['a', b'c']",
        r"['\ud83d']",
        r'[""\ud83d""]',
        "[" * 9_000 + "]" * 9_000,
    ],
)
def test_a_cell_in_brackets_that_is_no_list_of_texts_is_refused(name, cell):
    assert problems_of(f'question,answer,{name}\nWhere?,Here.,"{cell}"\n') == [
        f'd.csv:2: "{name}" stands in brackets and is no list of texts; write one a line, or '
        '["…", "…"]'
    ]


def test_an_empty_list_in_a_cell_is_no_field():
    assert csv_rows("question,answer,wordings\nWhere?,Here.,[]\n") == json_rows(
        {"question": "Where?", "answer": "Here."}
    )


# Parquet


def parquet(folder, values, **options):
    path = folder / "d.parquet"
    pq.write_table(pa.Table.from_pylist(values, **options), path)
    return path


COLUMNS = ("id", "messages", "instruction", "output", "wordings", "score", "text")
CHATS = [
    {"id": 1, "messages": [{"role": "user", "content": "Q"},
                           {"role": "assistant", "content": "A", "weight": 0},
                           {"role": "user", "content": "R"},
                           {"role": "assistant", "content": "B", "weight": 1}]},
    {"id": None, "instruction": "S", "output": "C", "wordings": ["s", "ess"]},
    {"text": "T"},
]  # fmt: skip


def test_parquet_is_the_same_rows_as_their_json(tmp_path):
    values = [{**dict.fromkeys(COLUMNS), "score": math.nan, **one} for one in CHATS]
    path = parquet(tmp_path, values)
    found = read.read([path])
    assert found == json_rows(*CHATS)
    assert [row.place for row in found] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    assert read.read_set([path]).passed_over == {"id": 1}
    assert [row.question for row in read.read_questions(path)] == ["R", "S"]


def test_tools_and_calls_of_parquet_have_no_fields_of_other_rows(tmp_path):
    """Arrow gives every struct of a column the fields of all."""

    def chat(name, arguments):
        function = {"name": name, "arguments": arguments}
        calls = [{"id": "c1", "type": "function", "function": function}]
        return {
            "messages": [
                {"role": "user", "content": "Q", "tool_calls": None, "tool_call_id": None},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "content": "7", "tool_call_id": "c1"},
                {"role": "assistant", "content": "A"},
            ],
            "tools": [{"type": "function", "function": {"name": name, "strict": None}}],
        }

    values = [chat("weather", {"city": "Brno"}), chat("time", {"zone": "CET"})]
    path = parquet(tmp_path, values)
    found = read.read([path])
    assert found == json_rows(*values)
    assert [row.messages[1].tool_calls[0].arguments for row in found] == [
        '{"city": "Brno"}',
        '{"zone": "CET"}',
    ]
    assert read.read_set([path]).passed_over == {}


def test_dates_and_decimals_of_parquet_are_passed_over(tmp_path):
    row = {"text": "T", "day": datetime.date(2026, 1, 2), "cost": Decimal("1.50"), "at": [1, None]}
    (item,) = read.read_items(parquet(tmp_path, [row]))
    assert item.value == {"text": "T", "day": "2026-01-02", "cost": "1.50", "at": [1, None]}
    assert json.dumps(item.value)


def test_problems_of_parquet_have_the_number_of_the_row(tmp_path):
    path = parquet(tmp_path, [{"question": "Q", "answer": one} for one in ("A", "", None, "")])
    with pytest.raises(InputError) as caught:
        read.read([path])
    assert str(caught.value).split("\n") == [
        f'{path}:2: "answer" is empty; write its text, or leave the row out (2 times)',
        f'{path}:3: "question" without "answer"; add "answer"',
    ]


def test_bytes_in_parquet_are_refused(tmp_path):
    path = parquet(tmp_path, [{"text": "T", "image": {"bytes": b"\x89PNG", "path": "a"}}] * 3)
    with pytest.raises(InputError) as caught:
        read.read([path])
    assert str(caught.value) == (
        f'{path}:1: "bytes" holds bytes, and only text is read; leave the column out (3 times)'
    )


def test_a_file_of_several_batches_numbers_its_rows_on(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_tune.data.tables._BATCH_ROWS", 2)
    path = parquet(tmp_path, [{"text": f"T{n}"} for n in range(5)])
    assert [row.place for row in read.read([path])] == [f"{path}:{n}" for n in range(1, 6)]


def test_parquet_with_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "d.parquet"
    table = pa.table([["T"], ["U"]], names=["text", "text"])
    pq.write_table(table, path)
    with pytest.raises(InputError) as caught:
        read.read([path])
    assert str(caught.value) == f'{path}:1: 2 columns are named "text"; keep one'
    inner = pa.StructArray.from_arrays([pa.array(["T"]), pa.array(["U"])], names=["a", "a"])
    pq.write_table(pa.table([["T"], inner], names=["text", "messages"]), path)
    with pytest.raises(InputError, match="not a Parquet file that can be read"):
        read.read([path])


def test_what_is_no_parquet_is_refused_in_one_line(tmp_path):
    path = tmp_path / "d.parquet"
    for content in (b"", b"PAR1", b"PAR1" + b"\0" * 40 + b"PAR1", b'{"text": "T"}'):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read.read([path])
        assert str(caught.value).startswith(f"{path}: not a Parquet file that can be read (")
        assert "\n" not in str(caught.value)


def test_parquet_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    path = parquet(tmp_path, [{"text": f"{n}" * 400} for n in range(2000)])
    monkeypatch.setattr("mlx_tune.data.read.MAX_FILE_BYTES", path.stat().st_size)
    with pytest.raises(InputError, match=r"bytes; the limit is [\d,]+, so split it"):
        read.read([path])


def test_parquet_without_pyarrow_is_refused_with_how_to_install_it(tmp_path, monkeypatch):
    path = parquet(tmp_path, [{"text": "T"}])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError) as caught:
        read.read([path])
    assert str(caught.value) == (
        f"{path}: Parquet is read with pyarrow, which is not installed; "
        "`pip install 'mlx-tune-continual[parquet]'` does that"
    )
