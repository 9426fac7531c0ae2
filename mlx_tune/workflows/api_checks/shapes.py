"""What a server's JSON should look like, and what to say where it does not."""

from types import NoneType
from typing import Any

from mlx_tune.data.strict_json import kind

_NAMES: dict[type, str] = {
    bool: "true or false",
    dict: "an object",
    float: "a fraction",
    int: "a whole number",
    list: "a list",
    NoneType: "null",
    str: "text",
}


class Wrong(Exception):  # noqa: N818 - the server is wrong, and the program goes on
    """A server does not do what it should; the message says what it did, in a line."""


def need(condition: object, otherwise: str) -> None:
    """Raise `Wrong` with a reason unless something holds."""
    if not condition:
        raise Wrong(otherwise)


def pick(value: Any, path: str, *kinds: type) -> Any:
    """Return what stands at a path of parsed JSON, such as ``choices.0.message.content``.

    Args:
        value: Parsed JSON.
        path: Keys and positions with dots between them.
        kinds: The types it may have, exactly: True is no ``int``.

    Raises:
        Wrong: There is no such place, or what stands there is of another kind.
    """
    for count, step in enumerate(steps := path.split("."), start=1):
        inner = _inside(value, step)
        need(inner, f"{'.'.join(steps[:count])} is missing")
        (value,) = inner
    wanted = " or ".join(_NAMES[one] for one in kinds)
    need(type(value) in kinds, f"{path} is {kind(value)}, not {wanted}")
    return value


def check_usage(body: Any) -> int:
    """Check that the tokens add up, and return how many were generated."""
    prompt, completion, total = (
        pick(body, f"usage.{name}_tokens", int) for name in ("prompt", "completion", "total")
    )
    need(prompt > 0, f"usage.prompt_tokens is {prompt}")
    need(completion >= 0, f"usage.completion_tokens is {completion}")
    need(
        total == prompt + completion,
        f"usage.total_tokens is {total}, and {prompt} + {completion} is {prompt + completion}",
    )
    return int(completion)


def check_finish(choice: Any) -> str:
    """Return why an answer ended, which is ``stop`` or ``length``."""
    reason = pick(choice, "finish_reason", str)
    need(reason in ("stop", "length"), f'finish_reason is "{reason}", not "stop" or "length"')
    return str(reason)


def check_logprob(entry: Any, path: str) -> float:
    """Return a log-probability, which is a number and not above 0."""
    found = float(pick(entry, path, float, int))
    need(found <= 0, f"{path} is {found:g}; a log-probability is at most 0")
    return found


def check_error(body: Any) -> None:
    """Check that an error has OpenAI's four fields."""
    need(pick(body, "error.message", str).strip(), "error.message is empty")
    pick(body, "error.type", str)
    pick(body, "error.param", str, NoneType)
    pick(body, "error.code", str, NoneType)


def _inside(value: Any, step: str) -> list[Any]:
    """Return what stands one step further in, alone in a list; none if there is no such step."""
    if isinstance(value, dict):
        return [value[step]] if step in value else []
    if isinstance(value, list) and step.isdigit():
        return value[int(step) : int(step) + 1]
    return []
