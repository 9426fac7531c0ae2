"""One thread that owns MLX from load to free, and makes all answers side by side."""

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from mlx_tune.errors import MlxTuneError
from mlx_tune.inference import prompt_logprobs, token_logprobs
from mlx_tune.serving.job import Ask, Failure, Job, Piece, Step
from mlx_tune.serving.models import Models, Served
from mlx_tune.serving.shelf import Choice

STALL_SECONDS = 30.0
"""A step takes less, also on a slow machine; a load may take longer and says that it is one."""

STOPPING = "the server is stopping"
_IDLE_SECONDS = 1.0
_Command = Callable[[], object]


class BusyError(Exception):
    """So many requests wait already that another is turned away."""


class DownError(Exception):
    """Nothing is answered any more: the engine is stopping, or has ended."""


@dataclass(kw_only=True)
class Counts:
    """What the engine did since it started.

    Attributes:
        prompt_tokens: Tokens of prompts.
        generated_tokens: Tokens of answers.
        saved_tokens: Tokens of prompts that were known and not read again.
        finished: Answers, by how they ended.
        faults: Times a model's answers failed all at once.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    saved_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    faults: int = 0


class Engine:
    """Takes jobs from any thread and carries them out on its own.

    Attributes:
        counts: What was done.
        most_waiting: Jobs that are not finished, at most.
    """

    def __init__(self, make_models: Callable[[], Models], *, most_waiting: int = 64) -> None:
        """Stand ready; :meth:`start` begins.

        Args:
            make_models: Called on the engine's thread, where everything of MLX has to happen.
            most_waiting: Jobs that are not finished, at most.
        """
        self.counts = Counts()
        self._make_models, self.most_waiting = make_models, most_waiting
        self._commands: queue.Queue[_Command] = queue.Queue()
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._beat, self._doing = time.monotonic(), "starting"
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin the end, from any thread, waiting for nothing: what is not finished fails now."""
        self._fail_all(STOPPING)
        self._commands.put(lambda: None)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end, and say whether it came; a load or a long step is not interrupted."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def submit(self, *jobs: Job) -> None:
        """Queue jobs, all or none.

        Raises:
            BusyError: Too many wait.
            DownError: Nothing is answered any more.
        """
        with self._lock:
            if self._stopping:
                raise DownError
            if len(self._jobs) + len(jobs) > self.most_waiting:
                raise BusyError
            self._jobs.update(jobs)
        for job in jobs:
            self._commands.put(partial(self._begin, job))

    def cancel(self, job: Job) -> None:
        """Stop a job whose client has left; its place is free within a step."""
        job.is_cancelled = True
        self._commands.put(lambda: None)

    def load(self, choice: Choice, done: Callable[[Failure | None], object]) -> None:
        """Bring a model into memory, and say so."""

        def carry_out() -> None:
            try:
                self._get(choice)
            except Exception as error:  # one session's fault must not end the others' answers
                done(_failure(error))
            else:
                done(None)

        self._commands.put(carry_out)

    def unload(self, choice: Choice, done: Callable[[bool], object]) -> None:
        """Let go of a model that answers nobody, and say whether there was one."""
        self._commands.put(lambda: done(self._models.drop(choice)))

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
        """Take what was asked meanwhile, then let every model's answers grow by a token."""
        busy = any(served.answers for served in self._models.all())
        self._now("answering" if busy else "waiting")
        try:
            self._commands.get(timeout=0 if busy else _IDLE_SECONDS)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            pass
        for served in self._models.all():
            self._drop_cancelled(served)
            if served.answers:
                self._now("answering")
                self._guarded(served)
        self._models.tidy()

    def _now(self, doing: str) -> None:
        self._beat, self._doing = time.monotonic(), doing

    def _begin(self, job: Job) -> None:
        if job.is_cancelled:
            self._finish(job, None)
            return
        try:
            served = self._get(job.ask.choice)
            self.counts.prompt_tokens += len(job.ask.prompt)
            if job.ask.echo is not None:
                job.deliver(self._echo(job.ask, job.ask.echo, served))
            if job.ask.max_tokens == 0:
                self._finish(job, Piece(text="", tokens=0, finish="length"))
                return
            self.counts.saved_tokens += served.begin(job, self._models.token_bytes)
        except Exception as error:  # one request's fault must not end the others'
            self._finish(job, _failure(error))

    def _get(self, choice: Choice) -> Served:
        self._now("loading")
        return self._models.get(choice)

    def _echo(self, ask: Ask, text: str, served: Served) -> Piece:
        """Return the prompt as the answer's beginning, scored where that is asked for."""
        if ask.alternatives is None:
            return Piece(text=text, tokens=0)
        token_bytes = self._models.token_bytes
        certain = mx.zeros((ask.prompt[0] + 1,))
        chosen, _ = token_logprobs(certain, ask.prompt[0], 0, token_bytes, first=True)
        steps = [Step(chosen=chosen, is_first=True)]
        rest = zip(ask.prompt[1:], prompt_logprobs(served.model, ask.prompt), strict=True)
        for token, logprobs in rest:
            chosen, others = token_logprobs(logprobs, token, ask.alternatives, token_bytes)
            steps.append(Step(chosen=chosen, others=tuple(others)))
        return Piece(text=text, tokens=0, steps=tuple(steps))

    def _drop_cancelled(self, served: Served) -> None:
        left = [n for n, answer in served.answers.items() if answer.job.is_cancelled]
        for number in left:
            self._finish(served.answers[number].job, None)
        if left:
            served.end(left)

    def _guarded(self, served: Served) -> None:
        """Step a model; where that fails, its answers fail and it gets a new batcher."""
        try:
            self._step(served)
        except Exception as error:
            self.counts.faults += 1
            for answer in list(served.answers.values()):
                self._finish(answer.job, _failure(error))
            self._models.restart(served)

    def _step(self, served: Served) -> None:
        for token in served.batcher.step():
            answer = served.answers.get(token.uid)
            if answer is None:
                continue
            self.counts.generated_tokens += 1
            event = answer.add(token)
            if isinstance(event, Failure) or (event and event.finish):
                served.end([token.uid])
                self._finish(answer.job, event)
            elif event:
                answer.job.deliver(event)

    def _finish(self, job: Job, last: Piece | Failure | None) -> None:
        """Deliver the last of a job; None where nobody waits for it."""
        with self._lock:
            if job not in self._jobs:
                return  # it was told already that all ends
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
        """Take no more jobs, and fail those there are."""
        with self._lock:
            self._stopping = True
            jobs = list(self._jobs)
        for job in jobs:
            self._finish(job, Failure(message=why, status=503, code="stopping"))


def _failure(error: Exception) -> Failure:
    if isinstance(error, MlxTuneError):
        return Failure(message=str(error))
    said = " ".join(str(error).split())[:200]
    return Failure(message=f"the engine failed: {type(error).__name__}: {said}")
