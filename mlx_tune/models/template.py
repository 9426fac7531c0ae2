"""A chat template is a program that came with a download: it is rendered in a child process.

The child can be killed, and never runs in ours; see `sandbox`.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_tune.errors import InputError

_SCRIPT = Path(__file__).with_name("sandbox.py")
# Neither the folder one stands in, nor this file's, nor PYTHON* lend it modules.
_COMMAND = (sys.executable, "-E", "-P", str(_SCRIPT))
_WALL_FACTOR = 6  # how much longer than it may compute a child is waited for
_READ_BYTES = 1 << 16


class Renderer:
    """Asks `sandbox.py`, which is started when it is needed and killed when it misbehaves."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the child's answer: ``texts``, or ``error`` with a line; any thread may ask.

        Args:
            job: As `sandbox.render` takes it, with ``limit_seconds``.
        """
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                pipe = subprocess.PIPE
                self._child = subprocess.Popen(_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
            return self._answer(self._child, job)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._kill()

    def _answer(self, child: "subprocess.Popen[bytes]", job: Mapping[str, Any]) -> dict[str, Any]:
        limit = float(job["limit_seconds"])
        line = b""
        with contextlib.suppress(BrokenPipeError):
            assert child.stdin is not None
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
            line = _line(child, time.monotonic() + _WALL_FACTOR * limit)
        try:
            return dict(json.loads(line))
        except ValueError:
            return {"error": self._last_words(child, limit)}

    def _last_words(self, child: "subprocess.Popen[bytes]", limit: float) -> str:
        """Say how a child ended that gave no answer."""
        child.kill()  # it may have ended already, in a way of its own
        assert child.stderr is not None
        last = (child.stderr.read().decode(errors="replace").splitlines() or ["no reason given"])[
            -1
        ]
        self._kill()
        if child.returncode in (-signal.SIGPROF, -signal.SIGKILL):
            return f"still running after {limit:.0f} seconds"
        return f"it ended the process that rendered it ({last[:200]})"

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            with self._child:  # waits, and closes its pipes
                pass
            self._child = None


def _line(child: "subprocess.Popen[bytes]", until: float) -> bytes:
    """Return the line that a child writes; what there is of it when it ends or the time is over."""
    assert child.stdout is not None
    found = bytearray()
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
        part = os.read(child.stdout.fileno(), _READ_BYTES) if ready else b""
        if not part:
            break
        found += part
    return bytes(found)


PINNED_DATE = "26 Jul 2024"
"""What a template prints for today; the date Llama-3.2's own template falls back to."""

LIMIT_CHARS = 1_000_000
LIMIT_SECONDS = 10.0

_SLAB = 5000  # conversations a child; what it holds must fit its memory
_NOTHING: dict[str, None] = {"tools": None, "documents": None}  # what nobody offers here


def pin_date(template: str) -> str:
    """Return a template that prints one date for ever.

    Llama-3.2's prints today's, so the tokens of a row would drift from week to week.
    """
    pins = ""
    if "date_string" in template:
        pins += f'{{%- set date_string = "{PINNED_DATE}" -%}}'
    if "strftime_now" in template:
        pins += f"{{%- macro strftime_now(format) -%}}{PINNED_DATE}{{%- endmacro -%}}"
    return template if template.startswith(pins) else pins + template


def render(
    template: str,
    conversations: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, str | None],
    limit_seconds: float | None = None,
    renderer: Renderer | None = None,
) -> list[str]:
    """Render conversations with an untrusted template.

    Args:
        template: Jinja source.
        conversations: Each holds ``messages`` and ``add_generation_prompt``.
        variables: The special tokens a template may print, by name.
        limit_seconds: How long all of them may compute, beyond a millisecond each; LIMIT_SECONDS
            when None.
        renderer: Renders them and is kept; None for one of their own.

    Returns:
        One text a conversation.

    Raises:
        InputError: The template fails, runs too long, or prints or takes too much.
    """
    texts: list[str] = []
    for begin in range(0, len(conversations), _SLAB):
        texts += _render_slab(
            template,
            conversations[begin : begin + _SLAB],
            # As transformers calls a template: a token that there is not is not defined.
            {**_NOTHING, **{name: token for name, token in variables.items() if token is not None}},
            limit_seconds or LIMIT_SECONDS,
            renderer,
        )
    return texts


def _render_slab(
    template: str,
    conversations: Sequence[Mapping[str, Any]],
    variables: Mapping[str, str | None],
    limit_seconds: float,
    renderer: Renderer | None,
) -> list[str]:
    job = {
        "template": template,
        "conversations": list(conversations),
        "variables": dict(variables),
        "limit_chars": LIMIT_CHARS,
        "limit_seconds": limit_seconds + len(conversations) / 1000,
    }
    if renderer is None:
        with closing(Renderer()) as own:
            answer = own.ask(job)
    else:
        answer = renderer.ask(job)
    if "texts" not in answer:
        raise InputError(f"chat template: {answer['error']}; use a base model with another")
    return list(answer["texts"])
