"""Who may ask the server for what: names, origins, the token, and how large a body may be.

The middleware stands before any ASGI application: what it refuses never reaches a route. It is
plain ASGI, because wrappers that run the application in a task of their own hold streams back and
hide that a client has disconnected.

Source:
    RFC 9110, 7.2 (Host); RFC 6454 (Origin); Fetch Standard, 3.2 (CORS protocol);
    RFC 6750, 2.1 and 3 (bearer tokens).
"""

import contextlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_tune.errors import UsageError
from mlx_tune.files import strict_json
from mlx_tune.serving.errors import NO_STORE, SECURITY_FIELDS, ApiError, Fields, internal_error

MAX_BODY_BYTES = 1024**2
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PARSED_BODY = "mlx_tune.json"
"""The key of an ASGI scope under which the body's JSON value is handed to the application."""

_CHANGES = ("/api/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_HOST_FIELD = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@:\s]+|\[[0-9a-f:.]+\])(:\d+)?"
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_FIELD_NAMES = re.compile(r"[\w, -]{1,1000}", re.ASCII)
_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Who may use the server; ``for_host`` makes one from the command's options.

    Attributes:
        token: What ``Authorization: Bearer`` must carry.
        token_for_all: Ask for it everywhere but for the page's files and ``/health``; else only
            where something is changed, under ``/api/``.
        hosts: Names that a Host field may carry, in lower case, IPv6 in brackets. Ports are not
            compared: a page that has had its own name point here (DNS rebinding) cannot have the
            browser send another name, and behind a forwarded port a person's is another one.
        origins: Origins of other pages that may ask and read, as browsers write them.
        body_bytes: The largest body that is read.
    """

    token: str = field(repr=False)
    token_for_all: bool = False
    hosts: frozenset[str] = frozenset(LOCAL_HOSTS)
    origins: frozenset[str] = frozenset()
    body_bytes: int = MAX_BODY_BYTES

    @classmethod
    def for_host(
        cls,
        host: str,
        *,
        token: str | None = None,
        allow_hosts: Sequence[str] = (),
        allow_origins: Sequence[str] = (),
    ) -> "AccessPolicy":
        """Return the policy of a server that listens on ``host``.

        The token is asked for everywhere if the host is not this machine's own, or if a token or
        ``allow_hosts`` is given.

        Args:
            host: The address or name it listens on.
            token: The person's own; None draws one.
            allow_hosts: More names it answers to, without scheme or port.
            allow_origins: Origins of other pages, such as ``https://example.org``.

        Raises:
            UsageError: A name, an origin or the token is malformed.
        """
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise UsageError(
                "--token is empty or holds a blank or a character beyond ASCII, which no header "
                "field carries; use letters, digits and punctuation"
            )
        try:
            address = ipaddress.ip_address(host)
            is_local, is_any = address.is_loopback, address.is_unspecified
        except ValueError:
            is_local, is_any = host.lower() == "localhost", host == ""
        own = () if is_any else (host,)
        return cls(
            token=secrets.token_urlsafe(32) if token is None else token,
            # Another name means clients from elsewhere, perhaps through a proxy on this machine.
            token_for_all=token is not None or not is_local or bool(allow_hosts),
            hosts=frozenset([*LOCAL_HOSTS, *(_host(name) for name in (*own, *allow_hosts))]),
            origins=frozenset(_origin(origin) for origin in allow_origins),
        )


def _host(name: str) -> str:
    normal = name.lower()
    if ":" in normal and not normal.startswith("["):
        try:
            normal = f"[{ipaddress.IPv6Address(normal)}]"
        except ValueError:
            normal = ""
    if not _HOST.fullmatch(normal):
        raise UsageError(
            f'--allow-host "{name}" is not a host name; write the name alone, without scheme or '
            "port, such as model.local"
        )
    return normal


def _origin(origin: str) -> str:
    match = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
    if not match:
        everyone = " (any page a person opens would be trusted)" if origin == "*" else ""
        raise UsageError(
            f'--allow-origin "{origin}" is not an origin{everyone}; write scheme, name and port '
            "of one, such as https://example.org"
        )
    return match[0].removesuffix(_DEFAULT_PORTS.get(match["scheme"], "/"))


class AccessMiddleware:
    """Checks each request in one order: target, Host, Origin, token, body; then asks the app.

    The Origin is compared with the Host, so the Host comes first. A preflight carries no token.
    Every reply gets the security header fields, those of the refused included.
    """

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on the start and the end of the server."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        reply = _Reply(send, scope, _cors_fields(headers, self.policy))
        try:
            passed = await self._check(scope, headers, receive, reply)
        except ApiError as error:
            await error.answer(reply)
            return
        try:
            if passed:
                await self.app(*passed, reply)
        except Exception:
            if not reply.started:
                await internal_error().answer(reply)
            raise  # the server prints it

    async def _check(
        self, scope: Scope, headers: Headers, receive: Receive, reply: "_Reply"
    ) -> tuple[Scope, Receive] | None:
        """Return what the application is called with; None if it is not to be called."""
        _check_target(scope)
        _check_host(headers, self.policy)
        _check_origin(scope, headers, self.policy)
        if (
            scope["method"] == "OPTIONS"
            and "origin" in headers
            and "access-control-request-method" in headers
        ):
            await _answer_preflight(headers, reply)
            return None
        _check_token(scope, headers, self.policy)
        _check_declared_body(scope, headers, self.policy)
        if scope["method"] not in BODY_METHODS:
            return scope, receive
        body = await _read_body(receive, self.policy)
        if body is None:
            return None
        with contextlib.suppress(ValueError):  # the route reports errors of syntax
            scope = {**scope, PARSED_BODY: parse_body(body)}
        return scope, _replayed(body, receive)


class _Reply:
    """A ``send`` that puts the header fields of every reply in."""

    def __init__(self, send: Send, scope: Scope, cors: Fields) -> None:
        self.started = False
        self._send = send
        # A new version's page must not be mixed with the old one's files.
        cache = (b"cache-control", b"no-cache") if _is_page(scope) else NO_STORE
        self._fields = (cache, *SECURITY_FIELDS, *cors)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            names = {name for name, _ in self._fields}
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*others, *self._fields]}
        await self._send(message)


def _check_target(scope: Scope) -> None:
    """Refuse a target that is not a plain path: another server's URL, ``..``, or a NUL."""
    path: str = scope["path"]
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise ApiError("the request's target is not a path of this server", code="bad_target")


def _check_host(headers: Headers, policy: AccessPolicy) -> None:
    found = headers.getlist("host")
    match = _HOST_FIELD.fullmatch(found[0].lower()) if len(found) == 1 else None
    if match and match["name"] in policy.hosts:
        return
    name = match["name"] if match else ", ".join(found)
    raise ApiError(
        f'the Host field says "{name[:80]}", which is no name of this server; if it should '
        "be one, start the server with --allow-host and that name",
        status=403,
        code="host_not_allowed",
    )


def _check_origin(scope: Scope, headers: Headers, policy: AccessPolicy) -> None:
    """Refuse what a page of another origin sent, whatever the method.

    A browser would keep the answer from that page, but the work would have been done.
    """
    found = headers.getlist("origin")
    own = f"{scope['scheme']}://{headers.get('host', '')}".lower()
    is_own = [origin.lower() for origin in found] == [own]
    if found and not is_own and not _is_named(headers, policy):
        raise ApiError(
            f'the page at "{", ".join(found)[:80]}" may not ask this server; if it should, '
            "start the server with --allow-origin and that origin",
            status=403,
            code="origin_not_allowed",
        )


def _is_named(headers: Headers, policy: AccessPolicy) -> bool:
    found = headers.getlist("origin")
    return len(found) == 1 and found[0] in policy.origins


async def _answer_preflight(headers: Headers, send: Send) -> None:
    """Return what a page may send; a page that was not named has been refused already.

    Any header field may come: OpenAI's own client has a dozen, and none is acted upon.
    """
    wanted = headers.get("access-control-request-headers", "")
    more = f", {wanted}" if _FIELD_NAMES.fullmatch(wanted) else ""
    fields = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", f"authorization, content-type{more}".encode()),
        (b"access-control-allow-private-network", b"true"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": fields})
    await send({"type": "http.response.body", "body": b""})


def _cors_fields(headers: Headers, policy: AccessPolicy) -> Fields:
    """Return the header fields that let a named origin read the reply; none for all others."""
    fields: Fields = ((b"vary", b"Origin"),) if policy.origins else ()
    if _is_named(headers, policy):
        origin = headers["origin"].encode("latin-1")
        fields += ((b"access-control-allow-origin", origin),)
        fields += ((b"access-control-expose-headers", b"retry-after"),)
    return fields


def _check_token(scope: Scope, headers: Headers, policy: AccessPolicy) -> None:
    """Refuse a request without the token where it is asked for."""
    path: str = scope["path"]
    if path == "/health" or _is_page(scope):
        return  # a browser cannot send the token before it has the page that asks for it
    changes = scope["method"] not in SAFE_METHODS and path.startswith(_CHANGES)
    if not (policy.token_for_all or changes):
        return
    found = headers.getlist("authorization")
    scheme, _, given = (found[0] if len(found) == 1 else "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1"), policy.token.encode())
    if same and scheme.lower() == "bearer":
        return
    error = b', error="invalid_token"' if found else b""
    raise ApiError(
        f"the token is {'not the right one' if found else 'missing'}; send the one the "
        "server printed when it started, as Authorization: Bearer TOKEN",
        status=401,
        code="invalid_api_key",
        fields=((b"www-authenticate", b'Bearer realm="mlx-tune"' + error),),
    )


def _is_page(scope: Scope) -> bool:
    """Return whether this is a file of the page, which every server of this kind has."""
    path: str = scope["path"]
    return scope["method"] in SAFE_METHODS and (path == "/" or path.startswith("/page/"))


def _check_declared_body(scope: Scope, headers: Headers, policy: AccessPolicy) -> None:
    """Refuse a body by its header fields, before a byte of it is read.

    A form of another site can be sent without asking first, but never as JSON.
    """
    length, coded = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise ApiError("Content-Length is not a number of bytes", code="bad_length")
    if length is not None and coded is not None:
        message = "Content-Length and Transfer-Encoding exclude each other"
        raise ApiError(message, code="bad_length")
    if length is not None and int(length) > policy.body_bytes:
        raise _too_large(policy)
    if scope["method"] not in BODY_METHODS:
        return
    if length is None and coded is None:
        message = "the body's length is missing; send Content-Length"
        raise ApiError(message, status=411, code="length_required")
    if not _JSON.fullmatch(headers.get("content-type", "")) or "content-encoding" in headers:
        message = "the body must be plain JSON; send Content-Type: application/json"
        raise ApiError(message, status=415, code="not_json")


async def _read_body(receive: Receive, policy: AccessPolicy) -> bytes | None:
    """Return the whole body; None if the client disconnected while sending it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > policy.body_bytes:
            raise _too_large(policy)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(policy: AccessPolicy) -> ApiError:
    limit = f"the body is larger than {policy.body_bytes:,} bytes, which is the limit; send less"
    return ApiError(limit, status=413, code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body at once, and then what else the client does."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return first.pop() if first else await receive()

    return give


def parse_body(body: bytes) -> Any:
    """Return a body's JSON value.

    Raises:
        ApiError: It is not strict JSON.
        ValueError: It is blank; what reads the body says which fields are missing.
    """
    try:
        return strict_json.loads(body)
    except ValueError as error:
        if not body.strip():
            raise
        raise ApiError(f"the body is not valid JSON: {error}", code="bad_json") from error
