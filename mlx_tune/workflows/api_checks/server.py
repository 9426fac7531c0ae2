"""The server as the checks see it: a model to ask, and the answer that others are compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_tune.workflows.api_checks.client import Client, Reply, parse
from mlx_tune.workflows.api_checks.shapes import Wrong, need

QUESTION = "Name three colours of the rainbow, and say a few words about each of them."
LIMIT_TOKENS = 24
"""How long an answer may get: enough to be cut somewhere, little enough for a slow machine."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True)
class Server:
    """A server and the model that is asked.

    Attributes:
        client: Reaches it.
        model: The model's name in its list.
    """

    client: Client
    model: str

    @cached_property
    def answer(self) -> Any:
        """The likeliest answer to the question, as the server gave it."""
        return self.chat()

    def chat(self, **fields: Any) -> Any:
        """Return what a chat request gets, which must be a success."""
        return succeeded(self.client.post(CHAT, self.chat_request(**fields)))

    def chat_stream(self, **fields: Any) -> list[Any]:
        """Return the chunks that a chat request gets when streamed."""
        return chunks(self.client.post(CHAT, self.chat_request(stream=True, **fields)))

    def complete(self, prompt: str | Sequence[int], **fields: Any) -> Any:
        """Return what a completion request gets, which must be a success."""
        return succeeded(self.client.post(COMPLETIONS, self._request(prompt=prompt, **fields)))

    def complete_stream(self, prompt: str, **fields: Any) -> list[Any]:
        """Return the chunks that a completion request gets when streamed."""
        request = self._request(prompt=prompt, stream=True, **fields)
        return chunks(self.client.post(COMPLETIONS, request))

    def chat_request(self, **fields: Any) -> dict[str, Any]:
        """Return a chat request that is right but for the fields given."""
        return self._request(**{"messages": [{"role": "user", "content": QUESTION}], **fields})

    def _request(self, **fields: Any) -> dict[str, Any]:
        usual = {"model": self.model, "temperature": 0, "max_tokens": LIMIT_TOKENS}
        return {**usual, **fields}


@dataclass(frozen=True)
class Check:
    """One thing that a server does.

    Attributes:
        name: What it does when all is well.
        run: Asks it; raises `Wrong` if not.
    """

    name: str
    run: Callable[[Server], None]


def succeeded(reply: Reply) -> Any:
    """Return a reply's JSON.

    Raises:
        Wrong: It is no success, or no JSON.
    """
    hint = "; name the server's token with --token" if reply.status == 401 else ""
    need(reply.status == 200, f"{reply.status}, not 200: {reply.shown}{hint}")
    return reply.json()


def chunks(reply: Reply) -> list[Any]:
    """Return the JSON of each event of a stream that ends with [DONE].

    Raises:
        Wrong: It is no success, no such stream, or tells of an error.
    """
    need(reply.status == 200, f"{reply.status}, not 200: {reply.shown}")
    events = reply.events()
    need(events[-1:] == ["[DONE]"], "the stream does not end with [DONE]")
    try:
        found = [parse(event) for event in events[:-1]]
    except ValueError as error:
        raise Wrong("an event of the stream is no JSON") from error
    for chunk in found:
        need(isinstance(chunk, dict), "an event of the stream is no object")
        need("error" not in chunk, f"the stream tells of an error: {str(chunk.get('error'))[:120]}")
    need(found, "the stream has no chunks")
    return found
