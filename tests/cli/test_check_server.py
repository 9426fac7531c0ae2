import json
import sys

from helpers.fake_api import running
from mlx_tune.workflows.check_server import MODELS


def test_a_right_server_ends_with_0_and_a_line_for_each_check(mlx_tune_command):
    with running() as url:
        code, out, error = mlx_tune_command("check-server", f"{url}/v1")
    *lines, last = out.splitlines()
    assert code == 0
    assert all(line.startswith("✓ ") for line in lines)
    assert lines[0] == f"✓ {MODELS}"
    assert last == f"{len(lines)} of {len(lines)} checks passed"
    assert error == "asking the model head…\n"


def test_a_wrong_server_ends_with_1_and_says_what_it_did(mlx_tune_command):
    def ill(asked, reply):
        if asked.path == "/health":
            reply.status, reply.json = 503, {"status": "\x1b[2Jstalled"}

    with running(ill) as url:
        code, out, _ = mlx_tune_command("check-server", url)
        json_code, json_out, _ = mlx_tune_command("check-server", url, "--json")
    assert code == json_code == 1
    assert '✗ ours: /health answers: 503, not 200: {"status": "\\u001b[2Jstalled"}\n' in out
    found = json.loads(json_out)
    assert found["url"] == url
    assert found["asked"] == len(found["checks"]) == found["passed"] + 1
    (wrong,) = [check for check in found["checks"] if not check["passed"]]
    assert wrong == {
        "name": "ours: /health answers",
        "reason": '503, not 200: {"status": "\\u001b[2Jstalled"}',
        "passed": False,
    }


def test_what_a_server_says_cannot_steer_the_terminal(mlx_tune_command):
    def steering(asked, reply):
        if asked.path == "/v1/models":
            reply.json["object"] = "\x1b[2J\nlist"

    with running(steering) as url:
        _, out, _ = mlx_tune_command("check-server", url)
    assert out == f'✗ {MODELS}: object is "·[2J list", not "list"\n0 of 1 checks passed\n'


def test_token_and_model_are_sent(mlx_tune_command):
    with running(token="secret") as url:
        words = ("check-server", url, "--token", "secret")
        assert mlx_tune_command(*words, "--model", "head")[0] == 0
        code, out, _ = mlx_tune_command(*words, "--model", "other")
    assert code == 1
    assert "404, not 200: " in out


def test_nobody_there_is_one_line_and_8(mlx_tune_command):
    with running() as url:
        pass
    code, out, error = mlx_tune_command("check-server", url)
    assert (code, out) == (8, "")
    assert error == (
        f"error: {url}: no connection (Connection refused); is the server running there?\n"
    )


def test_what_is_no_address_is_one_line_and_2(mlx_tune_command):
    code, _, error = mlx_tune_command("check-server", "localhost:8321")
    assert code == 2
    assert error == (
        "error: localhost:8321: not the address of a server; write it as http://127.0.0.1:8321\n"
    )


def test_without_the_client_it_is_one_line_with_the_fix_and_2(mlx_tune_command, monkeypatch):
    for module in ("api_client", "check_server"):
        monkeypatch.delitem(sys.modules, f"mlx_tune.workflows.{module}")
        monkeypatch.delattr(f"mlx_tune.workflows.{module}")
    monkeypatch.setitem(sys.modules, "openai", None)
    code, out, error = mlx_tune_command("check-server", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert error == (
        "error: checking a server needs openai, which is not installed; "
        "`pip install 'mlx-tune-continual[serve]'` does that\n"
    )
