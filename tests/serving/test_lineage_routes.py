"""What the page reads: the tree, what is remembered, and where a training stands."""

import shutil
from datetime import date

import pytest

from helpers.live_server import error_json, ok_json, serve_store
from helpers.stores import train
from mlx_tune.serving.lineage import training_json
from mlx_tune.serving.registry import GONE
from mlx_tune.settings import DEFAULT_STORE
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.labels import mark_removed
from mlx_tune.store.runs import FAILED, list_runs
from mlx_tune.store.store import SessionStore, start_head
from mlx_tune.workflows.store_commands import rollback


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
    assert empty.said == ["note: no session is in use in adapters, so the bare base answers"]


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
        for path, body in (("/api/rollback", {}), ("/api/promote", {"session": "cs"})):
            assert error_json(running.client.post(path, json=body), 503)["message"] == GONE
        error = error_json(running.ask("Where is A?", "cs"), 503)
        assert error["code"] == "store_gone"
        assert error["message"].endswith(f" is not in memory: {GONE}")
        assert not own_store.exists()
        own_store.with_name("moved").rename(own_store)
        assert ok_json(running.client.get("/health")) == {"status": "ok"}
        assert ok_json(running.client.get("/api/lineage")) == before


def session_of(store, name):
    (path,) = (store / "sessions").glob(f"*-{name}-*")
    return path


def lose_head(store):
    shutil.rmtree(session_of(store, "dining"))


def lose_every_session(store):
    for path in (store / "sessions").iterdir():
        shutil.rmtree(path)


def begin_another(store):
    """Do what a training does that begins where the store has been."""
    store.rename(store.with_name("moved"))
    store.mkdir()
    start_head(store)


def restore_an_older_copy(store):
    lose_head(store)
    (store / "HEAD").write_text(SessionStore.open(store).snapshot().find("cs").id)


def lose_it_all_with_head(store):
    shutil.rmtree(store / "sessions")
    (store / "HEAD").write_bytes(b"garbage")


LOST = {
    "HEAD's session": lose_head,
    "every session": lose_every_session,
    "the folder of sessions": lambda store: shutil.rmtree(store / "sessions"),
    "the sessions and HEAD": lose_it_all_with_head,
    "the store, and another begins there": begin_another,
    "the newest sessions, and HEAD stands before them": restore_an_older_copy,
}


@pytest.mark.parametrize("what", LOST)
def test_a_model_is_not_another_because_something_was_deleted(own_store, what):
    with serve_store(own_store) as running:
        before = ok_json(running.client.get("/api/lineage"))
        answer = running.answer("Where is B?")
        LOST[what](own_store)
        assert running.answer("Where is B?") == answer
        warning = ok_json(running.client.get("/health"))["warning"]
        assert f"{own_store}: HEAD's session {before['head']} is not in use or not there" in warning
        found = ok_json(running.client.get("/api/lineage"))
        assert found["error"] == warning
        assert {**found, "error": None} == before
        assert error_json(running.post("/api/rollback"), 503)["message"] == warning


def test_the_way_back_from_a_lost_head_is_taken_without_a_new_start(own_store):
    with serve_store(own_store) as running:
        known = running.answer("Where is B?", "cs")
        lose_head(own_store)
        assert "warning" in ok_json(running.client.get("/health"))
        rollback(own_store, "cs")
        assert "cs" in ok_json(running.client.get("/api/lineage"))["head"]
        assert running.answer("Where is B?") == known
        assert ok_json(running.client.get("/health")) == {"status": "ok"}


def test_a_session_that_head_has_left_may_be_collected(own_store):
    with serve_store(own_store) as running:
        running.answer("Where is B?")
        store = SessionStore.open(own_store)
        left = store.snapshot().head()
        rollback(own_store, None)
        mark_removed(store, left)
        found = ok_json(running.client.get("/api/lineage"))
        assert [one["id"] for one in found["sessions"] if one["removed"]] == [left.folder_name]
        collect_garbage(store, today=date(2026, 11, 30))
        assert left.folder_name not in str(ok_json(running.client.get("/v1/models")))
        assert ok_json(running.client.get("/health")) == {"status": "ok"}


def test_a_store_of_another_base_in_its_place_is_not_folded_onto_this_one(own_store):
    with serve_store(own_store) as running:
        answer = running.answer("Where is B?")
        own_store.rename(own_store.with_name("moved"))
        other = SessionStore.open(own_store)
        theirs = train(other, "theirs")
        assert running.answer("Where is B?") == answer
        warning = ok_json(running.client.get("/health"))["warning"]
        assert warning.startswith(f"the store that is at {own_store} now stands on another base")
        assert error_json(running.post("/api/rollback"), 503)["message"] == warning
        assert other.snapshot().head() == theirs
        error_json(running.ask("Where is B?", theirs.folder_name), 404)


def test_a_damaged_head_is_told_and_everything_else_answers(own_store):
    with serve_store(own_store) as running:
        running.answer("Where is B?")
        record = session_of(own_store, "dining") / "session.json"
        whole = record.read_bytes()
        record.chmod(0o644)
        record.write_bytes(whole.replace(b"dining", b"dinner"))
        said = error_json(running.ask("Where is B?"), 500)["message"]
        assert "; HEAD names it, so go back to " in said
        assert ok_json(running.client.get("/health")) == {"status": "ok", "warning": said}
        listed = [card["id"] for card in ok_json(running.client.get("/v1/models"))["data"]]
        assert [name.split("-")[-2:-1] or name for name in listed] == [["housing"], ["cs"], "base"]
        for name in listed:
            assert running.text("Where", name, max_tokens=1)
        record.write_bytes(whole)
        assert ok_json(running.client.get("/health")) == {"status": "ok"}


def test_what_is_to_be_known_of_a_store_is_told_by_its_health(own_store):
    with serve_store(own_store) as running:
        (own_store / "HEAD").write_bytes(b"garbage")
        warning = ok_json(running.client.get("/health"))["warning"]
        assert warning.startswith(f"{own_store / 'HEAD'} is missing or holds no session's id; ")
        assert ok_json(running.client.get("/api/lineage"))["error"] == warning
        (own_store / "format.json").write_text("[")
        warning = ok_json(running.client.get("/health"))["warning"]
        assert warning == error_json(running.ask("Where is B?"), 500)["message"]
        assert str(own_store / "format.json") in warning
