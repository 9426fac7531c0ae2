"""Tools that a row offers and calls of them, read from the shapes that data has them in.

Both are kept as JSON texts, as OpenAI keeps arguments: a template prints keys in the order in which
they were given, and what is stored with sorted keys would come back in another.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlx_tune.files.strict_json import StrictJsonError, kind, loads
from mlx_tune.text import quoted

TOOL_FIELDS = ("tools", "functions")
CALL_FIELDS = ("tool_calls", "function_call")

_TOOL = '{"type": "function", "function": {"name": "…", "parameters": {…}}}'
_CALL = '{"type": "function", "function": {"name": "…", "arguments": "{…}"}}'
_ARGUMENTS = 'write an object, such as {"city": "Paris"}, or {} for none'
_FIRST_FIELDS = ("name", "description", "parameters", "strict")
"""Of a tool's function, in the order in which the server has them: templates print it."""


class CallError(ValueError):
    """What is wrong with a tool or a call, and what to do; the message names no place."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        id: By which its result names it; some templates print it.
        name: Of the tool.
        arguments: JSON text of an object.
    """

    id: str
    name: str
    arguments: str

    @property
    def text(self) -> str:
        """The call as JSON on one line, without its id and with its arguments sorted."""
        return _text(self.name, json.loads(self.arguments))

    def to_json(self) -> dict[str, Any]:
        """Return the call as it is stored, in OpenAI's shape."""
        return self._shaped(self.arguments)

    def for_template(self) -> dict[str, Any]:
        """Return the call as chat templates take it: its arguments are values, not text."""
        return self._shaped(json.loads(self.arguments))

    @property
    def parts(self) -> list[str]:
        """What stands in every rendering: its name, and names, texts and numbers of arguments."""
        return [self.name, *_leaves(json.loads(self.arguments))]

    def _shaped(self, arguments: Any) -> dict[str, Any]:
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


def find_calls(text: str) -> list[str]:
    """Return the calls that stand in a text as JSON, each as :attr:`ToolCall.text`, sorted.

    A call is an object with a name and ``arguments``, or ``parameters`` as Llama has them; what
    stands around it, such as the tags of a template, makes no difference.
    """
    found, decoder = [], json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        end = at + 1  # into an object that is no call, one inside may be
        with suppress(ValueError, RecursionError):
            value, after = decoder.raw_decode(text, at)
            arguments = value.get("arguments", value.get("parameters"))
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            if isinstance(value.get("name"), str) and isinstance(arguments, dict):
                found.append(_text(value["name"], arguments))
                end = after
        at = text.find("{", end)
    return sorted(found)


def has_none(value: object) -> bool:
    """Tell whether a field of tools or calls holds none; tables write that as text."""
    return value in (None, [], {}) or (isinstance(value, str) and value.strip() in ("", "[]", "{}"))


def read_tools(value: object, name: str) -> str:
    """Return tools as the JSON text of a list in OpenAI's shape.

    Args:
        value: A list, or its JSON text; each tool in OpenAI's shape or its function alone.
        name: The field that holds it, for messages.

    Raises:
        CallError: It is no such list, or a tool is no function with a name.
    """
    tools = _parsed(value, f'"{name}"')
    if not isinstance(tools, list):
        raise CallError(f'"{name}" is {kind(tools)}, not a list; write [{_TOOL}]')
    shaped = [_tool(tool, f"tool {number}") for number, tool in enumerate(tools, start=1)]
    return json.dumps(shaped, ensure_ascii=False)


def tool_parts(tools: str) -> Iterator[tuple[str, list[str]]]:
    """Yield of each tool its name, and what stands in every rendering: that and its parameters'."""
    for tool in json.loads(tools or "[]"):
        function = tool["function"]
        parameters = function.get("parameters", {}).get("properties", {})
        names = [*parameters] if isinstance(parameters, dict) else []
        yield function["name"], [function["name"], *names]


def holds(rendered: str, parts: list[str]) -> bool:
    """Tell whether a rendered text has all of some texts, as they are or as JSON has them."""
    return all(
        any(
            one in rendered
            for one in (part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1])
        )
        for part in parts
    )


