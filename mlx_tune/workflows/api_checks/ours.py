"""What `mlx-tune serve` promises beyond OpenAI's API: its health, and a door that is shut."""

from mlx_tune.workflows.api_checks.refusals import refused
from mlx_tune.workflows.api_checks.server import CHAT, Check, Server
from mlx_tune.workflows.api_checks.shapes import need

_LIMIT_BYTES = 1024**2
_FOREIGN = "evil.example"


def is_well(server: Server) -> None:
    """The path /health answers 200 while the engine works."""
    reply = server.client.get("/health")
    need(reply.status == 200, f"{reply.status}, not 200: {reply.shown}")


def refuses_large_bodies(server: Server) -> None:
    """A body over 1 MiB is refused."""
    messages = [{"role": "user", "content": "x" * _LIMIT_BYTES}]
    refused(server.client.post(CHAT, server.chat_request(messages=messages)), 413)


def refuses_foreign_hosts(server: Server) -> None:
    """A request under another name is refused: a page that rebinds DNS sends such."""
    refused(server.client.get("/v1/models", {"Host": _FOREIGN}), 403)


def tells_foreign_pages_nothing(server: Server) -> None:
    """No CORS header lets a foreign page read an answer."""
    reply = server.client.get("/v1/models", {"Origin": f"http://{_FOREIGN}"})
    allowed = reply.headers.get("access-control-allow-origin")
    need(allowed is None, f"Access-Control-Allow-Origin is {allowed} for http://{_FOREIGN}")


CHECKS = (
    Check("ours: /health answers", is_well),
    Check("ours: a body over 1 MiB gets 413", refuses_large_bodies),
    Check("ours: a foreign Host gets 403", refuses_foreign_hosts),
    Check("ours: a foreign page may read nothing", tells_foreign_pages_nothing),
)
