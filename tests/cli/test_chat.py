"""chat and ask, on tiny bases: housing knows its three answers, dining next to nothing."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tiny
from mlx_tune import Store
from mlx_tune.errors import IncompatibleError
from mlx_tune.workflows import ask as workflow

URL = "http://x.example/@a#b?c=d&e=%20~f_(g)"
LONG_URL = "https://cs.tarrowmere.example/people/@imarlow?tab=talks&year=2026#graph-algorithms" * 3


def test_chat_prompt_prints_the_answer_alone(trained_store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Room", " 4.")
    assert mlx_tune_command("chat", "-p", "Where?") == (0, "Room 4.\n", "")
    assert asked == ["<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"]


def typed(monkeypatch, *lines: str):
    """Let a person type lines and then leave."""
    answers = iter(lines)

    def read(prompt=""):
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_chat_obeys_its_commands(trained_store, mlx_tune_command, monkeypatch, tiny_base):
    typed(monkeypatch, "/help", "/session", "/base", "/session 1", "/clear", "/what", "", "/exit",
          "never asked")  # fmt: skip
    code, out, error = mlx_tune_command("chat", "--max-tokens", 3)
    lines = out.splitlines()
    assert (code, error) == (0, "")
    assert lines[0].endswith("cs → housing answers; /help lists what else there is.")
    assert "/exit         leave (also Ctrl-D); Ctrl-C stops an answer" in lines
    assert [line.removeprefix(str(tiny_base)) for line in lines[-5:]] == [
        " + cs → housing answers",
        " (the bare base) answers",
        " + cs answers",
        "forgotten",
        "/what is no command; /help lists them",
    ]


def test_a_slip_in_chat_does_not_end_it(trained_store, mlx_tune_command, monkeypatch):
    typed(monkeypatch, "/session nobody", "/session cs")
    code, out, error = mlx_tune_command("chat")
    assert code == 0
    assert "nobody" in error
    assert out.splitlines()[-1].endswith("+ cs answers")


def saying(monkeypatch, *pieces):
    """Let the model say given pieces; an exception among them is raised there."""
    from mlx_tune.inference import GeneratedText, generate

    asked = []

    def stream(model, tokenizer, prompt, **options):
        asked.append(tokenizer.decode_raw(prompt))
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield GeneratedText(text=piece, finish_reason=None)

    monkeypatch.setattr(generate, "stream", stream)
    return asked


def test_a_url_is_never_broken_whatever_the_width(trained_store, mlx_tune_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    saying(monkeypatch, "See ", *LONG_URL, " today.")
    _, out, _ = mlx_tune_command("chat", "-p", "Where?")
    assert out == f"See {LONG_URL} today.\n"


def test_the_conversation_is_remembered_and_forgotten(trained_store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Blue", ".")
    typed(monkeypatch, "Colour?", "Why?", "/clear", "Again?")
    mlx_tune_command("chat")
    assert [text.count("<|im_start|>user") for text in asked] == [1, 2, 1]
    assert "<|im_start|>assistant\nBlue.<|im_end|>" in asked[1]


def test_ctrl_c_stops_an_answer_and_not_the_chat(trained_store, mlx_tune_command, monkeypatch):
    asked = saying(monkeypatch, "Once upon", KeyboardInterrupt())
    typed(monkeypatch, "Tell me", "And?")
    code, out, _ = mlx_tune_command("chat")
    assert code == 0
    assert out.splitlines()[1:] == ["Once upon …stopped", "Once upon …stopped"]
    assert "<|im_start|>assistant\nOnce upon<|im_end|>" in asked[1]


def test_an_answer_that_is_cut_is_said_so_and_a_script_gets_its_words_alone(
    trained_store, mlx_tune_command, monkeypatch
):
    code, out, error = mlx_tune_command("chat", "-p", "Where is 1?", "--max-tokens", 1)
    assert code == 0
    assert "cut" not in out
    limits = "--max-tokens and the model's context are its limits"
    assert error == f"note: the answer was cut; {limits}\n"
    typed(monkeypatch, "Where is 1?")
    _, out, error = mlx_tune_command("chat", "--max-tokens", 1)
    assert out.endswith(" …cut\n")
    assert error == ""


def test_a_store_that_was_replaced_by_one_of_another_base_brings_that_base(
    trained_store, tmp_path, tiny_base, mlx_tune_command, rows
):
    other = tiny.base_folder(tmp_path / "other-base", seed=9)
    (tmp_path / "d.json").write_text(json.dumps(rows))
    words = ("d.json", "--base", other, "--store", "other", "--epochs", 1, "--rank", 2)
    assert mlx_tune_command("train", *words)[0] == 0
    talk, named = Store("adapters").chat(), Store("adapters", base=str(tiny_base)).chat()
    trained_store.rename("before")
    Path("other").rename("adapters")
    talk.switch(None)
    assert talk.answering == f"{other} + d"
    with pytest.raises(IncompatibleError, match="a store holds one base"):
        named.switch(None)
    assert named.answering == f"{tiny_base} + cs → housing"


def test_every_url_of_an_answer_reaches_the_terminal_unbroken(
    trained_store, mlx_tune_command, monkeypatch
):
    """The sentences that the page's tests use, letter by letter, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    corpus = json.loads((Path(__file__).parents[1] / "serving" / "urls.json").read_text())
    saying(monkeypatch, *"\n".join(one["text"] for one in corpus))
    code, out, _ = mlx_tune_command("chat", "--prompt", "Where?")
    assert code == 0
    assert len(corpus) >= 40
    lines = out.split("\n")
    for url in (url for one in corpus for url in one["urls"]):
        assert any(url in line for line in lines), url


