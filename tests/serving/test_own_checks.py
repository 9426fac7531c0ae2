"""`check-server` against our own server: what it asks of others, it finds here."""

from mlx_tune.workflows.api_client import connect
from mlx_tune.workflows.check_server import MODELS, OPENAI_CHECKS, OUR_CHECKS, check_server


def test_our_own_server_passes_every_check(server):
    with connect(f"http://127.0.0.1:{server.port}", timeout_seconds=60) as client:
        found = list(check_server(client, model=None, expect_ours=False, say=lambda _: None))
    assert [outcome.name for outcome in found] == [MODELS, *OPENAI_CHECKS, *OUR_CHECKS]
    assert {outcome.name: outcome.reason for outcome in found if not outcome.passed} == {}
