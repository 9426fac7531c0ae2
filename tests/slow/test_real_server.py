"""The real command on the real base: everything a server should do, and what `chat` says too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.real]

QUESTION = "What is the capital of France?"
TIMEOUT_SECONDS = 600


def command(*words):
    return [sys.executable, "-m", "mlx_tune.cli.main", *map(str, words)]


def said(*words, at=None):
    return subprocess.run(
        command(*words),
        cwd=at, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder without a store: HEAD is the bare base."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def url(folder):
    popen = subprocess.Popen(
        command("serve", "--port", 0),
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = (re.match(r"API +(\S+)/v1\n", line) for line in popen.stdout)
        yield next(line[1] for line in lines if line)
    finally:
        popen.terminate()
        popen.communicate(timeout=30)
    assert popen.returncode == 0


def test_every_check_of_an_openai_server_passes(url):
    found = said("check-server", url)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "✗" not in found.stdout
    passed, asked = re.search(r"(\d+) of (\d+) checks passed", found.stdout).groups()
    assert passed == asked
    assert int(asked) > 15


def test_the_server_says_what_chat_says(url, folder):
    chat = said("chat", "--prompt", QUESTION, at=folder)
    assert chat.returncode == 0, chat.stderr
    body = {
        "model": "head",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 512,
    }
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=TIMEOUT_SECONDS)
    (choice,) = reply.json()["choices"]
    assert choice["message"]["content"].strip() == chat.stdout.strip()
    assert "Paris" in choice["message"]["content"]