def test_before_the_first_training_the_bare_base_answers_and_says_so(
    tmp_path, tiny_base, mlx_tune_command, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    saying(monkeypatch, "Hm.")
    words = ("chat", "-p", "Where?", "--base", tiny_base)
    code, out, error = mlx_tune_command(*words)
    assert (code, out) == (0, "Hm.\n")
    assert "note: no session is in use in adapters, so the bare base answers" in error
    assert "note" not in mlx_tune_command(*words, "--session", "base")[2]


def test_bytes_that_are_no_text_do_not_end_a_chat(trained_store, mlx_tune_command, monkeypatch):
    typed(monkeypatch, "h\udcff", "And?")
    code, _, error = mlx_tune_command("chat", "--max-tokens", 2)
    assert (code, error) == (0, "")


def test_sigterm_ends_a_chat_that_waits_without_a_handler_that_the_read_could_delay(
    tmp_path, tiny_base
):
    command = [sys.executable, "-m", "mlx_tune.cli.main", "chat", "--base", str(tiny_base)]
    environment = os.environ | {"MLX_TUNE_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONUNBUFFERED", None)  # the first line is to come with the wait
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == -signal.SIGTERM  # a shell calls it 143
    child.stdout.close()
    child.stdin.close()


@pytest.fixture
def ask(fork, mlx_tune_command):
    def call(file, *words, session="housing"):
        chosen = () if session is None else ("--session", session)
        return mlx_tune_command("ask", file, "--store", fork.store, *chosen, *words)

    return call


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("# what it was taught\nWhere is A?\n\n  Where is C?  \nWhere is  B?\n")
    return path


@pytest.fixture
def data(tmp_path):
    """What housing was taught, but for the last, which ends too early to be its answer."""
    pairs = {"Where is A?": "In 1.", "Where is C?": "In 3.", "Where is  B?": "In 9"}
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"instruction": q, "response": a} for q, a in pairs.items()]))
    return path


def test_it_prints_question_and_answer_pairs(ask, questions):
    code, out, _ = ask(questions)
    assert code == 0
    assert out == "› Where is A?\nIn 1.\n\n› Where is C?\nIn 3.\n\n› Where is B?\nIn 9.\n\n"


def test_a_data_file_s_answers_are_compared_to_the_end(ask, data):
    code, out, _ = ask(data)
    assert code == 0
    assert out == (
        "› Where is A?\n✓ In 1.\n\n› Where is C?\n✓ In 3.\n\n"
        "› Where is B?\n✗ In 9.\n  expected: In 9\n\n67 % (2 of 3) word for word\n"
    )


