"""`schemathesis` asks whatever the OpenAPI document allows, and much that it does not.

No answer may be a 500, and each is of a status, a type and a shape that the document tells.
"""

import re

import pytest

from helpers.client_programs import TOKEN, python_with, serve_command, trained_store

pytestmark = pytest.mark.slow

LEFT_OUT = {
    # Rules between two fields, such as top_logprobs without logprobs, are not in the document.
    "positive_data_acceptance",
    # What has no JSON body is refused with 415 before any route is asked for its methods.
    "unsupported_method",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What schemathesis says of a store of its own, which it rolls back and promotes in."""
    client = python_with("schemathesis")
    home = tmp_path_factory.mktemp("schemathesis")
    lab = trained_store(home, max_position_embeddings=128)  # so that no answer is long
    with serve_command(lab, "--prefix-mb", "1") as server:
        return client.run(
            "-m", "schemathesis.cli", "run", f"{server.url.removesuffix('/v1')}/openapi.json",
            "--header", f"Authorization: Bearer {TOKEN}", "--no-color", "--generation-database",
            "none", "--seed", 1, "--max-examples", 10, "--exclude-checks", ",".join(LEFT_OUT),
        ).stdout  # fmt: skip


def test_whatever_is_asked_the_answer_is_one_that_the_document_tells(report):
    assert re.search(r"Selected: (\d+)/\1\n  Tested: \1\n", report), "every route was tried"
    generated, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", report)[0])
    assert generated == passed > 500
