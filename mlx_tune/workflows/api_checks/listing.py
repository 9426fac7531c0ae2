"""What a server has: its list of models."""

from typing import Any

from mlx_tune.workflows.api_checks.client import Client
from mlx_tune.workflows.api_checks.server import succeeded
from mlx_tune.workflows.api_checks.shapes import need, pick

NAME = "models: lists at least one, each with a name of its own"
OURS = "mlx-tune"
"""Who owns the models of a server of ours."""


def models(client: Client) -> list[Any]:
    """Return the models that a server lists.

    Raises:
        Wrong: It lists none, or not as OpenAI does.
    """
    body = succeeded(client.get("/v1/models"))
    need(pick(body, "object", str) == "list", f'object is "{body["object"]}", not "list"')
    found = pick(body, "data", list)
    need(found, "no model is listed")
    for number in range(len(found)):
        pick(body, f"data.{number}.id", str)
        pick(body, f"data.{number}.created", int)
        pick(body, f"data.{number}.owned_by", str)
        called = pick(body, f"data.{number}.object", str)
        need(called == "model", f'data.{number}.object is "{called}", not "model"')
    names = [model["id"] for model in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    need(not twice, f"{', '.join(twice)} is listed twice")
    return list(found)
