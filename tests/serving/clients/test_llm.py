"""The command `llm`, told of the server by its extra-openai-models.yaml."""

import json

import pytest

from helpers.client_programs import TOKEN, python_with

pytestmark = pytest.mark.slow

MODELS = """
- model_id: taught
  model_name: head
  api_base: {url}
  api_key_name: taught
  supports_schema: true
- model_id: taught-text
  model_name: head
  api_base: {url}
  api_key_name: taught
  completion: true
"""
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"right": {"type": "boolean"}},
        "required": ["right"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def llm(request, tmp_path_factory):
    client = python_with("llm")
    server = request.getfixturevalue("server")  # not started where the test is skipped
    home = tmp_path_factory.mktemp("llm")
    (home / "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))
    (home / "keys.json").write_text(json.dumps({"taught": TOKEN}))
    return lambda *words: client.run("-m", "llm", *words, LLM_USER_PATH=str(home))


def test_the_taught_answer_comes_streamed_and_whole_with_its_count(llm):
    assert llm("-m", "taught", "Where is C?").stdout == "In 3.\n"
    whole = llm("-m", "taught", "--no-stream", "--usage", "-o", "seed", 3, "Where is C?")
    assert whole.stdout == "In 3.\n"
    assert "30 input, 6 output" in whole.stderr


def test_a_conversation_goes_on(llm):
    llm("-m", "taught", "Where is C?")
    assert llm("-c", "-o", "max_tokens", 5, "Where is A?").stdout.strip()


def test_an_answer_fits_its_schema(llm):
    said = llm("-m", "taught", "--schema", SCHEMA, "-o", "max_tokens", 300, "Is it?").stdout
    assert json.loads(said)["right"] in (True, False)


def test_a_text_is_gone_on_with(llm):
    assert llm("-m", "taught-text", "-o", "max_tokens", 4, "Where is").stdout.strip()
