"""The command itself, in a process of its own: it begins, it is told to stop, it ends with 0."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

LONG = 10
"""Seconds within which it has ended on a busy machine; alone it takes less than two."""


@contextmanager
def process(*words):
    """A command whose server answers; gives its process and its address."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "mlx_tune.cli.main", "serve", "--port", "0", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        printed = []
        for line in popen.stdout:
            printed.append(line)
            if line.startswith("Ctrl-C"):
                break
        assert printed, popen.communicate()
        yield popen, printed
    finally:
        popen.kill()
        popen.communicate()


def test_sigterm_ends_streams_with_an_error_event_and_the_process_with_0(own_store):
    body = {"model": "base", "prompt": "Where", "max_tokens": 2000, "stream": True}
    with process("--store", own_store) as (popen, printed):
        words = {line.split()[0]: line.split()[1] for line in printed if line[0] in "pAt"}
        api = words["API"]
        assert words["page"].endswith(f"/#token={words['token']}")
        with httpx.stream(
            "POST", f"{api}/completions", json=body, timeout=30, trust_env=False
        ) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: {")
            before = time.monotonic()
            popen.send_signal(signal.SIGTERM)
            *_, last = [line for line in lines if line.startswith("data: ")]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        _, complaints = popen.communicate(timeout=LONG)
        assert (popen.returncode, complaints) == (0, "")
        assert time.monotonic() - before < LONG


def test_it_ends_with_0_in_the_middle_of_a_load_too(own_store, tmp_path):
    """MLX aborts a process that ends while one of its threads computes."""
    (tmp_path / "sitecustomize.py").write_text(
        "from mlx_tune.serving.models import ModelCache\n"
        "def load(self, model):\n"
        "    import mlx.core as mx\n"
        f"    open({str(tmp_path / 'loading')!r}, 'w').close()\n"
        "    while True:\n"
        "        mx.eval(mx.ones((500, 500)) @ mx.ones((500, 500)))\n"
        "ModelCache._load = load\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        with process("--store", own_store) as (popen, _):
            until = time.monotonic() + LONG
            while not (tmp_path / "loading").exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            popen.send_signal(signal.SIGTERM)
            _, complaints = popen.communicate(timeout=LONG)
            assert (popen.returncode, complaints) == (0, "")
    finally:
        sys.path.remove(str(tmp_path))


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(own_store, mlx_tune_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = mlx_tune_command("serve", "--store", own_store, "--port", port)
    assert (code, out) == (2, "")
    assert f"port {port} of 127.0.0.1 is in use" in err


def test_a_damaged_head_is_told_before_anything_is_served(own_store, mlx_tune_command):
    (record,) = own_store.glob("sessions/*dining*/session.json")
    record.chmod(0o644)
    record.write_text("{")
    code, out, err = mlx_tune_command("serve", "--store", own_store, "--port", "0")
    assert (code, out) == (4, "")
    assert "dining" in err


@pytest.mark.parametrize(
    "words", [["--token", ""], ["--allow-origin", "*"], ["--port", "99999"], ["--loaded", "0"]]
)
def test_what_makes_no_sense_is_refused_with_2(own_store, mlx_tune_command, words):
    assert mlx_tune_command("serve", "--store", own_store, *words)[0] == 2
