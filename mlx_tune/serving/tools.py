"""Calls of tools in an answer: told apart from its text as it grows.

Which words begin and end a call, and how one is read, the base's template says; mlx-lm knows the
usual ones, and those of Llama 3, which calls with bare JSON, are here.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.models.tokenizer import Tokenizer

_LLAMA_ASKS = '"parameters": dictionary of argument name'
_LLAMA_START = '{"name":'


@dataclass(frozen=True, kw_only=True)
class ToolWords:
    """How a base calls tools.

    Attributes:
        start: Begins a call.
        end: Ends it; empty where the answer's end does.
        read: Makes name and arguments, or a list of such, of what stands between.
    """

    start: str
    end: str
    read: Callable[[str, Any], Any]

    @staticmethod
    def of(tokenizer: Tokenizer) -> "ToolWords | None":
        """Return the words of a base; None where its template has no tools."""
        wrapper, template = tokenizer.wrapper, tokenizer.template or ""
        if _LLAMA_ASKS in template:
            return ToolWords(start=_LLAMA_START, end="", read=_read_llama)
        if not wrapper.has_tool_calling or "tools" not in template:
            return None
        special = {i for i, token in wrapper.added_tokens_decoder.items() if token.special}
        if special.intersection(wrapper.tool_call_start_tokens):
            return None  # an answer's text leaves special tokens out, so it would not be seen
        return ToolWords(
            start=wrapper.tool_call_start, end=wrapper.tool_call_end, read=wrapper.tool_parser
        )


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a model made.

    Attributes:
        id: Ours, for the answer to it.
        name: Of the function.
        arguments: As JSON.
    """

    id: str
    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """Return it in OpenAI's shape."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, kw_only=True)
class Offered:
    """Tools that an answer may call.

    Attributes:
        words: How the base calls them.
        tools: In OpenAI's shape.
    """

    words: ToolWords
    tools: tuple[Any, ...]

    def reader(self) -> "CallReader":
        """Return what parts one answer into text and calls."""
        return CallReader(self.words, self.tools)


class CallReader:
    """Parts one answer into text and calls."""

    def __init__(self, words: ToolWords, tools: Sequence[Any]) -> None:
        """Begin.

        Args:
            words: How the base calls tools.
            tools: What was offered, in OpenAI's shape.
        """
        self._words, self._tools = words, list(tools)
        self._held, self._is_call = "", False

    def add(self, piece: str, *, is_last: bool) -> tuple[str, list[ToolCall]]:
        """Return the text that may be shown now and the calls that are whole now.

        Args:
            piece: What came of the answer.
            is_last: No more comes: what is held back is a call if it can be read as one, else text.
        """
        self._held += piece
        shown, calls = "", list[ToolCall]()
        while True:
            mark = self._words.end if self._is_call else self._words.start
            before, found, after = self._held.partition(mark) if mark else (self._held, "", "")
            if not found:
                break
            self._held = after
            if self._is_call:
                text, made = self._read(before)
                shown, calls = shown + text, calls + made
            else:
                shown += before
            self._is_call = not self._is_call
        if self._is_call:
            if is_last:
                text, made = self._read(self._held)
                self._held = ""
                return shown + text, calls + made
            return shown, calls
        kept = 0 if is_last else _beginning_of(self._words.start, self._held)
        shown += self._held[: len(self._held) - kept]
        self._held = self._held[len(self._held) - kept :]
        return shown, calls

    def _read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the calls in what stands between the marks; the text itself where it is none."""
        try:
            read = self._words.read(text, self._tools)
            made = [
                ToolCall(
                    id=f"call_{secrets.token_hex(12)}",
                    name=str(one["name"]),
                    arguments=_json(one.get("arguments", {})),
                )
                for one in (read if isinstance(read, list) else [read])
            ]
        except Exception:  # whatever a parser makes of what a model says is no fault of the request
            return self._words.start + text + self._words.end, []
        return "", made


def _read_llama(text: str, tools: Sequence[Any]) -> list[dict[str, Any]]:
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


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _beginning_of(mark: str, text: str) -> int:
    """Return how many last characters of a text could be the beginning of a mark."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
