"""The metrics, read as Prometheus reads them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.live_server import serve_store


@pytest.fixture
def own(own_store):
    with serve_store(own_store) as server:
        yield server


def metrics(server):
    """Every sample by its name and labels; a sample that is there twice is a fault."""
    reply = server.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.text))
    samples = [sample for family in families for sample in family.samples]
    found = {(s.name, *s.labels.values()): s.value for s in samples}
    assert len(found) == len(samples)
    assert all(family.documentation and family.type != "unknown" for family in families)
    assert all(name.startswith("mlx_tune_") for name, *_ in found)
    return found


def test_what_was_done_is_counted(own):
    before = metrics(own)
    assert before["mlx_tune_prompt_tokens_total",] == 0
    assert before["mlx_tune_time_to_first_token_seconds_count",] == 0
    for _ in range(2):
        own.text("Where is the room?", "base", max_tokens=5)
    assert own.answer("Where is  B?", "housing") == "In 9."
    own.post("/v1/completions", model="base", prompt="a", stream=True, max_tokens=3)
    after = metrics(own)
    assert after["mlx_tune_answers_total", "length"] == 3
    assert after["mlx_tune_answers_total", "stop"] == 1
    assert after["mlx_tune_generated_tokens_total",] == 2 * 5 + 6 + 3
    chat = own.ask("Where is  B?", "housing", max_tokens=1).json()["usage"]["prompt_tokens"]
    assert after["mlx_tune_prompt_tokens_total",] == 2 * 18 + chat + 1
    assert after["mlx_tune_prefix_tokens_total",] == 17
    assert after["mlx_tune_time_to_first_token_seconds_count",] == 4
    assert after["mlx_tune_time_to_first_token_seconds_bucket", "+Inf"] == 4
    assert after["mlx_tune_answers_running",] == 0
    assert after["mlx_tune_engine_up",] == 1
    assert after["mlx_tune_engine_faults_total",] == 0
