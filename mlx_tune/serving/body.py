"""A request's body: declared as JSON, bounded, read whole before anything uses it."""

import json
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from mlx_tune.data.strict_json import MAX_DEPTH
from mlx_tune.serving.policy import Policy
from mlx_tune.serving.refusal import Refusal

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})

_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
# An escaped character; in the group, half of one whose other half is not beside it.
_ESCAPE = re.compile(
    rb"\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|(u[Dd][89A-Fa-f])|.)",
    re.DOTALL,
)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def refuse_declared(scope: Scope, headers: Headers, policy: Policy) -> Refusal | None:
    """Refuse, before a byte of it is read, a body that says it is not one that is read.

    A form of another site can be sent without asking first, but never as JSON.
    """
    length, coded = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        return _refusal(400, "bad_length", "Content-Length is not a number of bytes")
    if length is not None and coded is not None:
        return _refusal(
            400, "bad_length", "Content-Length and Transfer-Encoding exclude each other"
        )
    if length is not None and int(length) > policy.body_bytes:
        return _too_large(policy)
    if scope["method"] not in BODY_METHODS:
        return None
    if length is None and coded is None:
        return _refusal(411, "length_required", "the body's length is missing; send Content-Length")
    if not _JSON.fullmatch(headers.get("content-type", "")) or "content-encoding" in headers:
        return _refusal(
            415, "not_json", "the body must be plain JSON; send Content-Type: application/json"
        )
    return None


async def read(receive: Receive, policy: Policy) -> bytes | Refusal | None:
    """Return the whole body, or why it is refused; None if the client left while sending it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > policy.body_bytes:
            return _too_large(policy)
        if not message.get("more_body", False):
            return refuse_content(bytes(body)) or bytes(body)


def refuse_content(body: bytes) -> Refusal | None:
    """Refuse what a parser would take and mean something else by, or fail over.

    Bytes and escapes that are no characters; JSON too deep for a parser's stack; a key that stands
    twice, of which a parser takes the last and says nothing.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{body[error.start]:02x} at offset {error.start}"
        return _refusal(400, "bad_json", f"the body is not UTF-8: {byte}")
    half = next((found for found in _ESCAPE.finditer(body) if found[1]), None)
    if half is not None:  # Python would take it, and whatever writes UTF-8 would fail over it
        where = f"at offset {half.start()}, a surrogate without its pair"
        return _refusal(400, "bad_json", f"the body holds half a character {where}")
    if is_deep(body, MAX_DEPTH):
        return _refusal(
            400,
            "bad_json",
            f"the body is nested more than {MAX_DEPTH} deep, or its brackets do not match",
        )
    try:
        json.loads(body, object_pairs_hook=_unique)
    except _TwiceError as error:
        key = json.dumps(str(error), ensure_ascii=False)
        return _refusal(400, "bad_json", f"the key {key} stands twice in one object; send it once")
    except ValueError:  # what reads the body says what is wrong, in the words of the request
        return None
    return None


class _TwiceError(Exception):
    """A key that an object holds twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def is_deep(text: bytes, limit: int) -> bool:
    """Return whether the brackets outside of strings nest deeper than ``limit``, or do not match.

    Each pass takes away the innermost level, so the cost is ``limit`` replacements at most.
    """
    left = _STRING.sub(b"", text).translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(limit):
        if not left:
            break
        left = left.replace(b"[]", b"")
    return bool(left)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body at once, and then what else the client does."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return first.pop() if first else await receive()

    return give


def _too_large(policy: Policy) -> Refusal:
    limit = f"the body is larger than {policy.body_bytes:,} bytes, which is the limit; send less"
    return _refusal(413, "body_too_large", limit)


def _refusal(status: int, code: str, message: str) -> Refusal:
    return Refusal(status=status, code=code, message=message)
