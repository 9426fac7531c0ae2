"""Signals: the first waits for the step to end, a second one does not; and the note on BLAS."""

import io
import os
import signal
import sys
import time

import pytest
from rich.console import Console

from mlx_tune.cli import console
from mlx_tune.cli.console import (
    Signals,
    Waiting,
    clock,
    percent,
    print_wrapped,
    whole_percent,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_counts_the_seconds_of_what_takes_long_until_the_next_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console, "_TICK_SECONDS", 0.001)
    with Waiting() as waiting:
        waiting.say("asking the base…")
        while "\r  0:00" not in terminal.getvalue():
            time.sleep(0.001)
        waiting.say("asked")
        shown = terminal.getvalue()
        time.sleep(0.01)  # nothing is counted below a line that announces nothing
        assert terminal.getvalue() == shown
    assert shown.startswith("asking the base…\n\r  0:00")
    assert shown.endswith("\r\x1b[Kasked\n")


def test_a_pipe_gets_the_lines_alone(capsys):
    with Waiting() as waiting:
        waiting.say("asking the base…")
        assert waiting._clock is None
    assert capsys.readouterr().err == "asking the base…\n"


def test_a_clock_shows_minutes_and_seconds():
    assert [clock(seconds) for seconds in (0, 59.6, 125)] == ["0:00", "1:00", "2:05"]


def test_a_narrow_terminal_breaks_a_line_between_words_and_indents_the_rest():
    out = io.StringIO()
    print_wrapped(Console(file=out, width=20, force_terminal=True), "    one [b]two[/] three four")
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["    one [b]two[/]", "    three four"]
    out = io.StringIO()
    print_wrapped(Console(file=out, width=20), "    one [b]two[/] three four")
    assert out.getvalue() == "    one [b]two[/] three four\n"


@pytest.fixture
def before():
    """Handlers as the command line sets them, put back afterwards."""

    def terminated(number, frame):
        raise SystemExit(128 + number)

    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def signals(before):
    made = Signals()
    made.listen()
    yield made
    made.restore()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_steps_are_taken_the_first_signal_is_noted_and_the_second_ends_it(
    signals, capfd, number
):
    signals.wait = True
    os.kill(os.getpid(), number)
    assert signals.received == number
    assert capfd.readouterr().err == "stopping as soon as it is saved; once more stops at once\n"
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_elsewhere_a_signal_ends_the_process_as_always(signals, number):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        os.kill(os.getpid(), number)
    assert signals.received == 0


def test_the_handlers_of_before_come_back(before):
    kept = signal.getsignal(signal.SIGTERM)
    signals = Signals()
    signals.listen()
    assert signal.getsignal(signal.SIGTERM) != kept
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) == kept


def test_a_signal_that_is_ignored_stays_so(before):
    """As in the background of a script, or under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = Signals()
    signals.listen()
    os.kill(os.getpid(), signal.SIGINT)
    signals.restore()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signals.received == 0


def test_a_terminal_that_has_gone_does_not_end_the_step(signals, monkeypatch):
    def gone(descriptor, data):
        raise OSError(5, "Input/output error")

    signals.wait = True
    monkeypatch.setattr(os, "write", gone)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM


def test_without_a_fast_blas_every_command_that_computes_says_so_once(
    trained_store, mlx_tune_command, monkeypatch
):
    from mlx_tune import blas

    monkeypatch.setattr(blas, "loaded", None)
    monkeypatch.setattr("sys.platform", "linux")
    _, _, error = mlx_tune_command("eval")
    assert error.count("note: no fast BLAS found") == 1


def test_a_hundred_percent_is_all_and_none_is_none():
    shown = [whole_percent(right, 1000) for right in (0, 1, 9, 500, 995, 999, 1000)]
    assert shown == [0, 1, 1, 50, 99, 99, 100]
    assert percent(199, 200) == "99 % (199 of 200)"
    assert percent(1, 250) == "1 % (1 of 250)"
