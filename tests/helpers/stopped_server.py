"""A server in a process of its own, to be sent signals; told what it streams, and its grace.

It prints its port, then, when it is told to stop, "stopping", then "returned".
"""

import asyncio
import sys

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_tune.serving.guard import AccessMiddleware, AccessPolicy
from mlx_tune.serving.transport import Limits, serve

HOW, GRACE_SECONDS = sys.argv[1], float(sys.argv[2])
stop = asyncio.Event()


def say(*words):
    print(*words, flush=True)


async def pieces(event):
    """Tokens until the server stops, then the reason; a stream that does not listen goes on."""
    while not stop.is_set() or HOW == "deaf":
        yield event("token")
        await asyncio.sleep(0.01)
    yield event("error")


async def stream(request):
    if HOW == "sse":
        from sse_starlette import EventSourceResponse

        return EventSourceResponse(pieces(lambda data: {"data": data}))
    return StreamingResponse(pieces(lambda data: f"data: {data}\n\n"))


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def large(request):
    return Response(b"x" * 50_000_000)


def on_stop():
    say("stopping")
    stop.set()
    if HOW == "faulty":
        raise RuntimeError("on_stop is broken")


app = Starlette(
    routes=[
        Route("/stream", stream),
        Route("/large", large),
        Route("/echo", echo, methods=["POST"]),
    ]
)
serve(
    AccessMiddleware(app, AccessPolicy(token="s3cret")),
    host="127.0.0.1",
    port=0,
    started=lambda host, port: say(port),
    on_stop=on_stop,
    limits=Limits(grace_seconds=GRACE_SECONDS),
)
say("returned")
