"""Requests through the official client of OpenAI's API, and readers of the raw replies to them.

The checks read what the server sent, because the client forgives what others do not: a missing
field, NaN, a stream that goes on after ``[DONE]``.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from types import NoneType
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import APIConnectionError, APIStatusError, OpenAI

from mlx_tune.errors import NetworkError, UsageError
from mlx_tune.files.strict_json import kind
from mlx_tune.text import one_line

QUESTION = "Name three colours of the rainbow, and say a few words about each of them."
LIMIT_TOKENS = 24
"""How long an answer may get: enough to be cut somewhere, little enough for a slow machine."""

MAX_REPLY_BYTES = 16 * 1024**2

_EXAMPLE = "write it as http://127.0.0.1:8321"
_LIMITS = {"temperature": 0, "max_tokens": LIMIT_TOKENS}
_NAMES: dict[Any, str] = {dict: "an object", float: "a fraction", int: "a whole number",
                          list: "a list", NoneType: "null", str: "text"}  # fmt: skip
# Left alone, the client sends any server what OPENAI_ORG_ID and OPENAI_CUSTOM_HEADERS say.
_SENT = {"accept", "connection", "content-length", "content-type", "host", "origin", "user-agent",
         "x-stainless-raw-response"}  # fmt: skip


class CheckFailed(Exception):  # noqa: N818 - the server is wrong, and the program goes on
    """A server does not do what it should; the message says what it did, in a line."""


def require(condition: object, otherwise: str) -> None:
    """Raise `CheckFailed` with a reason unless something holds."""
    if not condition:
        raise CheckFailed(otherwise)


def get_path(value: Any, path: str, *wanted: Any) -> Any:
    """Return what stands at a path of parsed JSON, such as ``choices.0.message.content``.

    Args:
        value: Parsed JSON.
        path: Keys and positions with dots between them.
        wanted: The types or the values it may have, exactly: True is neither ``int`` nor 1.

    Raises:
        CheckFailed: There is no such place, or what stands there is something else.
    """
    steps = path.split(".")
    for count, step in enumerate(steps, start=1):
        try:
            value = value[int(step) if isinstance(value, list) else step]
        except (LookupError, TypeError, ValueError) as error:
            raise CheckFailed(f"{'.'.join(steps[:count])} is missing") from error
    if not any(type(value) is one or (type(value) is type(one) and value == one) for one in wanted):
        quoted = [f'"{one}"' if type(one) is str else one for one in (value, *wanted)]
        found = quoted[0] if type(value) in map(type, wanted) else kind(value)
        names = [str(_NAMES.get(one, one)) for one in quoted[1:]]
        raise CheckFailed(f"{path} is {found}, not {' or '.join(names)}")
    return value


class _Transport(httpx2.HTTPTransport):
    """Opens a connection a request, bounds each reply, and sends only what a check asks for."""

    def __init__(self, token: str | None, timeout_seconds: float) -> None:
        super().__init__(limits=httpx2.Limits(max_keepalive_connections=0))
        self._token = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout_seconds = timeout_seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        kept = {name: value for name, value in request.headers.items() if name in _SENT}
        request.headers = httpx2.Headers({**kept, **self._token, "Accept-Encoding": "identity"})
        late, body = f"no whole answer within {self._timeout_seconds:g} s", b""
        try:
            with closing(super().handle_request(request)) as response:
                # The timeout is for each read; a server may send a little, for ever.
                deadline = time.monotonic() + self._timeout_seconds
                for piece in response.iter_raw():
                    body += piece
                    too_long = f"an answer of over {MAX_REPLY_BYTES:,} bytes"
                    require(len(body) <= MAX_REPLY_BYTES, too_long)
                    require(time.monotonic() <= deadline, late)
        except UnicodeError as error:  # a name that no DNS could hold
            raise httpx2.ConnectError(str(error)) from error
        except (httpx2.ReadTimeout, httpx2.WriteTimeout) as error:
            raise CheckFailed(late) from error
        response.headers.pop("Content-Encoding", None)  # none was accepted
        return httpx2.Response(response.status_code, headers=response.headers, content=body)


def connect(url: str, *, token: str | None = None, timeout_seconds: float = 120.0) -> OpenAI:
    """Return a client for an address, with or without the ``/v1`` that clients are given.

    Raises:
        UsageError: It is no address of a server, or the token cannot be sent.
    """
    try:
        parts = urlsplit(url)
        httpx2.URL(url, port=parts.port)  # each of the two refuses what the other lets pass
    except (ValueError, httpx2.InvalidURL) as error:
        raise UsageError(f"{url}: no address ({error}); {_EXAMPLE}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url}: not the address of a server; {_EXAMPLE}")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(f"{url}: only a host, a port and a path are understood; {_EXAMPLE}")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UsageError("--token: a token is of printable ASCII characters, without spaces")
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return OpenAI(
        base_url=f"{parts.scheme}://{parts.netloc}{prefix}/v1",
        api_key="not sent: the transport sends the token, if there is one",
        timeout=timeout_seconds,
        max_retries=0,
        http_client=httpx2.Client(transport=_Transport(token, timeout_seconds)),
    )


@dataclass(frozen=True)
class Server:
    """A server and the model to ask; its methods return raw replies, whatever their status."""

    client: OpenAI
    model: str

    @cached_property
    def answer(self) -> Any:
        """The likeliest answer to the question, which others are compared with."""
        return read_json(self.chat())

    def chat(self, **fields: Any) -> httpx2.Response:
        """Send a chat request that is right but for the fields given."""
        create = self.client.chat.completions.with_raw_response.create
        messages: Any = [{"role": "user", "content": QUESTION}]
        body = {**_LIMITS, **fields}
        return receive(lambda: create(model=self.model, messages=messages, extra_body=body))

    def post_chat(self, body: bytes) -> httpx2.Response:
        """Send bytes that should be a chat request."""
        headers: Any = {"headers": {"Content-Type": "application/json"}}
        post = partial(self.client.post, "/chat/completions", cast_to=httpx2.Response)
        return receive(lambda: post(content=body, options=headers))

    def complete(self, prompt: str | Sequence[int], **fields: Any) -> httpx2.Response:
        """Send a completion request."""
        create, body = self.client.completions.with_raw_response.create, {**_LIMITS, **fields}
        return receive(lambda: create(model=self.model, prompt=prompt, extra_body=body))

    def list_models(self, **headers: str) -> httpx2.Response:
        """Ask for the models."""
        return receive(lambda: self.client.models.with_raw_response.list(extra_headers=headers))

    def health(self) -> httpx2.Response:
        """Ask for ``/health``, which stands beside ``/v1``."""
        address = str(self.client.base_url.join("../health"))
        return receive(lambda: self.client.get(address, cast_to=httpx2.Response))


def receive(send: Callable[[], Any]) -> httpx2.Response:
    """Return the raw reply to a request of the client, whatever its status.

    Raises:
        CheckFailed: No whole reply came in time.
        NetworkError: There is no server at the address.
    """
    try:
        reply = send()
    except APIStatusError as error:
        return error.response
    except APIConnectionError as error:
        cause, url = error.__cause__, error.request.url
        reason = one_line(re.sub(r"^\[Errno -?\d+\] ", "", str(cause)), 120)
        if not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            raise CheckFailed(f"no whole answer ({type(cause).__name__}: {reason})") from error
        where = f"{url.scheme}://{url.netloc.decode()}"
        message = f"{where}: no connection ({reason}); is the server running there?"
        raise NetworkError(message) from error
    return reply if isinstance(reply, httpx2.Response) else reply.http_response


def read_body(reply: httpx2.Response, content_type: str, *, status: int = 200) -> bytes:
    """Return the body of a reply, which must have this status and this type."""
    code, given = reply.status_code, reply.headers.get("Content-Type", "none")
    hint = "; name the server's token with --token" if code == 401 else ""
    require(code == status, f"{code}, not {status}: {shown(reply)}{hint}")
    right = given.split(";")[0].strip().lower() == content_type
    require(right, f"{status} with the Content-Type {given}, not {content_type}")
    return reply.content


def read_json(reply: httpx2.Response, *, status: int = 200) -> Any:
    """Return the JSON of a reply, which must have this status."""
    body = read_body(reply, "application/json", status=status)
    return _parse(body, f"{status} with a body that is no JSON: {shown(reply)}")


def read_chunks(reply: httpx2.Response) -> list[Any]:
    """Return the JSON of each event of a stream, which must end with ``[DONE]``."""
    events = read_events(read_body(reply, "text/event-stream"))
    require(events[-1:] == ["[DONE]"], "the stream does not end with [DONE]")
    chunks = [_parse(event, "an event of the stream is no JSON") for event in events[:-1]]
    require(chunks, "the stream has no chunks")
    for chunk in chunks:
        require(isinstance(chunk, dict), "an event of the stream is no object")
        require("error" not in chunk, f"the stream tells of an error: {chunk.get('error')}"[:150])
    return chunks


def read_events(body: bytes) -> list[str]:
    """Return the data of each server-sent event of a body."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise CheckFailed(f"byte {error.start} of the stream is not UTF-8") from error
    # An event that no blank line ends is dropped; it shows when one is put there.
    events, ended = _events(body), _events(body + b"\n\n")
    require(events == ended, "the stream ends inside an event")
    return events


def _events(body: bytes) -> list[str]:
    request = httpx2.Request("POST", "http://server")  # EventSource needs one, and sends nothing
    headers = {"Content-Type": "text/event-stream"}
    reply = httpx2.Response(200, headers=headers, content=body, request=request)
    return [event.data for event in httpx2.EventSource(reply, max_event_size=None) if event.data]


def _parse(text: str | bytes, otherwise: str) -> Any:
    try:
        return json.loads(text, parse_constant=int)  # int refuses NaN and Infinity, as JSON does
    except (ValueError, RecursionError) as error:
        raise CheckFailed(otherwise) from error


def shown(reply: httpx2.Response) -> str:
    """Return the beginning of a reply's body, on one line."""
    return one_line(reply.content[:400].decode(errors="replace"), 120) or "nothing"
