"""The attack tool slowhttptest in its modes, while an ordinary client goes on being answered."""

import shutil
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from helpers.raw_http import exchange, request, run_server
from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slowhttptest") is None, reason="needs slowhttptest (apt-get install it)"
    ),
]

SECONDS = 30
"""How long the attack may last."""

ATTACKERS = 200
"""More than the connections that a server takes at once."""

MODES = {
    "headers": ["-H", "-i", "2"],
    "body": ["-B", "-i", "2", "-s", "8192", "-f", "application/json", "-t", "POST"],
    "read": ["-X", "-n", "5", "-z", "5", "-w", "10", "-y", "20"],
}


async def answer(request):
    if request.method == "POST":
        return PlainTextResponse(str(len(await request.body())))
    return Response(b"x" * 1_000_000)


async def hello(request):
    return PlainTextResponse("hello")


APP = AccessMiddleware(
    Starlette(routes=[Route("/", answer, methods=["GET", "POST"]), Route("/hello", hello)]),
    AccessPolicy(token="x"),
)


class Ordinary(threading.Thread):
    """A client that asks twice a second, and notes what it got and who else was connected."""

    def __init__(self, server: SimpleNamespace) -> None:
        super().__init__()
        self.server = server
        self.statuses: set[int] = set()
        self.slowest_seconds = 0.0
        self.others: list[int] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.5):
            before = time.monotonic()
            self.statuses.add(exchange(self.server.port, request(path="/hello")).status)
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - before)
            self.others.append(len(self.server.server.server_state.connections))


def attacked(server: SimpleNamespace, mode: str) -> Ordinary:
    """What an ordinary client saw while the tool attacked."""
    ordinary = Ordinary(server)
    ordinary.start()
    try:
        subprocess.run(
            ["slowhttptest", *MODES[mode], "-c", str(ATTACKERS), "-r", "100", "-l", str(SECONDS),
             "-u", f"http://127.0.0.1:{server.port}/"],
            check=True, capture_output=True, timeout=4 * SECONDS,
        )  # fmt: skip
    finally:
        ordinary.enough.set()
        ordinary.join()
    return ordinary


@pytest.mark.parametrize("mode", MODES)
def test_slow_clients_are_closed_and_others_answered_meanwhile(mode):
    with run_server(APP) as server:
        ordinary = attacked(server, mode)
        assert ordinary.statuses == {200}
        assert ordinary.slowest_seconds < 2
        assert max(ordinary.others) > 100, "the attack took place"
        busy = [number for number, others in enumerate(ordinary.others) if others > 2]
        assert busy[-1] - busy[0] < 2 * 16, "ten seconds after the last came, all are gone"
        assert not server.server.server_state.tasks


def test_without_limits_the_same_attack_leaves_its_connections_open():
    with run_server(APP, patience_seconds=3600, connections=10_000) as server:
        assert attacked(server, "headers").others[-5] >= ATTACKERS
