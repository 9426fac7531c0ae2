"""`litellm`, as a provider that speaks like OpenAI: `openai/` before the model, and an api_base."""

import pytest

from helpers.client_programs import HOME, python_with

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(request):
    client = python_with("litellm", HOME / "litellm")
    server = request.getfixturevalue("server")  # not started where the test is skipped
    return client.told("litellm_client.py", SERVER=server.url)


def test_the_taught_answer_comes_whole_and_streamed(told):
    assert told["answer"] == ["In 3.", "stop", 36]
    assert told["stream"] == ["In 3.", 36]


def test_its_history_of_a_conversation_is_taken(told):
    assert told["second"] in ("stop", "length")


def test_answers_are_scored_and_texts_gone_on_with(told):
    assert len(told["scored"]) == 2
    assert all(tokens > 0 for tokens in told["scored"])
    assert told["completed"]


def test_every_refusal_is_an_exception_with_its_status(told):
    assert told["refused"] == {
        "unknown model": 404,
        "bad value": 400,
        "no token": 401,
        "unknown field": 400,
    }
