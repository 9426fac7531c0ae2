"""Fields that other programs send and that change no answer: taken, and dropped.

Every other field that a request's schema does not have is refused, for it would change what is
answered. `docs/server.md` lists these for people.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ANY: Sequence[Any] | None = None
"""Whatever its value: it is about accounts, storage or caches, or what others' answers had."""

Harmless = Mapping[str, Sequence[Any] | None]
"""By name, the values that change nothing; :data:`ANY` for all."""

REQUEST: Harmless = {
    **dict.fromkeys(
        (
            "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "cache_prompt", "keep_alive",
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
    # How to think or how much to say, in the values that ask for nothing out of the way.
    "reasoning_effort": ["none"],
    "verbosity": ["medium"],
    # What samplers of others do not do.
    "best_of": [1],
    "num_beams": [1],
    "repetition_penalty": [1],
    "repeat_penalty": [1],
    "typical_p": [1],
    "length_penalty": [1],
    "xtc_probability": [0],
    "dry_multiplier": [0],
    "mirostat": [0],
    "top_a": [0],
    "min_tokens": [0],
    "use_beam_search": [False],
    "ignore_eos": [False],
    "include_stop_str_in_output": [False],
    "skip_special_tokens": [True],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
}  # fmt: skip
MESSAGE: Harmless = {
    "name": ANY,
    "id": ANY,
    "cache_control": ANY,
    "provider_specific_fields": ANY,
    "annotations": [[]],
    "tool_calls": [[]],
    "images": [[]],
    "thinking_blocks": [[]],
    "reasoning_details": [[]],
    "reasoning": [""],
    "reasoning_content": [""],
    "refusal": [""],
}
PART: Harmless = {"cache_control": ANY, "annotations": [[]]}
TOOL: Harmless = {"cache_control": ANY}
TOOL_CALL: Harmless = {"index": ANY}
STREAM_OPTIONS: Harmless = {"include_obfuscation": ANY, "continuous_usage_stats": [False]}


def without(fields: Mapping[str, Any], harmless: Harmless) -> dict[str, Any]:
    """Return fields without those that are null, and without those that change nothing."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None
        and not (name in harmless and (harmless[name] is ANY or value in (harmless[name] or ())))
    }
