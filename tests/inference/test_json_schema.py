import json
import math

import pytest

from mlx_tune.errors import UsageError
from mlx_tune.inference.json_schema import checked


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_remarks_are_left_out_and_everything_else_is_kept_in_order():
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.org/person",
        "title": "A person",
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "Dr", "default": "", "examples": ["Dr"]},
            "age": {"type": "integer", "minimum": 0},
        },
        "required": ["title"],
        "additionalProperties": False,
        "$defs": {"n": {"$ref": "#/properties/age"}},
    }
    found = checked(schema)
    assert found == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["title"],
        "additionalProperties": False,
        "$defs": {"n": {"$ref": "#/properties/age"}},
    }
    assert list(found["properties"]) == ["title", "age"]


REFUSED = {
    "misspelt": (
        {"type": "object", "propertes": {}},
        '#: "propertes" is an unsupported keyword; did you mean "properties"?',
    ),
    "unsupported": (
        {"properties": {"a": {"uniqueItems": True}}},
        '#/properties/a: "uniqueItems" is an unsupported keyword; leave it out',
    ),
    "of the compiler": ({"x-guidance": {"lenient": True}}, '#: "x-guidance" is an unsupported'),
    "within": ({"items": {"$id": "a"}}, '#/items: "$id" is an unsupported keyword'),
    "no schema": ({"items": [{}]}, "#/items is not a schema; give an object, true or false"),
    "no list": ({"anyOf": {}}, "#/anyOf is not a list of schemas; make it one"),
    "no object": ({"properties": []}, "#/properties is not an object of schemas; make it one"),
    "no definitions": ({"$defs": [{"x": 1}]}, "#/$defs is not an object of schemas; make it one"),
    "format": (
        {"type": ["integer", "null"], "format": "int32"},
        '#/format: only a "string" can be held to a format; leave it out',
    ),
    "format of no type": ({"type": 5, "format": "date"}, '#/format: only a "string" can be'),
    "inexact": ({"const": 2**53 + 1}, "#/const is 9007199254740993, which a double cannot hold"),
    "inexact bound": ({"minimum": -(2**53) - 1}, "#/minimum is -9007199254740993, which a double"),
    "infinite": ({"enum": [{"a": [math.inf]}]}, "#/enum/0/a/0 is inf, which a double cannot hold"),
    "no number": ({"multipleOf": math.nan}, "#/multipleOf is nan, which a double cannot hold"),
    "multiple": ({"multipleOf": 10007}, "#/multipleOf brings the least common multiple to 10,007"),
    "multiples": (
        {"allOf": [{"multipleOf": 0.97}, {"multipleOf": 1009}]},
        "#/allOf/1/multipleOf brings the least common multiple to 97,873, and the limit is 10,000",
    ),
    "deep": (nested(64), "nested more than 64 deep, which is the limit; flatten it, or let"),
    "deep constant": ({"const": json.loads("[" * 64 + "]" * 64)}, "nested more than 64 deep"),
    "wide": ({"enum": list(range(5000))}, "more than 5,000 parts, which is the limit (#/enum/499"),
    "long": ({"enum": ["a" * 5001]}, "a text at #/enum/0 has 5,001 characters, and the limit is"),
    "long name": ({"properties": {"a" * 5001: {}}}, "a text at #/properties has 5,001 characters"),
    "much": ({"enum": [f"{i}" + "a" * 4900 for i in range(21)]}, "the JSON schema is longer than"),
    "lines": ({"properties": {"a\nb/": {"x": 1}}}, '#/properties/a\\nb/: "x" is an unsupported'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_answer_cannot_be_held_to_is_said_on_one_line(name):
    schema, message = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        checked(schema)
    assert message in str(caught.value)
    assert str(caught.value).startswith(("JSON schema: ", "the JSON schema "))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("schema", [None, True, [], "object", 5])
def test_a_schema_is_an_object(schema):
    with pytest.raises(UsageError, match="the JSON schema is not an object"):
        checked(schema)


@pytest.mark.parametrize(
    "schema",
    [
        nested(63),
        {"multipleOf": 1_000_000},
        {"allOf": [{"multipleOf": 0.01}, {"multipleOf": 0.25}, {"multipleOf": 10000}]},
        {"const": 2**53},
        {"const": 1e300},
        {"enum": list(range(4998))},
        {"type": ["string", "null"], "format": "date"},
        {"$ref": "#"},
    ],
)
def test_what_is_within_the_limits_is_accepted(schema):
    assert checked(schema) == schema
