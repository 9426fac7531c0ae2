"""Who may ask the server for what: names it answers to, origins it trusts, and the token."""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlx_tune.errors import UsageError

MAX_BODY_BYTES = 1024**2
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")

_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@:\s]+|\[[0-9a-f:.]+\])(:\d+)?"
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whom the server trusts; ``decide`` makes one from what a person asked for.

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


def decide(
    host: str,
    *,
    token: str | None = None,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
) -> Policy:
    """Return the policy of a server that listens on ``host``.

    Args:
        host: The address or name it listens on; one that is not this machine's own asks for the
            token everywhere.
        token: The person's own, which is then asked for everywhere; None draws one.
        allow_hosts: More names it answers to, without scheme or port; the token is then asked for
            everywhere too.
        allow_origins: Origins of other pages, such as ``https://example.org``.

    Raises:
        UsageError: A name, an origin or the token is not one.
    """
    own = () if is_wildcard(host) else (host,)
    return Policy(
        token=secrets.token_urlsafe(32) if token is None else _token(token),
        # Another name means that somebody comes from elsewhere, perhaps through a proxy here.
        token_for_all=token is not None or not is_loopback(host) or bool(allow_hosts),
        hosts=frozenset([*LOCAL_HOSTS, *(_host(name) for name in (*own, *allow_hosts))]),
        origins=frozenset(_origin(origin) for origin in allow_origins),
    )


def is_loopback(host: str) -> bool:
    """Return whether ``host`` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_wildcard(host: str) -> bool:
    """Return whether ``host`` stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            "--token is empty or holds a blank or a character beyond ASCII, which no header field "
            "carries; use letters, digits and punctuation"
        )
    return token


def _host(name: str) -> str:
    known = name.lower()
    if ":" in known and not known.startswith("["):
        try:
            known = f"[{ipaddress.IPv6Address(known)}]"
        except ValueError:
            known = ""
    if not _HOST.fullmatch(known):
        raise UsageError(
            f'--allow-host "{name}" is not a host name; write the name alone, without scheme or '
            "port, such as model.local"
        )
    return known


def _origin(origin: str) -> str:
    known = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
    if not known:
        everyone = " (any page a person opens would be trusted)" if origin == "*" else ""
        raise UsageError(
            f'--allow-origin "{origin}" is not an origin{everyone}; write scheme, name and port '
            "of one, such as https://example.org"
        )
    return known[0].removesuffix(_DEFAULT_PORTS.get(known["scheme"], "/"))
