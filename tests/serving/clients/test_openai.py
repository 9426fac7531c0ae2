"""OpenAI's own clients, in Python and in JavaScript."""

import shutil

import pytest

from helpers.client_programs import HOME, Client, python_with, serve_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["python", "node"])
def client(request) -> tuple[Client, str]:
    if request.param == "python":
        return python_with("openai"), "openai_client.py"
    node, home = shutil.which("node"), HOME / "node"
    if node is None or not (home / "node_modules/openai").exists():
        pytest.skip("needs node, and npm's openai in .venv-clients (`sh scripts/clients.sh`)")
    return Client(program=node, environment={"NODE_HOME": str(home)}), "openai_client.mjs"


@pytest.fixture(scope="module")
def told(client, request):
    program, script = client
    server = request.getfixturevalue("server")  # not started where the test is skipped
    with serve_command(server.lab, "--waiting", "1") as busy:
        return program.told(script, SERVER=server.url, BUSY_SERVER=busy.url)


def test_every_session_is_a_model_and_head_names_the_one_in_use(told):
    head, later, first, base = told["models"]
    assert (head, base) == ("head", "base")
    assert later.startswith("0002-later-")
    assert first.startswith("0001-first-")
    assert told["root"] == later


def test_the_taught_answer_comes_whole_and_streamed_with_its_count(told):
    assert told["answer"] == ["In 3.", "stop", 30, 6, 36]
    assert told["stream"] == told["answer"]
    assert told["helped"] == "In 3."


def test_each_token_comes_with_its_likelihood(told):
    assert "".join(token for token, _, _ in told["logprobs"]) == "In 3."
    for token, logprob, likely in told["logprobs"]:
        assert logprob < 0
        assert len(likely) == 2
        assert likely[0] == token, "nothing was left to chance"


def test_a_seed_draws_the_same_again_and_each_answer_is_another(told):
    once, again = told["drawn"]
    assert once == again
    assert len(set(once)) == 3


def test_a_stop_string_ends_the_answer_and_is_not_shown(told):
    assert told["stopped"] == "In"


def test_the_answer_can_be_handed_back_as_a_turn(told):
    assert told["talked"] in ("stop", "length")


def test_an_answer_fits_its_schema_and_is_parsed(told):
    assert told["parsed"] in ({"right": True}, {"right": False})
    assert told["json"] == "{"


def test_a_text_is_gone_on_with_and_echoed_with_its_likelihoods(told):
    text, tokens, logprobs, read, generated, total = told["echoed"]
    assert text == "Where is" + told["completed"]
    assert (read, generated, total) == (8, len(tokens) - 8, len(tokens))
    assert "".join(tokens).removesuffix("<|im_end|>") == text
    assert logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs[1:])
    assert told["streamed"] == told["completed"] == told["two"][0]
    assert told["counted"] == 8


def test_every_refusal_is_the_exception_that_stands_for_it(told):
    assert told["refused"] == {
        "unknown model": ["NotFoundError", 404, "model_not_found", "model"],
        "unknown card": ["NotFoundError", 404, "model_not_found", "model"],
        "bad value": ["BadRequestError", 400, "invalid_value", "temperature"],
        "unknown field": ["BadRequestError", 400, "unknown_field", "reasoning_effort"],
        "embeddings": ["BadRequestError", 400, "not_supported", None],
        "too long": ["BadRequestError", 400, "context_length_exceeded", "prompt"],
        "no token": ["AuthenticationError", 401, "invalid_api_key", None],
        "busy": ["RateLimitError", 429, "rate_limit_exceeded", None],
    }


def test_who_is_told_to_come_back_comes_back_and_is_answered(told):
    assert told["patient"] == "In 3."
