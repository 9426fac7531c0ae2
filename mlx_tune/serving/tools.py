"""Tool calls in an answer: separated from its text as it grows.

Which marks begin and end a call, and how one is parsed, depends on the base's chat template; mlx-lm
knows the usual ones, and those of Llama 3, which calls with bare JSON, are here.
"""

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.models.tokenizer import Tokenizer

TOOL_NAME = "[a-zA-Z0-9_-]{1,64}"
"""What a tool may be called; a call of another name is none that any program could carry out."""

_LLAMA_ASKS = '"parameters": dictionary of argument name'
_LLAMA_START = '{"name":'


@dataclass(frozen=True, kw_only=True)
class ToolCallFormat:
    """How a base calls tools.

    Attributes:
        start: Begins a call.
        end: Ends it; empty where the answer's end does.
        parse: Makes name and arguments, or a list of such, of the text between the marks.
    """

    start: str
    end: str
    parse: Callable[[str, Any], Any]

    @staticmethod
    def of(tokenizer: Tokenizer) -> "ToolCallFormat | None":
        """Return the format of a base; None where its template has no tools."""
        wrapper, template = tokenizer.wrapper, tokenizer.template or ""
        if _LLAMA_ASKS in template:
            return ToolCallFormat(start=_LLAMA_START, end="", parse=_parse_llama)
        if not wrapper.has_tool_calling or "tools" not in template:
            return None
        special = {i for i, token in wrapper.added_tokens_decoder.items() if token.special}
        if special.intersection(wrapper.tool_call_start_tokens):
            return None  # an answer's text leaves special tokens out
        return ToolCallFormat(
            start=wrapper.tool_call_start, end=wrapper.tool_call_end, parse=wrapper.tool_parser
        )


@dataclass(frozen=True, kw_only=True)
class ToolSet:
    """Tools, in OpenAI's shape, that an answer may call."""

    format: ToolCallFormat
    tools: tuple[Any, ...]


class ToolCallParser:
    """Splits one answer into text and calls, in OpenAI's shape."""

    def __init__(self, tools: ToolSet) -> None:
        self._format, self._tools = tools.format, list(tools.tools)
        self._held, self._is_call = "", False

    def add(self, text: str, *, is_last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Return the text that may be shown now and the calls that are complete now.

        Args:
            text: What was added to the answer.
            is_last: No more comes: what is held back is a call if it parses as one, else text.
        """
        self._held += text
        shown, calls = "", list[dict[str, Any]]()
        while True:
            mark = self._format.end if self._is_call else self._format.start
            before, found, after = self._held.partition(mark) if mark else (self._held, "", "")
            if not found and not (self._is_call and is_last):
                break
            self._held = after
            if self._is_call:
                text, parsed = self._parse(before)
                shown, calls = shown + text, calls + parsed
            else:
                shown += before
            self._is_call = not self._is_call
        if self._is_call:
            return shown, calls
        rest = len(self._held) - (0 if is_last else _partial_mark(self._format.start, self._held))
        shown, self._held = shown + self._held[:rest], self._held[rest:]
        return shown, calls

    def _parse(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the calls between two marks; the text itself where it is none."""
        try:
            parsed = self._format.parse(text, self._tools)
            return "", [_call(one) for one in (parsed if isinstance(parsed, list) else [parsed])]
        except Exception:  # mlx-lm's parsers raise many kinds on malformed calls
            return self._format.start + text + self._format.end, []


def _parse_llama(text: str, tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the calls that an answer consists of, one after another, perhaps with ; between.

    Raises:
        ValueError: It is no call of a tool that was offered.
    """
    text, names = _LLAMA_START + text, {tool["function"]["name"] for tool in tools}
    calls = []
    while text:
        call, end = json.JSONDecoder().raw_decode(text)
        if call["name"] not in names:
            raise ValueError(call["name"])
        calls.append({"name": call["name"], "arguments": call["parameters"]})
        text = text[end:].lstrip("; \n")
    return calls


def _call(parsed: Any) -> dict[str, Any]:
    """Return a call in OpenAI's shape, as the conversation's next request may hold it.

    Raises:
        ValueError: It has a name that no tool has, or its arguments are no JSON object.
    """
    name, arguments = str(parsed["name"]), parsed.get("arguments")
    if arguments in (None, ""):
        arguments = "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    arguments.encode()  # half a character cannot be sent
    if not re.fullmatch(TOOL_NAME, name) or not isinstance(json.loads(arguments), dict):
        raise ValueError(f"{name!r} with {arguments!r} is no call")
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _partial_mark(mark: str, text: str) -> int:
    """Return how many last characters of a text could be the beginning of a mark."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
