import pytest
from fastapi import APIRouter

from mlx_tune.serving.app import Api, create_app
from mlx_tune.serving.engine import Engine
from mlx_tune.serving.lineage_routes import lineage_routes


class Reader:
    context = 99


@pytest.fixture
def api():
    """What the routes share, with no model behind it."""
    return Api(Engine(lambda: None), None, Reader(), base="tiny")


def operations(document):
    return [one for path in document["paths"].values() for one in path.values()]


def test_the_document_tells_every_refusal_and_none_that_is_never_sent(api, tmp_path):
    document = create_app(api, lineage_routes(tmp_path, None), APIRouter()).openapi()
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


def test_the_document_tells_what_is_no_json(api):
    paths = create_app(api).openapi()["paths"]
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert list(paths[path]["post"]["responses"]["200"]["content"]) == ["text/plain"]
    for path in ("/v1/completions", "/v1/chat/completions"):
        answers = paths[path]["post"]["responses"]["200"]["content"]
        assert set(answers) == {"application/json", "text/event-stream"}
