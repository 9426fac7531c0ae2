"""Renders chat templates, which are downloaded programs, in a child process that can be killed."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_tune.errors import InputError

PINNED_DATE = "26 Jul 2024"
"""The date that a template prints as today's; Llama-3.2's own template has it as default."""

LIMIT_CHARS = 1_000_000
LIMIT_SECONDS = 10.0

_SCRIPT = Path(__file__).with_name("sandbox.py")
# No modules from the current folder, from this file's folder or from PYTHONPATH.
_COMMAND = (sys.executable, "-E", "-P", str(_SCRIPT))
_WALL_FACTOR = 6  # wall time to wait for, as a multiple of the CPU time that is allowed
_READ_BYTES = 1 << 16
# What is rendered at once has to fit into the process: its memory, and its time.
_BATCH = 5000  # conversations
_BATCH_CHARS = 20_000_000  # of their JSON, tools included
_NOTHING: dict[str, None] = {"tools": None, "documents": None}  # templates test these for None


def pin_date(template: str) -> str:
    """Return a template that always prints the same date.

    Llama-3.2's prints today's date, so the tokens of a row would depend on the day.
    """
    pins = ""
    if "date_string" in template:
        pins += f'{{%- set date_string = "{PINNED_DATE}" -%}}'
    if "strftime_now" in template:
        pins += f"{{%- macro strftime_now(format) -%}}{PINNED_DATE}{{%- endmacro -%}}"
    return template if template.startswith(pins) else pins + template


class Renderer:
    """A process that runs `sandbox.py`: started when first needed, killed after a failure."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of the process: ``texts``, or ``error`` with one line.

        Any thread may call this.

        Args:
            job: The argument of `sandbox.answer`.
        """
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                pipe = subprocess.PIPE
                self._child = subprocess.Popen(_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
            return self._answer(self._child, job)

    def close(self) -> None:
        """End the process."""
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
        """Return how a process ended that gave no answer."""
        child.kill()  # it may have ended already
        assert child.stderr is not None
        lines = child.stderr.read().decode(errors="replace").splitlines()
        last = (lines or ["no reason given"])[-1]
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
        conversations: Each has ``messages``, ``add_generation_prompt`` and perhaps ``tools``.
        variables: The special tokens that a template may print, by name.
        limit_seconds: The CPU time that all of them may take, beyond a millisecond each;
            ``LIMIT_SECONDS`` where None.
        renderer: The process to use; None for a new one that ends afterwards.

    Returns:
        A text for each conversation.

    Raises:
        InputError: The template fails, runs too long, prints too much or needs too much memory.
    """
    # As in transformers: a special token that a tokenizer lacks is not defined.
    defined = {name: token for name, token in variables.items() if token is not None}
    texts: list[str] = []
    for batch in _batches(conversations):
        job = {
            "template": template,
            "conversations": batch,
            "variables": {**_NOTHING, **defined},
            "limit_chars": LIMIT_CHARS,
            "limit_seconds": (limit_seconds or LIMIT_SECONDS) + len(batch) / 1000,
        }
        if renderer is None:
            with closing(Renderer()) as own:
                answer = own.ask(job)
        else:
            answer = renderer.ask(job)
        if "texts" not in answer:
            raise InputError(f"chat template: {answer['error']}; use a base model with another")
        texts += answer["texts"]
    return texts


def _batches(conversations: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    left = _BATCH_CHARS
    for one in conversations:
        chars = len(json.dumps(one))
        if batch and (len(batch) == _BATCH or chars > left):
            yield batch
            batch, left = [], _BATCH_CHARS
        batch.append(one)
        left -= chars
    if batch:
        yield batch


def _line(child: "subprocess.Popen[bytes]", until: float) -> bytes:
    """Return the line that a process writes; a part of it where it ends or the time is over."""
    assert child.stdout is not None
    found = bytearray()
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
        part = os.read(child.stdout.fileno(), _READ_BYTES) if ready else b""
        if not part:
            break
        found += part
    return bytes(found)
