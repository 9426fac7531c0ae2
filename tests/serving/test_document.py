import pytest
from fastapi import APIRouter

from mlx_tune.serving.app import create_app
from mlx_tune.serving.engine import Engine
from mlx_tune.serving.lineage import lineage_routes
from mlx_tune.serving.openai import Backend


class Parser:
    context = 99


@pytest.fixture
def backend():
    """What the routes share, with no model behind it."""
    return Backend(Engine(lambda: None), None, Parser(), base="tiny")


def operations(document):
    return [one for path in document["paths"].values() for one in path.values()]


def test_the_document_tells_every_refusal_and_none_that_is_never_sent(backend, tmp_path):
    document = create_app(
        backend, lineage_routes(tmp_path, backend.registry, None), APIRouter()
    ).openapi()
    found = operations(document)
    assert len(found) == 14
    for operation in found:
        assert {"400", "401", "403", "404", "413", "415", "429", "500"} <= set(
            operation["responses"]
        )
        assert "422" not in operation["responses"]
        refused = operation["responses"]["403"]["content"]
        assert refused == {
            "application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}
        }
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_document_tells_what_is_no_json(backend):
    paths = create_app(backend).openapi()["paths"]
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert list(paths[path]["post"]["responses"]["200"]["content"]) == ["text/plain"]
    for path in ("/v1/completions", "/v1/chat/completions"):
        answers = paths[path]["post"]["responses"]["200"]["content"]
        assert set(answers) == {"application/json", "text/event-stream"}
