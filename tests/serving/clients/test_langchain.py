"""`langchain-openai`."""

import pytest

from helpers.client_programs import python_with

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(request):
    client = python_with("langchain_openai")
    server = request.getfixturevalue("server")  # not started where the test is skipped
    return client.told("langchain_client.py", SERVER=server.url)


def test_the_taught_answer_comes_invoked_streamed_and_among_others(told):
    assert told["answer"] == told["stream"] == told["asynchronous"] == "In 3."
    assert told["batch"] == ["In 2.", "In 3."]
    assert told["completed"]


def test_tokens_are_counted_and_scored(told):
    assert told["tokens"] == 36
    assert told["stream tokens"] == [36]
    assert "".join(token for token, _, _ in told["logprobs"]) == "In 3."
    assert all(logprob < 0 and likely == 2 for _, logprob, likely in told["logprobs"])


def test_a_structured_answer_is_an_object_of_its_class(told):
    assert told["structured"] in ({"right": True}, {"right": False})
