"""The command `mlx-tune`: its list of commands, and the boundary where errors become one line."""

import io
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from mlx_tune.cli import (
    chat,
    data,
    diff,
    evaluate,
    exchange,
    history,
    models,
    serve,
    store,
    training,
)
from mlx_tune.errors import DiskError, Interrupted, MlxTuneError
from mlx_tune.text import one_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (training.train, training.plan, training.resume, training.consolidate, chat.chat,
                chat.ask, evaluate.eval_, history.log, history.show, diff.diff, store.rollback,
                store.promote, store.tag, store.rm, store.gc, store.verify, models.fuse,
                exchange.import_, serve.serve, serve.check_server, store.doctor):  # fmt: skip
    app.command(command.__name__.rstrip("_").replace("_", "-"))(command)
app.add_typer(models.base_app, name="base")
app.add_typer(data.data_app, name="data")
app.add_typer(exchange.export_app, name="export")


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:  # as in completion
        import mlx_tune

        print(mlx_tune.__version__)
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Teach a language model on your own machine, again and again, without it forgetting."""


def run() -> None:
    """Run the command line and end the process with the exit code of what happened."""
    words = sys.argv[1:]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ✓ gets a ? instead
            stream.reconfigure(errors="replace")
    try:
        code = _call(words)
    except Interrupted as stop:  # the view has printed how to resume
        code = stop.exit_code
    except MlxTuneError as error:
        code = error.exit_code
        if debug:
            raise
        _print_error(str(error))
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if debug:
            raise
        code = DiskError.exit_code if isinstance(error, OSError) else 1
        kind = "operating system error" if isinstance(error, OSError) else "internal error"
        reason = one_line(str(error), 300)
        _print_error(f"{kind} ({type(error).__name__}: {reason}); --debug shows the traceback")
    sys.exit(code)


def _call(words: list[str]) -> int:
    try:
        result: Any = app(args=words, prog_name="mlx-tune", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # nothing was asked, so the message is the whole help
            print(message, file=sys.stderr)
        else:
            _print_error(message)
        return error.exit_code
    except typer.Abort:
        return 130
    return result if isinstance(result, int) else 0


def _print_error(message: str) -> None:
    first, *rest = message.splitlines() or [""]
    print(f"error: {first}", file=sys.stderr)
    for line in rest:
        print(f"       {line}", file=sys.stderr)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    run()
