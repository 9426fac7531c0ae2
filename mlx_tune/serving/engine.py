"""One thread that owns MLX from load to free, and generates all answers side by side."""

import asyncio
import contextlib
import gc
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import mlx.core as mx
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlx_tune.errors import MlxTuneError
from mlx_tune.inference import prompt_logprobs, token_logprobs
from mlx_tune.serving.errors import ApiError, internal_error
from mlx_tune.serving.jobs import Event, GenerationJob, GenerationRequest, TextDelta, TokenStep
from mlx_tune.serving.models import LoadedModel, ModelCache
from mlx_tune.serving.registry import RegisteredModel
from mlx_tune.text import one_line

STALL_SECONDS = 30.0
"""A step takes less, also on a slow machine; a load may take longer and is not counted."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STOPPING = "the server is stopping"
_IDLE_SECONDS = 1.0
_LOOK_SECONDS = 0.2
T = TypeVar("T")


@dataclass(kw_only=True)
class Counts:
    """What the engine did since it started.

    Attributes:
        saved_tokens: Tokens of prompts whose keys and values were cached.
        finished: Answers, by how they ended.
        faults: Times a model's answers failed all at once.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    saved_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    faults: int = 0


class Engine:
    """Takes jobs from any thread and carries them out on its own; :meth:`start` begins.

    Args:
        make_models: Called on the engine's thread, where everything of MLX has to happen.
        most_waiting: Jobs that are not finished, at most.

    Attributes:
        counts: What was done.
    """

    def __init__(self, make_models: Callable[[], ModelCache], *, most_waiting: int = 64) -> None:
        self.counts = Counts()
        self._make_models, self.most_waiting = make_models, most_waiting
        self._commands: queue.Queue[Callable[[], object]] = queue.Queue()
        self._jobs: set[GenerationJob] = set()
        self._lock = threading.Lock()
        self._beat, self._doing = time.monotonic(), "starting"
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin to stop, from any thread, without waiting: unfinished jobs fail now."""
        self._fail_all(STOPPING)
        self._commands.put(lambda: None)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end, and return whether it did; no step is interrupted."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def submit(self, *jobs: GenerationJob) -> None:
        """Queue jobs, all or none.

        Raises:
            ApiError: Too many wait, 429; or nothing is answered any more, 503.
        """
        with self._lock:
            if self._stopping:
                raise self.unavailable()
            if len(self._jobs) + len(jobs) > self.most_waiting:
                message, again = "too many requests wait; try again", ((b"retry-after", b"1"),)
                raise ApiError(message, status=429, code="rate_limit_exceeded", fields=again)
            self._jobs.update(jobs)
        for job in jobs:
            self._commands.put(partial(self._begin, job))

    def cancel(self, job: GenerationJob) -> None:
        """Stop a job whose client has disconnected; its place is free within a step."""
        job.is_cancelled = True
        self._commands.put(lambda: None)

    def load(self, model: RegisteredModel) -> "Future[None]":
        """Bring a model into memory; the future fails with an ApiError."""

        def load() -> None:  # the future must not keep a model alive
            self._get(model)

        return self._call(load)

    def unload(self, model: RegisteredModel) -> "Future[bool]":
        """Free a model that generates nothing; the future's result is whether there was one."""
        return self._call(lambda: self._models.drop(model))

    def _call(self, function: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # one session's fault must not end the others' answers
                future.set_exception(_as_api_error(error))

        self._commands.put(call)
        return future

    @property
    def running(self) -> int:
        """How many jobs are not finished."""
        return len(self._jobs)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be answered; None when all is well."""
        if not self._thread.is_alive():
            return "the engine is not running"
        if self._stopping:
            return STOPPING
        silent = time.monotonic() - self._beat
        if self._doing == "answering" and silent > STALL_SECONDS:
            return f"the engine has not moved for {silent:.0f} seconds"
        return None

    def unavailable(self) -> ApiError:
        """Return the reply while nothing can be answered."""
        return ApiError(self.trouble or STOPPING, status=503, code="engine_down")

    def _run(self) -> None:
        try:
            self._models = self._make_models()
            while not self._stopping:
                self._turn()
        except Exception:
            logging.getLogger(__name__).exception("the engine ended")
        finally:
            self._end()

    def _turn(self) -> None:
        """Run the queued commands, then generate a token of every model's answers."""
        busy = any(loaded.answers for loaded in self._models.all())
        self._now("answering" if busy else "waiting")
        try:
            self._commands.get(timeout=0 if busy else _IDLE_SECONDS)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            pass
        for loaded in self._models.all():
            cancelled = [n for n, answer in loaded.answers.items() if answer.job.is_cancelled]
            for number in cancelled:
                self._finish(loaded.answers[number].job, None)
            loaded.end(cancelled)
            if loaded.answers:
                self._now("answering")
                self._step(loaded)
        self._models.tidy()

    def _now(self, doing: str) -> None:
        self._beat, self._doing = time.monotonic(), doing

    def _begin(self, job: GenerationJob) -> None:
        if job.is_cancelled:
            self._finish(job, None)
            return
        request = job.request
        try:
            loaded = self._get(request.model)
            self.counts.prompt_tokens += len(request.prompt)
            if request.echo is not None:
                job.deliver(self._echo(request, request.echo, loaded))
            if request.max_tokens == 0:
                self._finish(job, TextDelta(text="", tokens=0, finish="length"))
                return
            self.counts.saved_tokens += loaded.begin(job, self._models.token_bytes)
        except Exception as error:  # one request's fault must not end the others'
            self._finish(job, _as_api_error(error))

    def _get(self, model: RegisteredModel) -> LoadedModel:
        self._now("loading")
        try:
            return self._models.get(model)
        except MlxTuneError as error:
            if model.problem is None:
                raise
            # What such an error advises cannot work: the store is elsewhere, or another.
            message = f"{model.name} is not in memory: {model.problem}"
            raise ApiError(message, status=503, code="store_gone") from error

    def _echo(self, request: GenerationRequest, text: str, loaded: LoadedModel) -> TextDelta:
        """Return the prompt as the answer's beginning, with log-probabilities if requested."""
        if request.top_logprobs is None:
            return TextDelta(text=text, tokens=0)
        token_bytes, (first, *rest) = self._models.token_bytes, request.prompt
        chosen, _ = token_logprobs(mx.zeros((first + 1,)), first, 0, token_bytes, first=True)
        steps = [TokenStep(chosen=chosen, is_first=True)]
        logprobs = prompt_logprobs(loaded.network, request.prompt)
        for token, values in zip(rest, logprobs, strict=True):
            chosen, others = token_logprobs(values, token, request.top_logprobs, token_bytes)
            steps.append(TokenStep(chosen=chosen, others=tuple(others)))
        return TextDelta(text=text, tokens=0, steps=tuple(steps))

    def _step(self, loaded: LoadedModel) -> None:
        """Generate a token of a model's answers; an error fails them, and renews its batcher."""
        try:
            for token in loaded.batcher.step():
                answer = loaded.answers.get(token.uid)
                if answer is None:
                    continue
                self.counts.generated_tokens += 1
                event = answer.add(token)
                if isinstance(event, ApiError) or (event and event.finish):
                    loaded.end([token.uid])
                    self._finish(answer.job, event)
                elif event:
                    answer.job.deliver(event)
        except Exception as error:
            self.counts.faults += 1
            for answer in list(loaded.answers.values()):
                self._finish(answer.job, _as_api_error(error))
            self._models.restart(loaded)

    def _finish(self, job: GenerationJob, last: Event | None) -> None:
        """Deliver the last event of a job; None if its client has disconnected."""
        with self._lock:
            if job not in self._jobs:
                return  # it has failed already, because the engine stops
            self._jobs.discard(job)
        ended = "left" if last is None else getattr(last, "finish", None) or "failed"
        self.counts.finished[ended] = self.counts.finished.get(ended, 0) + 1
        if last is not None:
            job.deliver(last)

    def _end(self) -> None:
        self._fail_all("the engine ended")
        try:
            if hasattr(self, "_models"):
                self._models.clear()
                del self._models
            gc.collect()
            mx.synchronize()
        finally:
            mx.clear_streams()  # else the process ends with 134: the streams are the thread's own

    def _fail_all(self, why: str) -> None:
        """Accept no more jobs, and fail the unfinished ones."""
        with self._lock:
            self._stopping = True
            jobs = list(self._jobs)
        for job in jobs:
            self._finish(job, ApiError(why, status=503, code="stopping"))


class Metrics:
    """Reads the engine's own counts when it is scraped, and times first tokens, in seconds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()  # its own: one process may have two servers
        self._registry.register(self)
        self.first_token = Histogram(
            "mlx_tune_time_to_first_token_seconds",
            "From a request to the first piece of its answer.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what the engine counts; the registry calls it."""
        counts = self._engine.counts
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts.", counts.prompt_tokens),
            ("prefix_tokens", "Tokens of prompts known from before.", counts.saved_tokens),
            ("generated_tokens", "Tokens generated.", counts.generated_tokens),
            ("engine_faults", "Times a model's answers failed all at once.", counts.faults),
        ):
            yield CounterMetricFamily(f"mlx_tune_{name}", text, value)
        finished = CounterMetricFamily(
            "mlx_tune_answers", "Answers, by how they ended.", labels=["finish"]
        )
        for how, count in sorted(counts.finished.items()):
            finished.add_metric([how], count)
        yield finished
        yield GaugeMetricFamily(
            "mlx_tune_answers_running", "Answers that are not finished.", self._engine.running
        )
        healthy = self._engine.trouble is None
        yield GaugeMetricFamily("mlx_tune_engine_up", "1 while it answers.", float(healthy))


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MlxTuneError):
        return internal_error(str(error))
    reason = one_line(str(error), 200)
    return internal_error(f"the engine failed: {type(error).__name__}: {reason}")


