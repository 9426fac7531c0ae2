"""What the page reads: the tree, what is remembered, and where a training stands."""

import pytest

from helpers.live_server import error_json, ok_json, serve_store
from mlx_tune.serving.lineage import training_json
from mlx_tune.serving.registry import GONE
from mlx_tune.settings import DEFAULT_STORE
from mlx_tune.store.runs import FAILED, list_runs


def test_the_tree_has_every_session_its_parent_and_who_is_in_use(server):
    found = ok_json(server.client.get("/api/lineage"))
    by_name = {session["name"]: session for session in found["sessions"]}
    assert set(by_name) == {"cs", "housing", "dining"}
    assert by_name["cs"]["parent"] is None
    assert by_name["housing"]["parent"] == by_name["dining"]["parent"] == by_name["cs"]["id"]
    assert found["head"] == by_name["dining"]["id"]
    assert found["previous"] == by_name["cs"]["id"]
    assert {name for name, one in by_name.items() if one["in_chain"]} == {"cs", "dining"}
    assert by_name["cs"]["sources"] == ["cs.json"]  # a name, never where it lay
    assert by_name["cs"]["rows"] == 2
    assert by_name["cs"]["recall"] == {"right": 2, "asked": 2}
    assert by_name["cs"]["as_taught"] == {"right": 2, "asked": 2, "confused": 0}
    assert by_name["cs"]["other_words"] is None
    assert {session["damaged"] for session in found["sessions"]} == {None}
    assert found["error"] is None


def test_what_is_remembered_has_a_row_a_session_and_a_column_a_session(server):
    found = ok_json(server.client.get("/api/retention?session=housing"))
    assert found["labels"] == ["1 cs", "2 housing"]
    scores = {score["kind"]: score for score in found["scores"]}
    assert list(scores) == ["as_taught", "verbatim"]  # no session has other wordings
    for score in scores.values():
        assert all(len(row) == 2 for row in score["matrix"])
        assert score["matrix"][-1][1] == {"right": 2, "asked": 2}
        assert score["measures"]["acc"] == 100.0
    assert "housing" in found["session"]
    error_json(server.client.get("/api/retention?session=nobody"), 404)
    assert ok_json(server.client.get("/api/retention?session=base"))


def test_the_newest_training_is_shown_as_far_as_it_came(server):
    run = ok_json(server.client.get("/api/training"))["run"]
    assert run["name"] == "dining"
    assert run["state"] == "finished"
    assert (run["step"], run["seconds_left"]) == (run["steps"], None)
    assert [number for number, _ in run["losses"]][-1] == run["step"]


def test_a_training_that_could_not_be_done_is_told_from_one_that_was(own_store):
    list_runs(own_store)[-1].set(phase=FAILED)
    assert training_json(own_store)["run"]["state"] == "failed"


def test_the_openapi_document_names_every_route_of_the_api(server):
    found = ok_json(server.client.get("/openapi.json"))
    assert {"/v1/models", "/v1/chat/completions", "/v1/completions", "/health", "/metrics"} < set(
        found["paths"]
    )
    chat = found["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] == {"type": "null"}


@pytest.fixture
def empty(tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve_store(DEFAULT_STORE, base=str(tiny_base)) as server:
        yield server


def test_a_store_without_sessions_serves_its_base(empty):
    listed = [card["id"] for card in ok_json(empty.client.get("/v1/models"))["data"]]
    assert listed == ["head", "base"]
    assert empty.text("Where", max_tokens=2) == empty.text("Where", "base", max_tokens=2)
    assert ok_json(empty.client.get("/api/lineage"))["sessions"] == []
    assert ok_json(empty.client.get("/api/retention"))["labels"] == []
    assert ok_json(empty.client.get("/api/training")) == {"run": None}
    error_json(empty.post("/api/rollback"))
    assert not empty.store.exists(), "serving made a folder"


def test_a_store_that_goes_away_is_served_on_and_said_to_be_gone(own_store):
    """A model becomes the base when HEAD is moved there, and by nothing else."""
    with serve_store(own_store) as running:
        before = ok_json(running.client.get("/api/lineage"))
        answer = running.answer("Where is B?")
        own_store.rename(own_store.with_name("moved"))
        assert running.answer("Where is B?") == answer
        gone = ok_json(running.client.get("/api/lineage"))
        assert gone["error"] == GONE
        assert {**gone, "error": None} == before
        assert ok_json(running.client.get("/health")) == {"status": "ok", "warning": GONE}
        for path in ("/api/retention", "/api/training"):
            assert error_json(running.client.get(path), 503)["message"] == GONE
        error_json(running.client.post("/api/rollback", json={}), 500)
        assert not own_store.exists()
        own_store.with_name("moved").rename(own_store)
        assert ok_json(running.client.get("/health")) == {"status": "ok"}
        assert ok_json(running.client.get("/api/lineage")) == before
