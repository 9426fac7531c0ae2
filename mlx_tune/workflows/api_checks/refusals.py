"""Requests that a server must refuse, with the right status and an error in OpenAI's shape."""

from typing import Any

from mlx_tune.workflows.api_checks.client import Reply
from mlx_tune.workflows.api_checks.server import CHAT, Check, Server
from mlx_tune.workflows.api_checks.shapes import check_error, need


def refused(reply: Reply, status: int) -> None:
    """Check that a reply is a refusal with this status.

    Raises:
        Wrong: It is another, or its error has another shape than OpenAI's.
    """
    need(reply.status == status, f"{reply.status}, not {status}: {reply.shown}")
    check_error(reply.json())


def _refuses(name: str, status: int, **fields: Any) -> Check:
    def run(server: Server) -> None:
        refused(server.client.post(CHAT, server.chat_request(**fields)), status)

    return Check(f"errors: {name} gets {status}", run)


def _refuses_no_json(server: Server) -> None:
    refused(server.client.post(CHAT, b'{"model": "x", "messages": ['), 400)


CHECKS = (
    _refuses("an unknown model", 404, model="no-such-model-here"),
    _refuses("text where a list belongs", 400, messages="Hello"),
    _refuses("text where a number belongs", 400, max_tokens="many"),
    _refuses("an unknown field", 400, no_such_field=1),
    _refuses("a conversation without messages", 400, messages=[]),
    Check("errors: a body that is no JSON gets 400", _refuses_no_json),
)