async def result_of(engine: Engine, future: "Future[T]") -> T:
    """Return what the engine's thread answers to :meth:`Engine.load` or :meth:`Engine.unload`.

    Raises:
        ApiError: It failed, or the engine answers nothing any more.
    """
    answer = asyncio.wrap_future(future)
    while not answer.done():
        if engine.trouble is not None:
            raise engine.unavailable()
        await asyncio.wait({answer}, timeout=_LOOK_SECONDS)
    return answer.result()


async def generate(
    engine: Engine, requests: Sequence[GenerationRequest]
) -> AsyncGenerator[tuple[int, TextDelta]]:
    """Yield every delta of several answers with the answer's number, until all are finished.

    However the iteration ends, nothing goes on in the engine.

    Raises:
        ApiError: The engine takes no more, or an answer failed; the others are given up.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def deliver(number: int, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop was closed
            loop.call_soon_threadsafe(events.put_nowait, (number, event))

    jobs = [
        GenerationJob(request=request, deliver=partial(deliver, number))
        for number, request in enumerate(requests)
    ]
    engine.submit(*jobs)
    unfinished = len(jobs)
    try:
        while unfinished:
            number, event = await events.get()
            if isinstance(event, ApiError):
                raise event
            unfinished -= event.finish is not None
            yield number, event
    finally:
        if unfinished:
            for job in jobs:
                engine.cancel(job)
