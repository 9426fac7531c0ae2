"""`mlx-tune chat`: talk to the model, or ask it one thing."""

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_tune.cli.options import STORE, BaseOption, SessionOption, StoreOption

if TYPE_CHECKING:
    from mlx_tune.cli.chat_loop import Chat

HELP = """\
/session [S]  show who answers, or switch to session S
/base         switch to the bare base model
/clear        forget this conversation
/help         show this
/exit         leave (also Ctrl-D); Ctrl-C stops an answer"""


def chat(
    *,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this once and print the answer.")
    ] = None,
    session: SessionOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
) -> None:
    """Talk to the model that HEAD names, or ask it one question."""
    from mlx_tune.cli.chat_loop import Chat
    from mlx_tune.cli.console import say, warn_of_slow_blas

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
    """Wait for a line; SIGTERM ends the process meanwhile, there being nothing to save.

    It is left to the system, for Python would not run a handler before the read is over where the
    signal came just before it.
    """
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return input("\n› " if sys.stdin.isatty() else "")
    finally:
        signal.signal(signal.SIGTERM, handler)


def _obey(line: str, talk: "Chat") -> None:
    """Carry out one line: a command of the chat, or a question."""
    from mlx_tune.errors import MlxTuneError

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
