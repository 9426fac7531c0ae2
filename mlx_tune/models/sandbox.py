"""Renders chat templates in a separate process, which can be killed; run as a script.

A template comes with a downloaded model and is a program: it may loop for ever, access Python's
internals, or print without end. So none is ever rendered in the main process. This file imports
nothing of the package. Each line of standard input is a JSON object, and so is each line of
standard output. The limit is on CPU time, not on wall time, so a busy machine does not make a
template fail.
"""

import json
import re
import resource
import signal
import sys
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 1 << 30
REPEAT_LIMIT = 1_000_000


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with limits on the operators whose result can be huge.

    macOS enforces no limit on an address space, so ``'x' * 10_000_000_000`` must not be tried.
    """

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator unless its result could be huge."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not allowed")
        if operator == "**" and not (abs(left) <= REPEAT_LIMIT and abs(right) <= 64):
            raise SecurityError("the power is too large")
        if operator == "*":
            for text, count in ((left, right), (right, left)):
                if hasattr(text, "__len__") and len(text) * count > REPEAT_LIMIT:
                    raise SecurityError("the repetition is too long")
        return super().call_binop(context, operator, left, right)


def environment() -> Environment:
    """Return the environment of chat templates in transformers, without ``strftime_now``."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    made = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


def render(job: dict[str, Any]) -> list[str]:
    """Render every conversation of a job, each to at most ``job["limit_chars"]`` characters."""
    # transformers has its own tag for the assistant's spans; the text is the same without it.
    source = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", job["template"])
    source = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", source)
    template = environment().from_string(source)
    texts = []
    for conversation in job["conversations"]:
        pieces: list[str] = []
        room = job["limit_chars"]
        for piece in template.generate(**{**job["variables"], **conversation}):
            room -= len(piece)
            if room < 0:
                raise ValueError(f"it printed more than {job['limit_chars']:,} characters")
            pieces.append(piece)
        texts.append("".join(pieces))
    return texts


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Render a job, or return its error; SIGPROF ends a process that takes too much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, job["limit_seconds"])
    try:
        return {"texts": render(job)}
    except Exception as error:  # a template can raise anything
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer the jobs of standard input until it ends."""
    if sys.platform.startswith("linux"):  # macOS does not enforce an address-space limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