class CallReader:
    """Reads the calls of one conversation, and knows which of them wait for a result.

    Args:
        pass_over: Called with the name of each field that teaches nothing.
    """

    def __init__(self, pass_over: Callable[[str], None]) -> None:
        self._pass_over = pass_over
        self._waiting: list[ToolCall] = []
        self._count = 0

    def read(self, value: object, name: str, *, at: str) -> tuple[ToolCall, ...]:
        """Return the calls of a message.

        Args:
            value: A call or a list of some, or the JSON text of that; each in OpenAI's shape or its
                function alone.
            name: The field that holds it, for messages.
            at: The same as it is named where something in it is passed over.

        Raises:
            CallError: It is no such thing, or a call has no name, or its arguments are no object.
        """
        given = _parsed(value, f'"{name}"')
        several = given if isinstance(given, list) else [given]
        calls = [
            self._call(one, f"call {number}", at) for number, one in enumerate(several, start=1)
        ]
        self._waiting += calls
        return tuple(calls)

    def answer(self, call_id: str | None, name: str | None) -> str:
        """Return the id of the call that a result is of; it waits no longer.

        Args:
            call_id: The id that the result names; None for the first call that waits.
            name: The tool, where no id is named; None for any.

        Raises:
            CallError: No such call waits.
        """
        for call in self._waiting:
            if call.id == call_id or (call_id is None and name in (None, call.name)):
                self._waiting.remove(call)
                return call.id
        which = call_id if call_id is not None else name
        called = "" if which is None else f" {quoted(which)}"
        raise CallError(f"answers no call{called} before it; name its call, or leave the row out")

    def _call(self, given: object, which: str, at: str) -> ToolCall:
        function, others = _function(given, which, _CALL)
        name = _name(function, which)
        self._count += 1
        call_id = others.pop("id", None)
        if call_id is None:
            call_id = f"call{self._count:05}"  # Mistral's template wants nine letters and figures
        elif not isinstance(call_id, str):
            raise CallError(f'the "id" of {which} is {kind(call_id)}, not text; quote it')
        arguments = function.pop("arguments", None)
        its = f'the "arguments" of {quoted(name)}'
        if isinstance(arguments, str) and arguments.strip():
            arguments = _parsed(arguments, its)
        if not isinstance(arguments, dict):
            raise CallError(f"{its} is {kind(arguments)}, not an object; {_ARGUMENTS}")
        for field in others:
            self._pass_over(f"{at}[].{field}")
        for field in function:
            self._pass_over(f"{at}[].function.{field}")
        written = json.dumps(arguments, ensure_ascii=False)
        return ToolCall(id=call_id, name=name, arguments=written)


def _tool(given: object, which: str) -> dict[str, Any]:
    function, others = _function(given, which, _TOOL)
    name = _name(function, which)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        found = f'the "parameters" of {quoted(name)} is {kind(parameters)}, not an object'
        raise CallError(f"{found}; write a JSON schema")
    ordered = {key: function[key] for key in _FIRST_FIELDS if key in function}
    ordered = {"name": name, **ordered, **function}
    shaped = {key: value for key, value in ordered.items() if value is not None}
    return {"type": "function", "function": shaped, **others}


def _function(given: object, which: str, example: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the function of a tool or a call, and the fields beside it but its type."""
    if not isinstance(given, dict):
        raise CallError(f"{which} is {kind(given)}, not an object; write {example}")
    others = dict(given)
    its_type = others.pop("type", None)
    if its_type not in (None, "function"):
        raise CallError(f'{which} has another "type" than "function"; leave it out')
    if "function" not in others:  # the function alone, and perhaps an id
        own = {key: others.pop(key) for key in [*others] if key != "id"}
        return own, others
    function = others.pop("function")
    if not isinstance(function, dict):
        raise CallError(f"the function of {which} is {kind(function)}; write {example}")
    return dict(function), others


def _name(function: dict[str, Any], which: str) -> str:
    """Take the name out of a function."""
    name = function.pop("name", None)
    if name is None:
        raise CallError(f'{which} has no "name"; add it')
    if not isinstance(name, str) or not name.strip():
        found = "empty" if isinstance(name, str) else f"{kind(name)}, not text"
        raise CallError(f'the "name" of {which} is {found}; write that of its function')
    return name


def _parsed(value: object, what: str) -> object:
    """Return a value; of a text what it says as JSON."""
    if not isinstance(value, str):
        return value
    try:
        parsed: object = loads(value.encode())
    except StrictJsonError as error:
        raise CallError(f"{what}: {error}; write it as JSON") from None
    except ValueError:
        raise CallError(f"{what} is text that is no JSON; write it as JSON") from None
    return parsed


def _text(name: str, arguments: dict[str, Any]) -> str:
    ordered = json.loads(json.dumps(arguments, sort_keys=True), parse_float=_number)
    return json.dumps({"name": name, "arguments": ordered}, ensure_ascii=False)


def _number(text: str) -> float:
    """Return a number; 2.0 is 2."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
