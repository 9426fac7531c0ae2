"""What a request's schema refuses, in one line: where, and what would do."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_tune.serving import harmless
from mlx_tune.serving.errors import ApiError

Problem = Mapping[str, Any]
"""As pydantic tells it: type, loc, msg, input, and perhaps ctx."""

_INPUT = "Input should be "
_HARMLESS = {
    None: harmless.REQUEST,
    "stream_options": harmless.STREAM_OPTIONS,
    "messages": harmless.MESSAGE,
    "content": harmless.PART,
    "tools": harmless.TOOL,
    "tool_calls": harmless.TOOL_CALL,
}
"""By the field that holds them; None for the request itself."""

_UNREAD = {"image_url": "images are", "input_image": "images are", "input_audio": "sounds are",
           "file": "files are", "input_file": "files are", "video_url": "videos are"}  # fmt: skip


def refusal(problems: Sequence[Problem], body: Any) -> ApiError:
    """Return the reply to a request that its schema refuses: the first thing that is wrong.

    Args:
        problems: All that is, in pydantic's words. Of a value that may be of several types there
            are some for each of them.
        body: The request's JSON value.
    """
    nearest = _nearest(problems, body)
    first = nearest[0]
    parts = [part for _, part in _fields(first, body)]
    place = ".".join(map(str, parts)) or None
    code = "invalid_value"
    match first["type"]:
        case "extra_forbidden":
            code, what = "unknown_field", _unknown(parts, body)
        case "literal_error" if parts[-3:-2] == ["content"]:
            unread = _UNREAD.get(str(first["input"]), f"{first['input']!r} is")
            what = f"{unread} not read, only texts are"
        case "literal_error" if first["ctx"]["expected"] == "False":
            what = "only false is supported; leave it out"
        case _:
            what = _expected(nearest)
    return ApiError(f"{place}: {what}" if place else what, param=place, code=code)


def _fields(problem: Problem, body: Any) -> list[tuple[int, str | int]]:
    """Return the parts of a problem's place that lead into the body, with where they stand.

    The others name one of several types that a value may have.
    """
    source, *parts = problem["loc"]
    if source != "body":
        return list(enumerate(parts, start=1))
    found, value = [], body
    for at, part in enumerate(parts, start=1):
        names = range(len(value)) if isinstance(value, list) else value
        if problem["type"] == "missing" and at == len(parts):
            found.append((at, part))
        elif isinstance(names, dict | range) and part in names:
            found.append((at, part))
            value = value[part]
    return found


def _nearest(problems: Sequence[Problem], body: Any) -> list[Problem]:
    """Return the first problem; of a value of several types, that of the type it comes closest to.

    They are several where it comes equally close to several.
    """
    first = problems[0]
    leading = {0, *(at for at, _ in _fields(first, body))}
    branch = next((at for at in range(len(first["loc"])) if at not in leading), None)
    if branch is None:
        return [first]
    begin = first["loc"][:branch]
    same = [p for p in problems if p["loc"][:branch] == begin and len(p["loc"]) > branch]
    of_each = list({one["loc"][branch]: one for one in reversed(same)}.values())[::-1]
    fits = [_fit(one, one["loc"][branch + 1 :]) for one in of_each]
    return [one for one, fit in zip(of_each, fits, strict=True) if fit == max(fits)]


def _fit(problem: Problem, inside: Sequence[str | int]) -> tuple[int, int]:
    """Return how far a value was of a type when something was found wrong with it."""
    if not problem["type"].endswith("_type") or len(inside) > 1:
        return 2, 0  # of that type it is, but for its limits or something deep inside
    return (1, int(inside[0])) if inside and isinstance(inside[0], int) else (0, 0)


def _expected(nearest: Sequence[Problem]) -> str:
    """Return what would do in the place of what is wrong, of every type that was near."""
    found = []
    for problem in nearest:
        is_object = problem["type"] in ("model_type", "model_attributes_type", "dict_type")
        said = str(problem["msg"]).removeprefix("Value error, ")
        found.append(f"{_INPUT}a valid object" if is_object else said)
    first, *others = dict.fromkeys(found)
    return " or ".join([first, *(one.removeprefix(_INPUT) for one in others)])


def _unknown(parts: Sequence[str | int], body: Any) -> str:
    """Return what to do about a field that there is not, or that is taken in other values alone."""
    *above, name = parts
    holder = next((part for part in reversed(above) if isinstance(part, str)), None)
    # Other requests take none of them.
    is_question = isinstance(body, dict) and ("messages" in body or "prompt" in body)
    values = _HARMLESS.get(holder, {}).get(str(name)) if is_question else None
    if values:
        taken = " or ".join(map(json.dumps, values))
        return f"only {taken} is taken, which changes no answer; leave it out"
    return "this server has no such field, and ignores none; leave it out"
