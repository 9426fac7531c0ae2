"""Which JSON schemas an answer can be held to; a part that would be ignored is refused.

llguidance refuses the keywords of JSON Schema that it does not support, values of the wrong type
and references to other documents. It ignores every other name, such as a misspelt ``properties``
or OpenAPI's ``nullable``, a format of anything but a string, and a ``$defs`` that is no object; and
it rounds numbers to doubles. Those are refused here, and so is a schema that would cost more than
the answer.

Source:
    JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
"""

import difflib
import json
import math
from decimal import Decimal
from typing import Any

from mlx_tune.errors import UsageError

MAX_DEPTH = 64
"""Levels of JSON in a schema; llguidance reads 128 of the grammar that holds it."""
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
"""For 2⁵³ + 1 llguidance would write 2⁵³, and for an infinity null."""

_KINDS: dict[str, tuple[Any, str]] = {
    "schema": (dict | bool, "a schema; give an object, true or false"),
    "list": (list, "a list of schemas; make it one"),
    "named": (dict, "an object of schemas; make it one"),
    "value": (object, "a value"),
}
"""What a part of a schema can be: its type, and that in words."""
_MEMBERS = {"named": "schema", "value": "value"}
_KEYWORDS = {
    **dict.fromkeys(("items", "additionalProperties"), "schema"),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), "list"),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), "named"),
    **dict.fromkeys(("type", "enum", "const", "$ref", "required", "pattern", "format"), "value"),
    **dict.fromkeys(("multipleOf", "minimum", "maximum", "minLength", "maxLength"), "value"),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"), "value"),
    **dict.fromkeys(("minProperties", "maxProperties"), "value"),
}
"""The keywords that llguidance holds answers to, and the kind of each one's value."""
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
) | {"$comment"}
"""They tell people something and hold an answer to nothing."""
_ROOT_ONLY = frozenset(("$schema", "$id"))


def checked(schema: object) -> dict[str, Any]:
    """Return a schema without its annotations, all of whose keywords hold an answer to something.

    Raises:
        UsageError: A keyword is unknown or not supported, or a limit is exceeded.
    """
    if not isinstance(schema, dict):
        raise UsageError("the JSON schema is not an object; give {} to allow any value")
    root = {key: value for key, value in schema.items() if key not in _ROOT_ONLY}
    found: dict[str, Any] = _Check().copy(root, "schema", "#", depth=1)
    if len(json.dumps(found, ensure_ascii=False)) > MAX_CHARACTERS:
        limit = f"{MAX_CHARACTERS:,} characters"
        raise UsageError(f"the JSON schema is longer than {limit}; shorten it")
    return found


class _Check:
    """Copies a schema part by part; some limits are of all parts together."""

    def __init__(self) -> None:
        self._values, self._multiple = 0, 1

    def copy(self, part: Any, kind: str, place: str, *, depth: int) -> Any:
        """Return a part's copy; ``place`` is the JSON pointer to it."""
        self._values += kind in ("schema", "value")
        if self._values > MAX_VALUES:
            raise _refusal(
                f"more than {MAX_VALUES:,} parts, which is the limit ({place[:80]}); ask for less "
                "at once"
            )
        expected, words = _KINDS[kind]
        if not isinstance(part, expected):
            raise _refusal(f"{place} is not {words}")
        if not isinstance(part, dict | list):
            _check_scalar(part, place)
            return part
        if depth > MAX_DEPTH:
            raise _refusal(
                f"nested more than {MAX_DEPTH} deep, which is the limit; flatten it, or let a "
                'schema under "$defs" refer to itself'
            )
        if isinstance(part, list):
            inner = "schema" if kind == "list" else "value"
            return [
                self.copy(one, inner, f"{place}/{i}", depth=depth + 1) for i, one in enumerate(part)
            ]
        if kind == "schema":
            part = {key: value for key, value in part.items() if key not in _ANNOTATIONS}
            self._check_keywords(part, place)
        found = {}
        for name, value in part.items():
            _check_scalar(name, place)
            inner = _KEYWORDS[name] if kind == "schema" else _MEMBERS[kind]
            below = f"{place}/{json.dumps(name[:40])[1:-1]}"  # on one line, whatever the name is
            found[name] = self.copy(value, inner, below, depth=depth + 1)
        return found

    def _check_keywords(self, schema: dict[str, Any], place: str) -> None:
        for key in schema:
            if key not in _KEYWORDS:
                near = difflib.get_close_matches(
                    key[:40], [*_KEYWORDS, *_ANNOTATIONS], n=1, cutoff=0.8
                )
                hint = f'did you mean "{near[0]}"?' if near else "leave it out"
                raise _refusal(f"{place}: {json.dumps(key[:40])} is an unsupported keyword; {hint}")
        types = schema.get("type", "string")
        if "format" in schema and "string" not in (types if isinstance(types, list) else [types]):
            raise _refusal(f'{place}/format: only a "string" can be held to a format; leave it out')
        multiple = schema.get("multipleOf", 1)
        if type(multiple) in (int, float) and 0 < multiple < math.inf:
            digits = Decimal(repr(multiple)).normalize().as_tuple().digits
            self._multiple = math.lcm(self._multiple, int("".join(map(str, digits))))
        if self._multiple > MAX_MULTIPLE:
            raise _refusal(
                f"{place}/multipleOf brings the least common multiple to {self._multiple:,}, and "
                f"the limit is {MAX_MULTIPLE:,}; leave it out"
            )


def _check_scalar(value: Any, place: str) -> None:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise _refusal(
            f"a text at {place} has {len(value):,} characters, and the limit is {MAX_TEXT:,}; "
            "shorten it"
        )
    is_exact = not isinstance(value, int) or abs(value) <= MAX_EXACT
    if not is_exact or (isinstance(value, float) and not math.isfinite(value)):
        raise _refusal(
            f"{place} is {value!r:.40}, which a double cannot hold exactly; keep whole numbers "
            f"within ±{MAX_EXACT:,}"
        )


def _refusal(message: str) -> UsageError:
    return UsageError(f"JSON schema: {message}")
