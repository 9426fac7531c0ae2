"""The engine under strain: full, abandoned, faulty, stalled, dead; and it goes on."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from helpers.live_server import error_json, events, ok_json, serve_store
from helpers.raw_http import connect, eventually, receive_all, request
from mlx_tune.inference import Batcher
from mlx_tune.serving import engine as engine_module
from mlx_tune.serving.models import ModelCache

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
ENDLESS = {"model": "base", "prompt": "Where", "max_tokens": 2000}  # the bare base says no end
LONG = {"model": "base", "messages": HELLO, "max_tokens": 2000}


@pytest.fixture
def slow_steps(monkeypatch):
    """A tiny model would be done with its answer before anybody could leave."""
    step, pause = Batcher.step, threading.Event()

    def slow(self):
        pause.wait(0.01)
        return step(self)

    monkeypatch.setattr(Batcher, "step", slow)
    yield
    pause.set()


@pytest.fixture
def held(monkeypatch):
    """An engine that waits at its next step, until it is let go."""
    step, free, waits = Batcher.step, threading.Event(), threading.Event()

    def holding(self):
        waits.set()
        assert free.wait(30)
        return step(self)

    monkeypatch.setattr(Batcher, "step", holding)
    yield SimpleNamespace(waits=waits, free=free)
    free.set()


def sent(server, path, **body):
    data = json.dumps(body).encode()
    fields = {"content_type": "application/json", "content_length": str(len(data))}
    return request("POST", path, data, **fields)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), [(CHAT, LONG), (TEXT, ENDLESS)])
def test_a_client_that_disconnects_frees_its_place(server, slow_steps, path, body, stream):
    counts = server.engine.counts
    left, generated = counts.finished.get("left", 0), counts.generated_tokens
    with connect(server.port, sent(server, path, **body, stream=stream)) as client:
        assert eventually(lambda: counts.generated_tokens > generated)
        if stream:
            receive_all(client, b"data:")
    assert eventually(lambda: server.engine.running == 0)  # it would have taken 20 seconds
    assert counts.finished["left"] == left + 1
    assert counts.generated_tokens - generated < 1000


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_its_first_token_gets_none(server, held, stream):
    counts = server.engine.counts
    left, generated = counts.finished.get("left", 0), counts.generated_tokens
    with connect(server.port, sent(server, TEXT, **ENDLESS, stream=stream)):
        assert held.waits.wait(10)
    jobs = server.engine._jobs
    assert eventually(lambda: all(job.is_cancelled for job in list(jobs)))
    held.free.set()
    assert eventually(lambda: server.engine.running == 0)
    assert counts.finished["left"] == left + 1
    assert counts.generated_tokens - generated <= 1


def test_one_of_several_answers_leaves_with_the_others(server, slow_steps):
    with connect(server.port, sent(server, TEXT, **ENDLESS, n=4, stream=True)) as client:
        receive_all(client, b"data:")
        assert server.engine.running == 4
    assert eventually(lambda: server.engine.running == 0)


def test_a_full_queue_is_429_and_says_when_to_come_back(own_store, held):
    with serve_store(own_store, most_waiting=2) as server, ThreadPoolExecutor(2) as clients:
        short = {"model": "base", "prompt": "Where", "max_tokens": 2}
        first = [clients.submit(server.post, TEXT, **short) for _ in range(2)]
        assert eventually(lambda: server.engine.running == 2)
        for stream in (False, True):
            for path, body in ((TEXT, short), (CHAT, {**LONG, "max_tokens": 2})):
                reply = server.post(path, **body, stream=stream)
                error = error_json(reply, 429)
                assert int(reply.headers["retry-after"]) >= 1
                assert error["code"] == "rate_limit_exceeded"
        error = error_json(server.post(TEXT, **short, n=3))  # 429 would have it come back for ever
        assert "3 answers" in error["message"]
        held.free.set()
        assert [one.result().status_code for one in first] == [200, 200]
        assert server.text("Where", "base", n=2, max_tokens=2)


@pytest.fixture
def faulty(monkeypatch):
    """Let the nth step fail, once."""
    step, left = Batcher.step, []

    def failing(self):
        if left:
            left[0] -= 1
            if left[0] == 0:
                left.clear()
                raise RuntimeError("[metal] out of\nmemory")
        return step(self)

    monkeypatch.setattr(Batcher, "step", failing)
    return left


def test_a_fault_fails_its_answers_and_the_next_works(server, faulty):
    wanted, faults = server.text("Where", max_tokens=5), server.engine.counts.faults
    for stream in (False, True):
        faulty.append(1)
        error = error_json(server.post(TEXT, **ENDLESS, stream=stream), 500)
        assert error["message"] == "the engine failed: RuntimeError: [metal] out of memory"
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert server.text("Where", max_tokens=5) == wanted
        assert server.text("Where", "base", max_tokens=5)
    assert server.engine.counts.faults == faults + 2
    assert server.client.get("/health").status_code == 200


def test_a_fault_in_the_middle_of_a_stream_is_its_last_event(server, faulty):
    faulty.append(5)
    *pieces, last = events(server.post(CHAT, **LONG, stream=True).text)
    assert pieces
    assert all("choices" in json.loads(piece) for piece in pieces)
    error = json.loads(last)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert server.answer("hello", max_tokens=2)


def test_a_fault_of_one_model_ends_no_other_models_answers(server, slow_steps, monkeypatch):
    wanted = server.text("Where", "base", max_tokens=30)
    server.text("Where", "cs", max_tokens=2)
    step = Batcher.step
    faulty = {one.batcher for one in server.engine._models.all() if "-cs-" in one.model.name}
    assert len(faulty) == 1

    def failing(self):
        if self in faulty:
            raise RuntimeError("a fault")
        return step(self)

    monkeypatch.setattr(Batcher, "step", failing)
    with ThreadPoolExecutor(2) as clients:
        generated = server.engine.counts.generated_tokens
        good = clients.submit(server.text, "Where", "base", max_tokens=30)
        assert eventually(lambda: server.engine.counts.generated_tokens > generated)
        error_json(server.post(TEXT, model="cs", prompt="Where"), 500)
        assert not good.done(), "it ended before the fault"
        assert good.result() == wanted
    assert server.text("Where", "cs", max_tokens=2)  # with a new batcher


def test_a_session_that_cannot_be_loaded_ends_no_other_models_answers(own_store, monkeypatch):
    load = ModelCache._load

    def failing(self, model):
        if model.name != "base":
            raise MemoryError("too large")
        return load(self, model)

    with serve_store(own_store) as server:
        monkeypatch.setattr(ModelCache, "_load", failing)
        assert "too large" in error_json(server.post(TEXT, model="cs", prompt="a"), 500)["message"]
        error_json(server.post("/v1/load_lora_adapter", lora_name="cs"), 500)
        assert server.text("Where", "base", max_tokens=2)
        assert server.client.get("/health").status_code == 200


def test_an_engine_that_stalls_is_unhealthy_until_it_moves(server, held, monkeypatch):
    with ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(server.text, "Where", "base", max_tokens=3)
        assert held.waits.wait(10)
        assert server.client.get("/health").json() == {"status": "ok"}
        real = engine_module.time.monotonic
        late = SimpleNamespace(monotonic=lambda: real() + engine_module.STALL_SECONDS + 1)
        monkeypatch.setattr(engine_module, "time", late)
        error = error_json(server.client.get("/health"), 503)
        assert "has not moved for 31 seconds" in error["message"]
        held.free.set()
        assert waiting.result()
    assert server.client.get("/health").status_code == 200


def test_an_engine_that_died_is_unhealthy_and_keeps_nobody_waiting(own_store, monkeypatch, caplog):
    with serve_store(own_store) as server:
        assert server.text("Where", "base", max_tokens=2)
        with monkeypatch.context() as patch, ThreadPoolExecutor(1) as clients:
            waiting = clients.submit(server.post, TEXT, **ENDLESS)
            assert eventually(lambda: server.engine.running)

            def broken(self):
                raise RuntimeError("all is lost")

            patch.setattr(ModelCache, "tidy", broken)
            assert error_json(waiting.result(), 503)["message"] == "the engine ended"
            assert eventually(lambda: error_json(server.client.get("/health"), 503))
        for stream in (False, True):
            error_json(server.post(TEXT, **ENDLESS, stream=stream), 503)
            error_json(server.post(CHAT, **LONG, stream=stream), 503)
        error_json(server.post("/v1/load_lora_adapter", lora_name="cs"), 503)
        error_json(server.post("/v1/unload_lora_adapter", lora_name="cs"), 503)
        assert "mlx_tune_engine_up 0.0" in server.client.get("/metrics").text
        assert ok_json(server.client.get("/v1/models"))["data"]
    assert "all is lost" in caplog.text


def test_what_runs_when_the_server_ends_is_told_so(own_store, slow_steps):
    with serve_store(own_store) as server, ThreadPoolExecutor(2) as clients:
        stream = clients.submit(server.post, TEXT, **ENDLESS, stream=True)
        whole = clients.submit(server.post, TEXT, **ENDLESS)
        assert eventually(lambda: server.engine.counts.generated_tokens > 5)
        server.engine.stop()
        assert error_json(whole.result(), 503)["message"] == "the server is stopping"
        *_, last = events(stream.result().text)
        assert json.loads(last)["error"]["code"] == "stopping"
        assert error_json(server.post(TEXT, **ENDLESS), 503)["message"]
