"""A real server of a tiny store, in a thread, and a client to ask it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from helpers.raw_http import run_server
from mlx_tune.serving.app import ServeRequest, prepare
from mlx_tune.serving.engine import Engine

TIMEOUT_SECONDS = 60.0


@dataclass
class Server:
    """A server that runs, and its client, which has the token."""

    client: httpx.Client
    engine: Engine
    store: Path
    port: int
    said: list[str] = field(default_factory=list)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def ask(self, question: str, model: str = "head", **fields: Any) -> httpx.Response:
        """A chat of one question."""
        turns = [{"role": "user", "content": question}]
        return self.post("/v1/chat/completions", model=model, messages=turns, **fields)

    def answer(self, question: str, model: str = "head", **fields: Any) -> str:
        return ok_json(self.ask(question, model, **fields))["choices"][0]["message"]["content"]

    def complete(self, prompt: Any, model: str = "head", **fields: Any) -> dict[str, Any]:
        """The reply to a text to go on with."""
        return ok_json(self.post("/v1/completions", model=model, prompt=prompt, **fields))

    def text(self, prompt: Any, model: str = "head", **fields: Any) -> str:
        return self.complete(prompt, model, **fields)["choices"][0]["text"]

    @property
    def loaded(self) -> list[str]:
        """The models in memory, the longest unused first."""
        return [one.model.name for one in self.engine._models.all()]

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The chunks of a stream that ends as it should."""
        reply = self.post(path, stream=True, **body)
        assert reply.status_code == 200, reply.text
        *chunks, last = events(reply.text)
        assert last == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]


def ok_json(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return reply.json()


def error_json(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refusal in OpenAI's shape."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error


def events(stream: str) -> list[str]:
    """The data of a stream's events; pings are comments."""
    lines = [line for line in stream.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    return [line.removeprefix("data: ") for line in lines]


@contextmanager
def serve_store(store: Path, **options: Any) -> Iterator[Server]:
    """Serve a store until the block ends; then its threads have ended too."""
    settings = {"most_loaded": 3, "most_waiting": 64, "prefix_bytes": 1 << 20, "base": None}
    said: list[str] = []
    request = ServeRequest(
        store=store, host="127.0.0.1", port=0, token=None,
        allow_hosts=(), allow_origins=(), **{**settings, **options},
    )  # fmt: skip
    ready = prepare(request, say=said.append)
    ready.start(say=said.append)
    with run_server(ready.app, on_stop=ready.engine.stop) as listening:
        headers = {"authorization": f"Bearer {ready.policy.token}"}
        url = f"http://127.0.0.1:{listening.port}"
        with httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False
        ) as client:
            yield Server(
                client=client, engine=ready.engine, store=store, port=listening.port, said=said
            )
    assert ready.engine.join(TIMEOUT_SECONDS)


def copy_store(store: Path, to: Path) -> Path:
    """A store of its own, for what moves HEAD or damages a session."""
    return Path(shutil.copytree(store, to, symlinks=True))
