"""Which names and which pages a request may come through: Host, Origin, and CORS for a few.

Source:
    RFC 9110, 7.2 (Host); RFC 6454 (Origin); Fetch Standard, 3.2 (CORS protocol).
"""

import re

from starlette.datastructures import Headers
from starlette.types import Scope, Send

from mlx_tune.serving.policy import Policy
from mlx_tune.serving.refusal import Fields, Refusal

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?")
_FIELD_NAMES = re.compile(r"[\w, -]{1,1000}", re.ASCII)


def refuse_target(scope: Scope, headers: Headers, policy: Policy) -> Refusal | None:
    """Refuse a target that is not a plain path: another server's URL, ``..``, or a NUL."""
    path: str = scope["path"]
    if path.startswith("/") and ".." not in path.split("/") and path.isprintable():
        return None
    return Refusal(
        status=400, code="bad_target", message="the request's target is not a path of this server"
    )


def refuse_host(scope: Scope, headers: Headers, policy: Policy) -> Refusal | None:
    """Refuse a Host that is not one of the server's names."""
    found = headers.getlist("host")
    known = _HOST.fullmatch(found[0].lower()) if len(found) == 1 else None
    if known and known["name"] in policy.hosts:
        return None
    name = known["name"] if known else ", ".join(found)
    return Refusal(
        status=403,
        code="host_not_allowed",
        message=f'the Host field says "{name[:80]}", which is no name of this server; if it should '
        "be one, start the server with --allow-host and that name",
    )


def refuse_origin(scope: Scope, headers: Headers, policy: Policy) -> Refusal | None:
    """Refuse what a page of another origin sent, whatever the method.

    A browser would keep the answer from that page, but the work would have been done.
    """
    found = headers.getlist("origin")
    if not found or _is_own(scope, headers) or _is_named(headers, policy):
        return None
    return Refusal(
        status=403,
        code="origin_not_allowed",
        message=f'the page at "{", ".join(found)[:80]}" may not ask this server; if it should, '
        "start the server with --allow-origin and that origin",
    )


def is_preflight(scope: Scope, headers: Headers) -> bool:
    """Return whether a browser asks, for a page, whether that page may ask."""
    return (
        scope["method"] == "OPTIONS"
        and "origin" in headers
        and "access-control-request-method" in headers
    )


async def answer_preflight(headers: Headers, send: Send) -> None:
    """Say what a page may send; a page that was not named has been refused already.

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


def cors_fields(headers: Headers, policy: Policy) -> Fields:
    """Return the header fields that let a named origin read the reply; none for all others."""
    if not policy.origins:
        return ()
    vary = ((b"vary", b"Origin"),)
    if not _is_named(headers, policy):
        return vary
    origin = headers["origin"].encode("latin-1")
    return (
        *vary,
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"retry-after"),
    )


def _is_own(scope: Scope, headers: Headers) -> bool:
    """Compare with the Host field, which has been found to be one of ours."""
    own = f"{scope['scheme']}://{headers.get('host', '')}".lower()
    return [origin.lower() for origin in headers.getlist("origin")] == [own]


def _is_named(headers: Headers, policy: Policy) -> bool:
    found = headers.getlist("origin")
    return len(found) == 1 and found[0] in policy.origins
