"""The commands that ask the model: chat and ask."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.console import percent, print_json, say, warn_of_slow_blas
from mlx_tune.cli.options import STORE, BaseOption, JsonOption, SessionOption, StoreOption
from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.text import one_line

if TYPE_CHECKING:
    from mlx_tune.data.rows import Row
    from mlx_tune.store.session import Session
    from mlx_tune.workflows.ask import AnswerRecord
    from mlx_tune.workflows.workspace import FoldedModel

HELP = """\
/session [S]  show who answers, or switch to session S
/base         switch to the bare base model
/clear        forget this conversation
/help         show this
/exit         leave (also Ctrl-D); Ctrl-C stops an answer"""

MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
]


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
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
) -> None:
    """Talk to the model that HEAD names, or ask it one question."""
    warn_of_slow_blas()
    talk = Chat(store, base, max_tokens=max_tokens, temperature=temperature)
    talk.switch(session)
    if prompt is not None:
        if not talk.chain and session is None:  # a mistyped store must not pass for a trained one
            say(f"note: no session is in use in {store}, so the bare base answers")
        talk.answer(prompt)
        return
    print(f"{talk.who} answers; /help lists what else there is.")
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
                print(f"{talk.who} answers")
            case "/session":
                if rest.strip():
                    talk.switch(rest.strip())
                print(f"{talk.who} answers")
            case _ if word.startswith("/") and word.count("/") == 1:
                print(f"{word} is no command; /help lists them")
            case _:
                talk.answer(line)
    except MlxTuneError as error:  # a slip must not end the conversation
        print(f"error: {error}", file=sys.stderr)


class Chat:
    """A conversation with a session's model, or with the bare base."""

    def __init__(
        self, store: Path, base: str | None, *, max_tokens: int, temperature: float
    ) -> None:
        from mlx_tune.inference import Conversation
        from mlx_tune.store.store import SessionStore
        from mlx_tune.workflows.workspace import choose_base, locate_base

        self._store = SessionStore.open(store)
        self._info = locate_base(self._store, choose_base(self._store, base), say)
        self._conversation = Conversation(max_tokens=max_tokens, temperature=temperature)
        self._folded: FoldedModel | None = None

    @property
    def chain(self) -> tuple[Session, ...]:
        """The sessions folded into the model that answers."""
        return self._folded.chain if self._folded else ()

    @property
    def who(self) -> str:
        """The model that answers, for a person."""
        names = " → ".join(session.name for session in self.chain)
        return f"{self._info.name} + {names}" if names else f"{self._info.name} (the bare base)"

    def switch(self, ref: str | None) -> None:
        """Load another session: a reference, ``base``, or None for HEAD."""
        from mlx_tune.workflows.workspace import find_session, load_folded

        session = find_session(self._store, ref)
        for note in self._store.notes:
            say(note)
        self._folded = None  # two models at once may not fit
        self._folded = load_folded(self._info, self._store.chain(session))

    def clear(self) -> None:
        """Forget the conversation."""
        self._conversation.clear()

    def answer(self, question: str) -> None:
        """Print the answer as it comes; Ctrl-C stops it.

        The text is printed as the model says it, not wrapped here: a terminal that wraps by itself
        still knows that a URL over two lines is one.
        """
        if self._folded is None:  # the last switch failed midway
            raise UsageError("no model is loaded; /base or /session N loads one")
        pieces = self._conversation.ask(self._folded.model, self._folded.tokenizer, question)
        try:
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()
            sys.stdout.write(" …stopped")
        print()


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

    Blank lines and lines that begin with # are skipped. The answers of a data file (.json, .jsonl)
    are compared with the model's: ✓ is word for word the same.
    """
    from mlx_tune.workflows import ask as workflow

    rows = _read(file)
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


def _read(file: Path) -> list[Row]:
    from mlx_tune.data import read

    if str(file) != "-":
        return read.read_questions(file.expanduser())
    data = sys.stdin.buffer.read(read.MAX_BYTES + 1)
    return read.parse_questions(data, "standard input")


def _print_answer(answer: AnswerRecord) -> bool | None:
    """Print a question and its answer, and return whether it is the expected one.

    The answer is printed as the model says it, not wrapped here, so that URLs stay whole.
    """
    mark = {True: "✓ ", False: "✗ ", None: ""}[answer.verbatim]
    print(f"› {one_line(answer.question)}")
    print(f"{mark}{answer.answer}{' …cut' if answer.is_cut else ''}")
    if answer.verbatim is False:
        print(f"  expected: {answer.expected}")
    print(flush=True)
    return answer.verbatim
