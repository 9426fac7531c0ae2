"""A hundred clients at once, of which half leave: what they took is given back."""

import gc
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest

from helpers.live_server import copy_store, events, serve_store
from helpers.raw_http import connect, eventually, receive_all, request
from helpers.training_lab import isolated_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc"),
]

CLIENTS, ROUNDS = 100, 3
SLACK_BYTES = 5 << 20


@pytest.fixture(autouse=True)
def tiny_machine(tmp_path):
    with isolated_environment(tmp_path):
        yield


def handles():
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def one(server, number):
    """A client; every second one leaves, streaming or not, at another moment of its answer."""
    stays, streams = number % 2 == 0, number % 4 < 2
    body = {
        "model": ("head", "housing", "cs", "base")[number % 3],
        "prompt": f"Where is {number}?",
        "max_tokens": 40 if stays else 1500,
        "temperature": 1,
        "seed": number,
        "stream": streams,
    }
    if stays:
        reply = server.client.post("/v1/completions", json=body)
        assert reply.status_code == 200, reply.text
        if not streams:
            return reply.json()["choices"][0]["text"]
        *chunks, last = events(reply.text)
        assert last == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)
    data = json.dumps(body).encode()
    fields = {"content_type": "application/json", "content_length": str(len(data))}
    with connect(server.port, request("POST", "/v1/completions", data, **fields)) as client:
        if streams:
            receive_all(client, b"data:")
        else:
            time.sleep(number / 200)
    return None


def everybody(server):
    """Ask a hundred times at once; then nobody's answer grows any more."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        said = list(clients.map(lambda number: one(server, number), range(CLIENTS)))
    assert eventually(lambda: server.engine.running == 0, 2)
    return said


def threads():
    """Count them, without a pool that grows to forty when it is busy and ends with the server."""
    return sum(thread.name != "AnyIO worker thread" for thread in threading.enumerate())


def test_half_of_a_hundred_clients_leave_and_nothing_stays(fork, tmp_path):
    at_first = threading.active_count()
    with serve_store(copy_store(fork.store, tmp_path / "store"), most_waiting=CLIENTS) as server:
        first = everybody(server)  # pools grow, models are loaded
        gc.collect()
        mx.clear_cache()
        before = threads(), handles(), mx.get_active_memory(), resident_bytes()
        for _ in range(ROUNDS):
            assert everybody(server) == first, "company changed an answer"
        gc.collect()
        mx.clear_cache()
        assert threads() <= before[0]
        assert eventually(lambda: handles() <= before[1])
        assert mx.get_active_memory() <= before[2] + SLACK_BYTES
        assert resident_bytes() <= before[3] + 8 * SLACK_BYTES
        assert server.engine.counts.faults == 0
        assert server.engine.counts.finished["left"] >= ROUNDS * CLIENTS / 4
    assert eventually(lambda: threading.active_count() <= at_first)
