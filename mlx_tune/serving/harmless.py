"""Fields that other programs send and that change no answer: taken, and dropped.

Every other field that a request's schema does not have is refused, for it would change what is
answered. `docs/server.md` lists these for people.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ANY: Sequence[Any] | None = None
"""Whatever its value: it is about accounts, storage or caches."""

Harmless = Mapping[str, Sequence[Any] | None]
"""By name, the values that change nothing; :data:`ANY` for all."""

REQUEST: Harmless = {
    **dict.fromkeys(
        (
            "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention",
        ),
        ANY,
    ),
    # What a program sends for "no limit" and "all tokens".
    "max_tokens": [-1],
    "max_completion_tokens": [-1],
    "top_k": [-1],
    # Nothing, written out.
    "stop": [[], ""],
    "tools": [[]],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
    "suffix": [""],
    "best_of": [1],
    "repetition_penalty": [1],
    "typical_p": [1],
    "xtc_probability": [0],
    "min_tokens": [0],
    "ignore_eos": [False],
    "skip_special_tokens": [True],
}  # fmt: skip
MESSAGE: Harmless = {
    "name": ANY,
    "id": ANY,
    "annotations": [[]],
    "tool_calls": [[]],
}
TOOL_CALL: Harmless = {"index": ANY}


def without(fields: Mapping[str, Any], harmless: Harmless) -> dict[str, Any]:
    """Return fields without those that are null, and without those that change nothing."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None
        and not (name in harmless and (harmless[name] is ANY or value in (harmless[name] or ())))
    }
