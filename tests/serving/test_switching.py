"""Models come and go: HEAD moves under running streams, sessions are loaded, left, damaged."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from mlx.utils import tree_flatten

from helpers import tiny
from helpers.live_server import error_json, events, ok_json, serve_store
from helpers.raw_http import eventually
from mlx_tune.inference import Batcher
from mlx_tune.models import bases
from mlx_tune.models.load import load_tokenizer
from mlx_tune.serving import app
from mlx_tune.serving.models import ModelCache
from mlx_tune.serving.registry import RegisteredModel

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LONG = {"prompt": "Where is A?", "max_tokens": 300, "temperature": 1.5, "seed": 1}


@pytest.fixture
def own(own_store):
    """A server that a test may change."""
    with serve_store(own_store) as server:
        yield server


@pytest.fixture
def slow_steps(monkeypatch):
    step, pause = Batcher.step, SimpleNamespace(seconds=0.005)

    def slow(self):
        time.sleep(pause.seconds)
        return step(self)

    monkeypatch.setattr(Batcher, "step", slow)
    return pause


def cards(server):
    return ok_json(server.client.get("/v1/models"))["data"]


def models(server):
    """Weak references to the models in memory, by name."""
    return {one.model.name: weakref.ref(one.network) for one in server.engine._models.all()}


def test_head_every_session_and_the_base_are_listed_with_what_they_stand_on(server):
    listed = cards(server)
    assert [card["id"].split("-")[0] for card in listed] == ["head", "0002", "0002", "0001", "base"]
    head, *sessions, base = listed
    assert head["root"] in {card["id"] for card in sessions}
    assert "dining" in head["root"]
    assert [card["parent"] for card in listed] == ["base"] * 4 + [None]
    assert {card["max_model_len"] for card in listed} == {2048}
    assert {card["owned_by"] for card in listed} == {"mlx-tune"}
    for card in listed:
        assert ok_json(server.client.get(f"/v1/models/{card['id']}")) == card
    assert base["root"].endswith("tiny")


@pytest.mark.parametrize("to", ["rollback", "promote"])
def test_a_move_of_head_is_for_new_requests_and_a_running_stream_ends_as_it_began(
    own, slow_steps, to
):
    known = {name: own.text("Where is b", name, max_tokens=8) for name in ("cs", "housing")}
    before = own.text(**LONG)
    old = models(own)["head"]
    streams, posts = ThreadPoolExecutor(1), own.engine.counts
    generated = posts.generated_tokens
    running = streams.submit(own.stream, TEXT, model="head", **LONG)
    assert eventually(lambda: posts.generated_tokens > generated)
    if to == "rollback":
        moved, name = own.post("/api/rollback"), "cs"
    else:
        moved, name = own.post("/api/promote", session="housing"), "housing"
    assert name in ok_json(moved)["head"]
    assert own.text("Where is b", max_tokens=8) == known[name]
    assert name in ok_json(own.client.get("/v1/models/head"))["root"]
    assert not running.done(), "it ended before HEAD moved"
    slow_steps.seconds = 0
    chunks = running.result()
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == before
    assert own.text("Where is b", max_tokens=8) == known[name]
    assert eventually(lambda: gc.collect() >= 0 and old() is None)
    assert own.loaded.count("head") == 1
    streams.shutdown()


def test_back_at_the_base_the_last_fold_leaves_memory_too(own):
    own.text("Where", max_tokens=2)
    old = models(own)["head"]
    for _ in range(2):
        ok_json(own.post("/api/rollback"))
    assert ok_json(own.client.get("/v1/models/head"))["root"] == "base"
    assert own.text("Where", max_tokens=4) == own.text("Where", "base", max_tokens=4)
    assert eventually(lambda: gc.collect() >= 0 and old() is None)
    error_json(own.post("/api/rollback"))


def test_a_model_is_brought_into_memory_and_let_go_by_name(own):
    assert own.text("Where", max_tokens=1)
    before = set(own.loaded)
    reply = own.post("/v1/load_lora_adapter", lora_name="housing")
    assert (reply.status_code, "housing" in reply.text) == (200, True)
    (name,) = set(own.loaded) - before
    assert "housing" in name
    model = models(own)[name]
    assert own.answer("Where is  B?", "housing") == "In 9."
    assert own.loaded.count(name) == 1
    assert own.post("/v1/unload_lora_adapter", lora_name="housing").status_code == 200
    assert set(own.loaded) == before
    assert eventually(lambda: gc.collect() >= 0 and model() is None)
    assert (
        "not loaded"
        in error_json(own.post("/v1/unload_lora_adapter", lora_name="housing"))["message"]
    )
    assert own.answer("Where is  B?", "housing") == "In 9."  # asked again, it is loaded again


def test_a_model_that_answers_somebody_stays(own, slow_steps):
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(own.text, model="housing", **LONG)
        assert eventually(lambda: own.engine.counts.generated_tokens)
        error_json(own.post("/v1/unload_lora_adapter", lora_name="housing"))
        slow_steps.seconds = 0
        assert running.result()


def test_the_longest_unused_session_makes_room(own_store):
    with serve_store(own_store, most_loaded=1) as server:
        for name in ("base", "housing", "base", "cs", "base"):
            assert server.text("Where", name, max_tokens=1)
        assert len(server.loaded) == 3
        assert {name.partition("-")[2][:2] or name for name in server.loaded} == {
            "head", "base", "cs",
        }  # fmt: skip


ROOMY = 1 << 40


class Counting(ModelCache):
    """Loads tiny models, and notes what is in memory whenever one with weights of its own comes."""

    def _load(self, model):
        if model.is_folded or self._base is None:
            self.met = [*getattr(self, "met", ()), self.held()]
        if model.is_folded:
            return self._weighed(tiny.model())
        if self._base is None:
            self._base = self._weighed(tiny.model())
        return self._base

    def held(self):
        return [("folded " if one.model.is_folded else "") + one.model.name for one in self.all()]


@pytest.fixture(scope="module")
def shared(fork):
    info = bases.locate(str(fork.base))
    return info, load_tokenizer(info.folder, info.template)


def named(name, *, folded=False):
    chain = () if name == "base" else (SimpleNamespace(id=name, folder_name=name),)
    return RegisteredModel(name=name, chain=chain, is_folded=folded)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_so_many_sessions_stay_as_were_asked_for_whatever_their_number(shared, most):
    models = Counting(*shared, most=most, prefix_bytes=0, memory_bytes=ROOMY)
    models.get(named("head", folded=True))
    for number in range(5):
        models.get(named("base"))
        models.get(named(f"s{number}"))
        kept = [f"s{n}" for n in range(max(0, number + 1 - most), number + 1)]
        found = [one.model.name for one in models.all()]
        assert [name for name in found if name.startswith("s")] == kept
        assert {"head", "base"} < set(found)


def test_what_answers_is_never_let_go_to_make_room(shared):
    models = Counting(*shared, most=1, prefix_bytes=0, memory_bytes=ROOMY)
    busy = models.get(named("s1"))
    busy.answers[0] = None
    models.get(named("s2"))
    models.get(named("s3"))
    assert [one.model.name for one in models.all()] == ["s1", "s3"]


@pytest.fixture
def crowded(shared):
    """Room for the weights of one model and a half, HEAD's being there already."""
    info, tokenizer = shared
    own = sum(array.nbytes for _, array in tree_flatten(tiny.model().parameters()))
    models = Counting(info, tokenizer, most=1, prefix_bytes=0, memory_bytes=own * 3 // 2)
    models.get(named("head", folded=True))
    return models


def test_where_one_set_of_weights_has_room_head_is_asked_beside_the_base(crowded):
    assert crowded.held() == ["folded head"]
    crowded.get(named("base"))
    assert crowded.met == [[], []]  # HEAD's weights went before the base's came
    crowded.get(named("s1"))
    crowded.get(named("head", folded=True))
    assert crowded.held() == ["base", "s1", "head"]  # HEAD is none of the sessions besides it
    crowded.get(named("s2"))
    assert crowded.held() == ["base", "head", "s2"]
    assert crowded.met == [[], []]
    assert crowded.drop(named("head", folded=True))
    assert not crowded.drop(named("head", folded=True))
    assert crowded.held() == ["base", "s2"]
    busy = crowded.get(named("head", folded=True))
    busy.answers[0] = None
    assert not crowded.drop(named("head", folded=True))


def test_a_head_that_answers_keeps_its_weights_until_it_has(crowded):
    (busy,) = crowded.all()
    busy.answers[0] = None
    crowded.get(named("base"))
    assert crowded.get(named("head", folded=True)) is not busy
    assert crowded.held() == ["folded head", "base", "head"]
    assert not crowded.drop(named("head", folded=True))
    busy.answers.clear()
    crowded.tidy()
    assert crowded.held() == ["base", "head"]


def test_where_two_sets_have_room_head_keeps_its_own(shared):
    models = Counting(*shared, most=1, prefix_bytes=0, memory_bytes=ROOMY)
    for name in ("head", "base", "s1", "head"):
        models.get(named(name, folded=name == "head"))
    assert models.held() == ["base", "s1", "folded head"]


def test_answers_are_the_same_where_there_is_little_room(own_store, monkeypatch):
    monkeypatch.setattr(app, "limit_bytes", lambda: 1)
    asked = {"prompt": "Where is b", "max_tokens": 8}
    with serve_store(own_store) as server:
        alone = server.text(**asked)
        assert [one.model.is_folded for one in server.engine._models.all()] == [True]
        base = server.text(model="base", **asked)
        assert server.text(**asked) == alone != base
        assert [one.model.is_folded for one in server.engine._models.all()] == [False, False]
        ok_json(server.post("/api/rollback"))
        assert server.text(**asked) == server.text(model="cs", **asked)


def damage(store, name):
    (weights,) = store.glob(f"sessions/*{name}*/adapters.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)


def test_a_damaged_session_says_so_and_the_others_answer(own):
    damage(own.store, "housing")
    for stream in (False, True):
        asks = {"model": "housing", "prompt": "a", "stream": stream}
        error = error_json(own.post(TEXT, **asks), 500)
        assert "housing" in error["message"]
        assert "adapters.safetensors" in error["message"]
    assert error_json(own.post("/v1/load_lora_adapter", lora_name="housing"), 500)
    assert own.text("Where", max_tokens=2)
    assert own.text("Where", "cs", max_tokens=2)


def test_a_session_whose_record_is_damaged_is_no_model_and_the_others_are(own):
    (record,) = own.store.glob("sessions/*housing*/session.json")
    record.chmod(0o644)
    record.write_text("{")
    assert "housing" not in " ".join(card["id"] for card in cards(own))
    reply = own.post(TEXT, model="housing", prompt="a")
    assert reply.status_code in (404, 500)
    assert "housing" in error_json(reply, reply.status_code)["message"]
    assert own.text("Where", max_tokens=2)


def test_a_damaged_head_leaves_the_base_and_the_others(own):
    assert own.text("Where", max_tokens=2)  # a server that is up may still be loading
    damage(own.store, "dining")
    assert own.text("Where", max_tokens=2)  # it is in memory
    error_json(own.post("/v1/unload_lora_adapter", lora_name="base"))
    assert own.post("/v1/unload_lora_adapter", lora_name="head").status_code == 200
    assert "dining" in error_json(own.post(TEXT, model="head", prompt="a"), 500)["message"]
    assert own.text("Where", "cs", max_tokens=2)
    assert events(own.post(TEXT, model="base", prompt="a", stream=True).text)[-1] == "[DONE]"