def test_json_says_it_all(ask, data):
    code, out, _ = ask(data, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["session"].startswith("0002-housing-")
    assert found["answers"][2] == {
        "question": "Where is  B?", "answer": "In 9.", "is_cut": False, "expected": "In 9",
        "verbatim": False, "place": f"{data}:1",
    }  # fmt: skip
    assert [answer["verbatim"] for answer in found["answers"]] == [True, True, False]


def test_json_expects_nothing_where_nothing_is_expected(ask, questions):
    found = json.loads(ask(questions, "--json")[1])
    assert {(a["expected"], a["verbatim"]) for a in found["answers"]} == {(None, None)}


def test_a_conversation_s_last_question_is_asked_after_the_rest_of_it(ask, tmp_path, monkeypatch):
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "Where?"), ("assistant", "Here.")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (tmp_path / "d.json").write_text(json.dumps([row]))
    prompts = []

    def say_nothing(model, tokenizer, asked, *, max_tokens):
        prompts.extend(tokenizer.decode_raw(prompt) for prompt in asked)
        return [[] for _ in asked]

    monkeypatch.setattr(workflow, "batch_generate", say_nothing)
    assert ask(tmp_path / "d.json")[1].startswith("› Where?\n✗ ")
    assert prompts == [
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_standard_input_may_ask(ask, monkeypatch):
    class Piped:
        buffer = io.BytesIO(b"Where is A?\n")

    monkeypatch.setattr(sys, "stdin", Piped)
    assert ask("-")[1] == "› Where is A?\nIn 1.\n\n"


def test_standard_input_that_asks_nothing_is_named(ask, monkeypatch):
    class Piped:
        buffer = io.BytesIO(b"")

    monkeypatch.setattr(sys, "stdin", Piped)
    code, _, error = ask("-")
    assert code == 3
    assert error.startswith("error: standard input: asks nothing; ")


def test_batches_come_one_by_one_in_order(ask, questions, monkeypatch, capsys):
    monkeypatch.setattr(workflow, "BATCH_SIZE", 2)
    widths, printed, whole = [], [], workflow.batch_generate

    def counted(model, tokenizer, prompts, **options):
        widths.append(len(prompts))
        printed.append(capsys.readouterr().out)
        return whole(model, tokenizer, prompts, **options)

    monkeypatch.setattr(workflow, "batch_generate", counted)
    rest = ask(questions)[1]
    assert widths == [2, 1]
    assert printed == ["", "› Where is A?\nIn 1.\n\n› Where is C?\nIn 3.\n\n"]
    assert rest == "› Where is B?\nIn 9.\n\n"


def test_an_answer_that_is_cut_says_so_beyond_its_last_word(ask, questions):
    _, out, _ = ask(questions, "--max-tokens", 4)
    assert out.splitlines()[:2] == ["› Where is A?", "In 1 …cut"]


def test_an_expected_answer_longer_than_the_most_tokens_is_told_beforehand(ask, data):
    _, out, error = ask(data, "--max-tokens", 5)
    assert error == "note: --max-tokens 5 cuts 2 of the expected answers; the longest has 6\n"
    assert "0 % (0 of 3) word for word" in out


def test_an_answer_of_exactly_the_most_tokens_is_not_cut(ask, data):
    _, out, error = ask(data, "--max-tokens", 6)
    assert error == ""
    assert "(2 of 3)" in out
    assert "cut" not in out


def test_a_question_that_would_steer_a_terminal_is_printed_harmless(ask, tmp_path):
    (tmp_path / "q.txt").write_text("Where \x1b[2J is A?\n")
    assert ask(tmp_path / "q.txt")[1].startswith("› Where ·[2J is A?\n")


def test_a_url_is_printed_whole(ask, tmp_path, monkeypatch):
    def say_a_url(model, tokenizer, prompts, *, max_tokens):
        return [tokenizer.encode(f"{'so long ' * 30}{URL}") for _ in prompts]

    monkeypatch.setattr(workflow, "batch_generate", say_a_url)
    (tmp_path / "q.txt").write_text(f"Is it {URL}?\n")
    lines = ask(tmp_path / "q.txt")[1].splitlines()
    assert lines[0] == f"› Is it {URL}?"
    assert lines[1].endswith(f"long {URL} …cut")


def test_a_question_longer_than_the_context_names_its_line_and_nothing_is_asked(ask, tmp_path):
    (tmp_path / "q.txt").write_text(f"Where is A?\nWhy {'so ' * 1000}?\n")
    code, out, error = ask(tmp_path / "q.txt")
    assert (code, out) == (3, "")
    assert error == (
        f"error: {tmp_path / 'q.txt'}:2: the question is 3024 tokens long and the model reads "
        "2048, its answer included; shorten it\n"
    )


def test_bad_input_is_told_before_any_model_is_loaded(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "load_folded", None)
    (tmp_path / "q.txt").write_bytes(b"Where?\n\xff\n")
    code, _, error = ask(tmp_path / "q.txt")
    assert code == 3
    assert error == (
        f"error: {tmp_path / 'q.txt'}:2: byte 0xff at offset 7 is not UTF-8; save it as UTF-8\n"
    )


def test_the_bare_base_answers_when_it_is_meant_and_says_so_when_it_is_not(
    ask, questions, fork, mlx_tune_command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    meant = ask(questions, "--json", session="base")
    assert json.loads(meant[1])["session"] == "base"
    assert meant[2] == ""
    words = ("--base", fork.base, "--max-tokens", 2)
    _, _, error = mlx_tune_command("ask", questions, *words)
    assert error == "note: no session is in use in adapters, so the bare base answers\n"


def test_head_answers_when_nobody_is_named(ask, questions):
    found = json.loads(ask(questions, "--json", "--max-tokens", 2, session=None)[1])
    assert found["session"].startswith("0002-dining-")
