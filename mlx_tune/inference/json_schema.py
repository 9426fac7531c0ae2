"""Which JSON schemas an answer can be held to: nothing in one is passed over in silence.

JSON Schema lets a reader ignore what it does not know, and the grammar's compiler does. A person
who misspelt ``properties``, or asks for ``nullable``, should hear of it instead. The limits keep a
schema from costing more than the answer.

Source:
    JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
"""

import difflib
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from mlx_tune.errors import UsageError

MAX_DEPTH = 32
MAX_VALUES = 5_000
MAX_TEXT = 5_000
"""Characters a string or a name may have: a long constant is tokenised afresh at every step."""
MAX_CHARACTERS = 100_000
MAX_MULTIPLE = 10_000
"""The least common multiple of all `multipleOf`, decimal points and final zeros left out.

The grammar's automaton has a state for each remainder: 100,003 took 0.5 s to build, 1,000,003 nine
seconds, 997 × 1,009 half a minute.
"""
MAX_EXACT = 2**53
"""The grammar's numbers are doubles."""

_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_PLAIN = (
    *("type", "enum", "const", "$ref", "required", "pattern", "format", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
)
_KNOWN = (*_ONE, *_SEVERAL, *_NAMED, *_PLAIN)
_REMARKS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    }
)
"""What says something to people and holds an answer to nothing."""
_OF_THE_WHOLE = frozenset({"$schema", "$id"})


def checked(schema: object) -> dict[str, Any]:
    """Return a schema with its remarks left out, all of whose keywords hold an answer to something.

    Raises:
        UsageError: A keyword is unknown or not supported, or a limit is exceeded.
    """
    if not isinstance(schema, dict):
        raise UsageError("the JSON schema is not an object; give {} to allow any value")
    whole = {key: value for key, value in schema.items() if key not in _OF_THE_WHOLE}
    found = _Walk().schema(whole, "#", depth=1)
    if len(json.dumps(found, ensure_ascii=False)) > MAX_CHARACTERS:
        raise UsageError(
            f"the JSON schema is longer than {MAX_CHARACTERS:,} characters; shorten it"
        )
    return dict(found)


class _Walk:
    """Copies a schema part by part, counting as it goes."""

    def __init__(self) -> None:
        self._values, self._multiple = 0, 1

    def schema(self, schema: Any, place: str, *, depth: int) -> Any:
        """Return a schema's copy; ``place`` is the JSON pointer to it."""
        self._count(place, depth)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UsageError(f"JSON schema: {place} is not a schema; give an object, true or false")
        kept = {key: value for key, value in schema.items() if key not in _REMARKS}
        _only_known(kept, place)
        return {key: self._keyword(key, kept[key], _below(place, key), depth) for key in kept}

    def _keyword(self, key: str, value: Any, place: str, depth: int) -> Any:
        if key in _ONE:
            return self.schema(value, place, depth=depth + 1)
        if key in _SEVERAL:
            return [
                self.schema(one, f"{place}/{i}", depth=depth + 1)
                for i, one in enumerate(_of(list, value, place, "a list of schemas"))
            ]
        if key in _NAMED:
            named = _of(dict, value, place, "an object of schemas")
            for name in named:
                self._text(name, place)
            return {
                name: self.schema(one, _below(place, name), depth=depth + 1)
                for name, one in named.items()
            }
        if key == "$ref" and not str(value).startswith("#"):
            raise UsageError(
                f"JSON schema: {place} points outside, to {str(value)[:80]!r}, and nothing is "
                'fetched; put that schema under "$defs" and refer to it as "#/$defs/…"'
            )
        if key == "multipleOf":
            self._multiple_of(value, place)
        self._literal(value, place, depth)
        return value

    def _multiple_of(self, value: Any, place: str) -> None:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise UsageError(f"JSON schema: {place} is {value!r:.40}; give a number above 0")
        digits = int("".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits)))
        self._multiple = math.lcm(self._multiple, digits)
        if self._multiple > MAX_MULTIPLE:
            raise UsageError(
                f"JSON schema: {place} brings the least common multiple to {self._multiple:,}, and "
                f"the limit is {MAX_MULTIPLE:,}; leave it out"
            )

    def _literal(self, value: Any, place: str, depth: int) -> None:
        """Check a value that is no schema."""
        self._count(place, depth)
        if isinstance(value, str):
            self._text(value, place)
        elif isinstance(value, int | float):
            if not abs(value) <= MAX_EXACT and not (
                isinstance(value, float) and math.isfinite(value)
            ):
                raise UsageError(
                    f"JSON schema: {place} is {value!r:.40}, which a double cannot hold exactly; "
                    f"keep whole numbers within ±{MAX_EXACT:,}"
                )
        elif isinstance(value, list):
            for i, one in enumerate(value):
                self._literal(one, f"{place}/{i}", depth + 1)
        elif isinstance(value, dict):
            for name, one in value.items():
                self._text(name, place)
                self._literal(one, _below(place, name), depth + 1)

    def _text(self, text: str, place: str) -> None:
        if len(text) > MAX_TEXT:
            raise UsageError(
                f"JSON schema: a text at {place} has {len(text):,} characters, and the limit is "
                f"{MAX_TEXT:,}; shorten it"
            )

    def _count(self, place: str, depth: int) -> None:
        self._values += 1
        if depth > MAX_DEPTH:
            raise UsageError(
                f"JSON schema: nested more than {MAX_DEPTH} deep, which is the limit; flatten it, "
                'or let a schema under "$defs" refer to itself'
            )
        if self._values > MAX_VALUES:
            raise UsageError(
                f"JSON schema: more than {MAX_VALUES:,} parts, which is the limit ({place[:80]}); "
                "ask for less at once"
            )


def _only_known(schema: dict[str, Any], place: str) -> None:
    for key in schema:
        if key not in _KNOWN:
            near = difflib.get_close_matches(key[:40], [*_KNOWN, *_REMARKS], n=1, cutoff=0.8)
            hint = f'did you mean "{near[0]}"?' if near else "leave it out"
            raise UsageError(
                f"JSON schema: {place}: {json.dumps(key[:40])} is nothing that an answer can be "
                f"held to; {hint}"
            )
    wanted = schema.get("type", "string")
    if "format" in schema and wanted != "string" and "string" not in wanted:
        raise UsageError(
            f'JSON schema: {place}/format: only a "string" can be held to a format; leave it out'
        )


def _below(place: str, name: str) -> str:
    """Return the pointer to a member, on one line whatever its name is."""
    return f"{place}/{json.dumps(name[:40])[1:-1]}"


def _of(kind: Callable[..., Any], value: Any, place: str, name: str) -> Any:
    if not isinstance(value, kind):  # type: ignore[arg-type]
        raise UsageError(f"JSON schema: {place} is not {name}; make it one")
    return value
