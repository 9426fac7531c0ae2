"""Asks a server everything an OpenAI-compatible one must do, and says what it does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlx_tune.models.bases import Say
from mlx_tune.workflows.api_checks import chat, completions, listing, ours, refusals
from mlx_tune.workflows.api_checks.client import Client
from mlx_tune.workflows.api_checks.server import Check, Server
from mlx_tune.workflows.api_checks.shapes import Wrong

OPENAI = (*chat.CHECKS, *completions.CHECKS, *refusals.CHECKS)
"""What every OpenAI-compatible server does, once its models are known."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one check came out.

    Attributes:
        name: What the server should do.
        reason: What it did instead; None if it does it.
    """

    name: str
    reason: str | None

    @property
    def passed(self) -> bool:
        """Whether the server does it."""
        return self.reason is None


def check_server(
    client: Client, *, model: str | None, expect_ours: bool, say: Say
) -> Iterator[Outcome]:
    """Yield the outcome of each check, one after the other.

    Args:
        client: Reaches the server.
        model: The model to ask; None for the first that is listed.
        expect_ours: Check what `mlx-tune serve` promises even if the models are not said to be its.
        say: Told, in a line, what is asked, and what is left out.

    Raises:
        NetworkError: Nobody is there; nothing was yielded.
    """
    client.reach()
    listed: list[Any] = []
    try:
        listed = listing.models(client)
        yield Outcome(name=listing.NAME, reason=None)
    except Wrong as wrong:
        yield Outcome(name=listing.NAME, reason=str(wrong))
    if model is None and not listed:
        say("note: without a model nothing more can be asked; name one with --model")
        return
    server = Server(client, model if model is not None else listed[0]["id"])
    say(f"asking the model {server.model}…")
    is_ours = any(one["owned_by"] == listing.OURS for one in listed)
    for check in (*OPENAI, *(ours.CHECKS if is_ours or expect_ours else ())):
        yield _outcome(check, server)
    if not (is_ours or expect_ours):
        say("note: what mlx-tune serve alone promises was left out; --ours checks it too")


def _outcome(check: Check, server: Server) -> Outcome:
    try:
        check.run(server)
    except Wrong as wrong:
        return Outcome(name=check.name, reason=str(wrong))
    return Outcome(name=check.name, reason=None)
