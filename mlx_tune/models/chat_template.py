"""Chat templates: their date pinned, rendered in a killable child process."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from mlx_tune.errors import InputError
from mlx_tune.models.rendering import Renderer

PINNED_DATE = "26 Jul 2024"
"""What a template prints for today; the date Llama-3.2's own template falls back to."""

LIMIT_CHARS = 1_000_000
LIMIT_SECONDS = 10.0

_SLAB = 5000  # conversations a child; what it holds must fit its memory
_NOTHING: dict[str, None] = {"tools": None, "documents": None}  # what nobody offers here


def pin_date(template: str) -> str:
    """Return a template that prints one date for ever.

    Llama-3.2's prints today's, so the tokens of a row would drift from week to week.
    """
    pins = ""
    if "date_string" in template:
        pins += f'{{%- set date_string = "{PINNED_DATE}" -%}}'
    if "strftime_now" in template:
        pins += f"{{%- macro strftime_now(format) -%}}{PINNED_DATE}{{%- endmacro -%}}"
    return template if template.startswith(pins) else pins + template


def render(
    template: str,
    conversations: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, str | None],
    limit_seconds: float | None = None,
    renderer: Renderer | None = None,
) -> list[str]:
    """Render conversations with an untrusted template.

    Args:
        template: Jinja source.
        conversations: Each holds ``messages`` and ``add_generation_prompt``.
        variables: The special tokens a template may print, by name.
        limit_seconds: How long all of them may compute, beyond a millisecond each; LIMIT_SECONDS
            when None.
        renderer: Renders them and is kept; None for one of their own.

    Returns:
        One text a conversation.

    Raises:
        InputError: The template fails, runs too long, or prints or takes too much.
    """
    texts: list[str] = []
    for begin in range(0, len(conversations), _SLAB):
        texts += _render_slab(
            template,
            conversations[begin : begin + _SLAB],
            # As transformers calls a template: a token that there is not is not defined.
            {**_NOTHING, **{name: token for name, token in variables.items() if token is not None}},
            limit_seconds or LIMIT_SECONDS,
            renderer,
        )
    return texts


def _render_slab(
    template: str,
    conversations: Sequence[Mapping[str, Any]],
    variables: Mapping[str, str | None],
    limit_seconds: float,
    renderer: Renderer | None,
) -> list[str]:
    job = {
        "template": template,
        "conversations": list(conversations),
        "variables": dict(variables),
        "limit_chars": LIMIT_CHARS,
        "limit_seconds": limit_seconds + len(conversations) / 1000,
    }
    if renderer is None:
        with closing(Renderer()) as own:
            answer = own.ask(job)
    else:
        answer = renderer.ask(job)
    if "texts" not in answer:
        raise InputError(f"chat template: {answer['error']}; use a base model with another")
    return list(answer["texts"])
