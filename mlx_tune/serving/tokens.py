"""The bearer token: where it is asked for, and its comparison.

Source:
    RFC 6750, 2.1 and 3.
"""

import hmac

from starlette.datastructures import Headers
from starlette.types import Scope

from mlx_tune.serving.policy import Policy
from mlx_tune.serving.refusal import Refusal

_CHANGES = ("/api/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse_token(scope: Scope, headers: Headers, policy: Policy) -> Refusal | None:
    """Refuse a request without the token where it is asked for."""
    if not _is_asked(scope, policy) or _is_right(headers, policy):
        return None
    given = "authorization" in headers
    error = b', error="invalid_token"' if given else b""
    return Refusal(
        status=401,
        code="invalid_api_key",
        message=f"the token is {'not the right one' if given else 'missing'}; send the one the "
        "server printed when it started, as Authorization: Bearer TOKEN",
        fields=((b"www-authenticate", b'Bearer realm="mlx-tune"' + error),),
    )


def is_page(scope: Scope) -> bool:
    """Return whether this is a file of the page, which every server of this kind has."""
    path: str = scope["path"]
    return scope["method"] in SAFE_METHODS and (path == "/" or path.startswith("/page/"))


def _is_asked(scope: Scope, policy: Policy) -> bool:
    """A browser cannot send the token before it has the page that asks for it."""
    path: str = scope["path"]
    if path == "/health" or is_page(scope):
        return False
    changes = scope["method"] not in SAFE_METHODS and path.startswith(_CHANGES)
    return policy.token_for_all or changes


def _is_right(headers: Headers, policy: Policy) -> bool:
    found = headers.getlist("authorization")
    scheme, _, given = (found[0] if len(found) == 1 else "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1"), policy.token.encode())
    return same and scheme.lower() == "bearer"
