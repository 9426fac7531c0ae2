"""The guard before any ASGI application: what it refuses never reaches a route.

It is plain ASGI, because wrappers that run the application in a task of their own hold streams
back and hide that a client has left.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_tune.serving import body, origins, tokens
from mlx_tune.serving.policy import Policy
from mlx_tune.serving.refusal import ALWAYS, NO_STORE, Fields, Refusal

FAULT = Refusal(
    status=500, code="internal_error", message="a fault in the server; its terminal says which"
)


class Guard:
    """Checks each request in one order: target, Host, Origin, token, body; then asks the app.

    The Origin is compared with the Host, so the Host comes first. A preflight carries no token.
    Every reply gets the header fields of ``refusal.ALWAYS``, those of the refused included.
    """

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on the start and the end of the server."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            reply = _Reply(send, scope, origins.cors_fields(headers, self.policy))
            await self._answer(scope, headers, receive, reply)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(
        self, scope: Scope, headers: Headers, receive: Receive, reply: "_Reply"
    ) -> None:
        for refuse in (origins.refuse_target, origins.refuse_host, origins.refuse_origin):
            if refusal := refuse(scope, headers, self.policy):
                return await refusal.answer(reply)
        if origins.is_preflight(scope, headers):
            return await origins.answer_preflight(headers, reply)
        for refuse in (tokens.refuse_token, body.refuse_declared):
            if refusal := refuse(scope, headers, self.policy):
                return await refusal.answer(reply)
        if scope["method"] in body.BODY_METHODS:
            found = await body.read(receive, self.policy)
            if found is None:
                return None
            if isinstance(found, Refusal):
                return await found.answer(reply)
            receive = body.replayed(found, receive)
        return await self._ask(scope, receive, reply)

    async def _ask(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        try:
            await self.app(scope, receive, reply)
        except Exception:
            if not reply.started:
                await FAULT.answer(reply)
            raise  # the server prints it


class _Reply:
    """A ``send`` that puts the header fields of every reply in."""

    def __init__(self, send: Send, scope: Scope, cors: Fields) -> None:
        self.started = False
        self._send = send
        # A new version's page must not be mixed with the old one's files.
        self._kept = (b"cache-control", b"no-cache") if tokens.is_page(scope) else NO_STORE
        self._cors = cors

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            ours = (self._kept, *ALWAYS, *self._cors)
            names = {name for name, _ in ours}
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*others, *ours]}
        await self._send(message)
