"""Serving measured: our server against mlx-lm's, the same model, BLAS and requests, in turns.

Each level is so many clients, each of which asks one question after another and reads the answer
as it comes. benchmarks/README.md says what the numbers mean.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from mlx_tune.files.durable import replace_file
from mlx_tune.models import bases

LEVELS = (1, 4, 16)
_TOPICS = ("rivers", "bread", "bridges", "clouds", "maps", "violins", "glass", "bees")
_START_SECONDS = 300.0
_TRIES = 20
_SIDES = ("ours", "mlx-lm")

_Answer = tuple[int, float, int]
"""Tokens, seconds to the first text, connections that were broken off before."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side did at one level.

    Attributes:
        tokens: Generated, all clients together.
        seconds: From the first request to the last token.
        waits: Seconds from each request to its first text.
        broken: Connections that the server broke off; their requests were sent again.
    """

    tokens: int
    seconds: float
    waits: tuple[float, ...]
    broken: int


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="benchmarks.serving",
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--base", default="smollm2-135m", help="base model")
    p.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="clients at once")
    p.add_argument("--requests", type=int, default=2, help="of each client, one after another")
    p.add_argument("--tokens", type=int, default=48, help="of an answer, at most")
    p.add_argument("--rounds", type=int, default=2, help="turns of each side")
    p.add_argument("--json", type=Path, help="keep everything there")
    return p


def main(words: Sequence[str]) -> int:
    """Measure, print the table and the verdicts; 1 where a target was missed."""
    args = parser().parse_args(words)
    folder = bases.locate(args.base).folder
    found: dict[tuple[bool, int, str], list[Turn]] = {}
    with tempfile.TemporaryDirectory() as empty, contextlib.ExitStack() as servers:
        Path(empty, "sessions").mkdir()  # a store, of no session: the base answers
        urls = {
            "ours": (servers.enter_context(_ours(args.base, Path(empty))), "base"),
            "mlx-lm": (servers.enter_context(_theirs(folder)), str(folder)),
        }
        for side in _SIDES:  # loads, compiles and fills what is filled once
            asyncio.run(_turn(*urls[side], 1, args, seeded=False, salt=0))
        for number, seeded, level, side in itertools.product(
            range(1, args.rounds + 1), (False, True), args.levels, _SIDES
        ):
            turn = asyncio.run(_turn(*urls[side], level, args, seeded=seeded, salt=number))
            found.setdefault((seeded, level, side), []).append(turn)
            print(_line(seeded, level, side, turn), file=sys.stderr, flush=True)
    text, is_met = report(found)
    print("\n".join(text))
    if args.json:
        turns = [
            {"seeded": seeded, "clients": level, "side": side, **vars(turn)}
            for (seeded, level, side), them in found.items()
            for turn in them
        ]
        whole = {"command": list(words), "machine": machine.describe(), "turns": turns}
        replace_file(args.json, (json.dumps(whole, indent=1) + "\n").encode())
    return 0 if is_met else 1


@contextlib.contextmanager
def _ours(base: str, store: Path) -> Iterator[str]:
    words = ("serve", "--store", str(store), "--base", base, "--port", "0")
    command = (sys.executable, "-m", "mlx_tune.cli.main", *words)
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"API +(\S+)/v1", line):
                yield found[1]
                return
    raise SystemExit("mlx-tune serve did not start")


@contextlib.contextmanager
def _theirs(folder: Path) -> Iterator[str]:
    """Start mlx-lm's server, with the BLAS that mlx_tune loads."""
    port = _free_port()
    start = "import mlx_tune; from mlx_lm.server import main; main()"
    words = ("--model", str(folder), "--port", str(port), "--host", "127.0.0.1")
    command = (sys.executable, "-W", "ignore", "-c", start, *words)
    with _process(command, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/v1/models", timeout=5)
                break
            time.sleep(0.5)
        yield url


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _process(command: Sequence[str], stdout: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


async def _turn(
    url: str, model: str, clients: int, args: argparse.Namespace, *, seeded: bool, salt: int
) -> Turn:
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=None) as http:

        async def client(number: int) -> list[_Answer]:
            asked = range(args.requests)
            return [await _ask(http, _body(model, number, i, salt, args, seeded)) for i in asked]

        answers = [a for one in await asyncio.gather(*map(client, range(clients))) for a in one]
    seconds = time.perf_counter() - began
    tokens, waits, broken = zip(*answers, strict=True)
    return Turn(tokens=sum(tokens), seconds=seconds, waits=waits, broken=sum(broken))


def _body(
    model: str, client: int, request: int, salt: int, args: argparse.Namespace, seeded: bool
) -> dict[str, Any]:
    topic = _TOPICS[(client + request) % len(_TOPICS)]
    question = f"({salt}.{client}.{request}) Tell me a long story about {topic}."
    drawn = {"temperature": 0.8, "seed": 1000 * client + request} if seeded else {"temperature": 0}
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": args.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **drawn,
    }


async def _ask(http: httpx.AsyncClient, body: dict[str, Any]) -> _Answer:
    """Ask until there is an answer: mlx-lm's server breaks off some of many connections."""
    began = time.perf_counter()
    for broken in range(_TRIES):
        with contextlib.suppress(httpx.TransportError):
            tokens, first = await _one_answer(http, body)
            return tokens, first - began, broken
    raise SystemExit(f"{http.base_url} broke off {_TRIES} connections, one after another")


async def _one_answer(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, float]:
    """Return the tokens of an answer and the moment of its first text."""
    first, tokens = 0.0, 0
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            if not first and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter()
            if chunk.get("usage"):
                tokens = int(chunk["usage"]["completion_tokens"])
    return tokens, first


def _line(seeded: bool, level: int, side: str, turn: Turn) -> str:
    kind = "seeded" if seeded else "greedy"
    return (
        f"{kind} {level:>3} {side:<7} {turn.tokens / turn.seconds:8.1f} tokens/s,"
        f" first text after {statistics.median(turn.waits):.2f} s, {turn.broken} broken off"
    )


def report(found: dict[tuple[bool, int, str], list[Turn]]) -> tuple[list[str], bool]:
    """Return the table and the verdicts, and whether all targets were met.

    Args:
        found: Turns by whether requests carried seeds, clients, and side.
    """
    columns = f"{'side':>8}{'tokens/s':>10}{'first text s':>14}{'broken off':>12}"
    lines = [f"{'requests':<9}{'clients':>8}{columns}"]
    verdicts, is_met = [], True
    for seeded, level in dict.fromkeys((seeded, level) for seeded, level, _ in found):
        kind, rates = "seeded" if seeded else "greedy", {}
        for side in _SIDES:
            turns = found[seeded, level, side]
            rates[side] = statistics.median(turn.tokens / turn.seconds for turn in turns)
            wait = statistics.median(wait for turn in turns for wait in turn.waits)
            broken = sum(turn.broken for turn in turns)
            lines.append(
                f"{kind:<9}{level:>8}{side:>8}{rates[side]:>10.1f}{wait:>14.2f}{broken:>12}"
            )
        ratio, target = rates["ours"] / rates["mlx-lm"], 2.0 if seeded and level > 1 else 1.0
        met = ratio >= target
        is_met = is_met and met
        verdicts.append(
            f"{'met   ' if met else 'missed'}  {kind}, {level} clients: {ratio:.2f} times the "
            f"tokens/s of mlx-lm (target: at least {target:g})"
        )
    return [*lines, *verdicts], is_met


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
