"""The commands that ask the model: chat and ask."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune import Store
from mlx_tune.cli.console import percent, print_json, say, warn_of_slow_blas
from mlx_tune.cli.options import STORE, BaseOption, JsonOption, SessionOption, StoreOption
from mlx_tune.errors import MlxTuneError
from mlx_tune.text import one_line

if TYPE_CHECKING:
    from mlx_tune.workflows.ask import AnswerRecord, Chat

HELP = """\
/session [S]  show who answers, or switch to session S
/base         switch to the bare base model
/clear        forget this conversation
/help         show this
/exit         leave (also Ctrl-D); Ctrl-C stops an answer"""

MaxTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


def chat(
    *,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this once and print the answer.")
    ] = None,
    session: SessionOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    max_tokens: MaxTokensOption = 512,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
) -> None:
    """Talk to the model that HEAD names, or ask it one question."""
    warn_of_slow_blas()
    kept = Store(store, base=base, say=say)
    talk = kept.chat(session, max_tokens=max_tokens, temperature=temperature)
    if prompt is not None:
        if not talk.chain and session is None:  # a mistyped store must not pass for a trained one
            say(f"note: no session is in use in {store}, so the bare base answers")
        _answer(talk, prompt)
        if talk.is_cut:  # not among the words of the answer, which a script may take
            say("note: the answer was cut; --max-tokens and the model's context are its limits")
        return
    print(f"{talk.answering} answers; /help lists what else there is.")
    with contextlib.suppress(ImportError):  # line editing and history, where Python has them
        import readline  # noqa: F401
    while True:
        try:
            line = _next_line()
        except EOFError:
            break
        except KeyboardInterrupt:
            print()
            continue
        if line.strip() == "/exit":
            break
        _obey(line.strip(), talk)


def _next_line() -> str:
    """Wait for a line; meanwhile SIGTERM ends the process, since nothing has to be saved.

    The system's own handler is in place: Python would not run one before the read is over where
    the signal came just before it.
    """
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return input("\n› " if sys.stdin.isatty() else "")
    finally:
        signal.signal(signal.SIGTERM, handler)


def _obey(line: str, talk: Chat) -> None:
    """Run one line: a command of the chat, or a question."""
    word, _, rest = line.partition(" ")
    try:
        match word:
            case "":
                pass
            case "/help":
                print(HELP)
            case "/clear":
                talk.clear()
                print("forgotten")
            case "/base":
                talk.switch("base")
                print(f"{talk.answering} answers")
            case "/session":
                if rest.strip():
                    talk.switch(rest.strip())
                print(f"{talk.answering} answers")
            case _ if word.startswith("/") and word.count("/") == 1:
                print(f"{word} is no command; /help lists them")
            case _:
                _answer(talk, line, cut=" …cut")
    except MlxTuneError as error:  # a slip must not end the conversation
        print(f"error: {error}", file=sys.stderr)


def _answer(talk: Chat, question: str, *, cut: str = "") -> None:
    """Print the answer as it comes, and ``cut`` after one that was; Ctrl-C stops it.

    It is not wrapped here: a terminal that wraps by itself knows that a URL over two lines is one.
    """
    pieces = talk.stream(question)
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()
        sys.stdout.write(" …stopped")
    print(cut if talk.is_cut else "")


def ask(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Questions, one a line; or a data file; - for standard input."
        ),
    ],
    *,
    session: SessionOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    max_tokens: MaxTokensOption = 512,
    json: JsonOption = False,
) -> None:
    """Ask the model a list of questions and print its answers.

    Blank lines and lines that begin with # are skipped. The answers of a data file (.json, .jsonl,
    .csv, …) are compared with the model's: ✓ is word for word the same.
    """
    from mlx_tune.data import read
    from mlx_tune.workflows import ask as workflow

    if str(file) != "-":
        rows = read.read_questions(file.expanduser())
    else:
        data = sys.stdin.buffer.read(read.MAX_QUESTIONS_BYTES + 1)
        rows = read.parse_questions(data, "standard input")
    warn_of_slow_blas()
    folded = workflow.load_model(store, session=session, base=base, say=say)
    answers = workflow.ask(folded, rows, max_tokens=max_tokens, say=say)
    if json:
        who = folded.chain[-1].folder_name if folded.chain else "base"
        print_json({"session": who, "answers": [vars(answer) for answer in answers]})
        return
    verbatim = [_print_answer(answer) for answer in answers]
    if compared := [same for same in verbatim if same is not None]:
        print(f"{percent(sum(compared), len(compared))} word for word")


def _print_answer(answer: AnswerRecord) -> bool | None:
    """Print a question and its answer, not wrapped, and return whether it is the expected one."""
    mark = {True: "✓ ", False: "✗ ", None: ""}[answer.verbatim]
    print(f"› {one_line(answer.question)}")
    print(f"{mark}{answer.answer}{' …cut' if answer.is_cut else ''}")
    if answer.verbatim is False:
        print(f"  expected: {answer.expected}")
    print(flush=True)
    return answer.verbatim
