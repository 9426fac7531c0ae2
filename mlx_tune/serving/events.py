"""From the engine's thread to the event loop: what jobs say, as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from mlx_tune.serving.engine import Engine
from mlx_tune.serving.job import Ask, Event, Failure, Job, Piece


class JobFailedError(Exception):
    """A job ended without an answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


async def events(engine: Engine, asks: Sequence[Ask]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Yield every piece of several answers with the answer's number, until all are whole.

    However the iteration ends, nothing goes on in the engine.

    Raises:
        BusyError: The engine takes no more.
        DownError: It answers nothing any more.
        JobFailedError: An answer failed; the others are given up.
    """
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def deliver(number: int, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
            loop.call_soon_threadsafe(heard.put_nowait, (number, event))

    jobs = [Job(ask=ask, deliver=partial(deliver, number)) for number, ask in enumerate(asks)]
    engine.submit(*jobs)
    left = len(jobs)
    try:
        while left:
            number, event = await heard.get()
            if isinstance(event, Failure):
                raise JobFailedError(event)
            left -= event.finish is not None
            yield number, event
    finally:
        if left:
            for job in jobs:
                engine.cancel(job)
