"""Writes an Ollama Modelfile: a chat template in Go's language, the stops, greedy answers.

Jinja cannot be translated, but a template that puts fixed texts around each message can be read
off what it renders. Whether it is one is checked, conversation by conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Messages, Tokenizer

_SYSTEM, _FIRST, _ANSWER, _SECOND = "SYSTEM7", "FIRST7", "ANSWER7", "SECOND7"
"""Texts that no template has of its own."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """The fixed texts around messages.

    Attributes:
        start: Of every conversation.
        default: What follows where no system message comes first.
        around: By role, what stands before and behind a message.
        answer: The beginning of the answer to come.
    """

    start: str
    default: str
    around: dict[str, tuple[str, str]]
    answer: str

    def render(self, messages: Messages) -> str:
        """Return a conversation's text up to where the answer begins."""
        has_system = messages[0]["role"] == "system"
        parts = [self.start, "" if has_system else self.default]
        for message in messages:
            before, behind = self.around[message["role"]]
            parts += before, message["content"], behind
        return "".join((*parts, self.answer))

    def go(self) -> str:
        """Return it as a template of Go's, as Ollama reads it."""
        roles = " else ".join(
            f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}{{{{'
            for role, (before, behind) in self.around.items()
        )
        default = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{self.default}{{{{ end }}}}'
        body = f"{{{{ range .Messages }}}}{{{{ {roles} end }}}}{{{{ end }}}}"
        return f"{self.start}{default if self.default else ''}{body}{self.answer}"


def modelfile(tokenizer: Tokenizer, weights: str) -> tuple[str, bool]:
    """Return a Modelfile, and whether it has a template of its own.

    Args:
        tokenizer: The model's, with its chat template.
        weights: The name of the GGUF file beside it.
    """
    found = chat_format(tokenizer)
    lines = [f"FROM ./{weights}"]
    if found is not None:
        lines.append(f'TEMPLATE """{found.go()}"""')
    ends = [tokenizer.decode_raw([number]) for number in sorted(tokenizer.end_ids)]
    lines += [f'PARAMETER stop "{end}"' for end in ends]
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n", found is not None


def chat_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """Return the texts around messages; None where there is no template, or it does more than that.

    A text that starts every conversation is left out where it is the token that llama.cpp adds.
    """
    if tokenizer.template is None:
        return None
    try:
        found = _read_off(tokenizer)
    except (ValueError, InputError):  # a text is not where it should be, or a role is refused
        return None
    texts = [found.start, found.default, found.answer, *sum(found.around.values(), ())]
    if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
        return None
    for messages in _conversations("system" in found.around):
        (wanted,) = tokenizer.render([messages], add_generation_prompt=True)
        if wanted != tokenizer.start_text + found.render(messages):
            return None
    return found


def _read_off(tokenizer: Tokenizer) -> ChatFormat:
    """Read the texts off what a template renders.

    Raises:
        ValueError: They are not where they should be.
        InputError: The template refuses a conversation.
    """

    def rendered(*messages: tuple[str, str], asks: bool) -> str:
        given = [{"role": role, "content": content} for role, content in messages]
        return tokenizer.render([given], add_generation_prompt=asks)[0]

    first, answer, second = ("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND)
    _, behind_user = _split(rendered(first, asks=False), _FIRST)
    before, rest = _split(rendered(first, asks=True), _FIRST)
    to_come = _without_start(rest, behind_user)
    _, behind_answer = _split(rendered(first, answer, asks=False), _ANSWER)
    _, rest = _split(rendered(first, answer, second, asks=True), _FIRST)
    between, rest = _split(rest, _ANSWER)
    before_answer = _without_start(between, behind_user)
    between, _ = _split(rest, _SECOND)
    before_user = _without_start(between, behind_answer)
    start = _without_end(before, before_user)
    around = {
        "user": (before_user, behind_user),
        "assistant": (before_answer, behind_answer),
    }
    added = tokenizer.start_text
    try:
        before, rest = _split(rendered(("system", _SYSTEM), first, asks=True), _SYSTEM)
        between, _ = _split(rest, _FIRST)
        around["system"] = before, _without_end(between, before_user)
    except (ValueError, InputError):  # a model that knows no system messages
        return ChatFormat(
            start=_without_start(start, added), default="", around=around, answer=to_come
        )
    system, behind = around["system"]
    return ChatFormat(
        start="",
        default=_without_start(start, added),
        around={**around, "system": (_without_start(system, added), behind)},
        answer=to_come,
    )


def _split(text: str, mark: str) -> tuple[str, str]:
    before, behind = text.split(mark)
    return before, behind


def _without_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError(text)
    return text[len(start) :]


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise ValueError(text)
    return text[: len(text) - len(end)]


def _conversations(has_system: bool) -> Sequence[Messages]:
    """Return conversations that a translation must render as the template does."""
    turns = [("user", "Who?"), ("assistant", "I."), ("user", "And\nyou?"), ("assistant", "")]
    lists = [turns[:1], turns[:3], [*turns[:2], *turns[:3]]]
    if has_system:
        lists += [[("system", "Be brief."), *one] for one in lists]
    return [[{"role": role, "content": content} for role, content in one] for one in lists]
