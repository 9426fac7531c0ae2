"""Completions: of a text, of token ids, with log-probabilities; and URLs, which come back whole."""

from types import NoneType
from typing import Any

from mlx_tune.workflows.api_checks.server import LIMIT_TOKENS, Check, Server
from mlx_tune.workflows.api_checks.shapes import (
    check_finish,
    check_logprob,
    check_usage,
    need,
    pick,
)

_PROMPT = "The colours of the rainbow are"
_IDS = (40, 41, 42, 43)  # every vocabulary has them
_TOP = 2

URLS = (
    "http://localhost:8080/",
    "https://example.com/~user/@name/a-b_c.d",
    "https://example.com/search?q=caf%C3%A9&lang=en&page=2#results",
    "https://example.com/wiki/Rust_(programming_language)#Types",
    "https://example.com/a/b;c=1,2/(d)/[e]?x[]=1&y={z}",
    "http://[2001:db8::1]:8000/path?k=v#f",
    "https://user.example.co.uk:8443/%7Etest/%2F%2e?a=b=c&&d=%25#/route/@1!$'*+",
    "https://example.com/*stars*/__init__/~~tilde~~/`tick`",
    "https://例え.example/パス?ク=エ#リ",
)
TEXT = (
    " ".join(f"Number {number} is {url}, said they." for number, url in enumerate(URLS))
    + f" In brackets ({URLS[3]}) and 在这里{URLS[2]}。{URLS[6]}です\n"
    + f"\tIndented: <{URLS[5]}>…  two  spaces.\n"
)
"""A prompt that only a server which changes nothing gives back as it is."""


def completes(server: Server) -> None:
    """A text is gone on with, in OpenAI's shape, with usage that adds up."""
    body = server.complete(_PROMPT)
    _check_shape(body)
    count = check_usage(body)
    need(count <= LIMIT_TOKENS, f"{count} tokens for max_tokens {LIMIT_TOKENS}")


def completes_ids(server: Server) -> None:
    """Token ids are gone on with, and nothing is put before them."""
    body = server.complete(list(_IDS))
    _check_shape(body)
    check_usage(body)
    count = body["usage"]["prompt_tokens"]
    need(count == len(_IDS), f"{len(_IDS)} token ids are counted as {count}")


def gives_logprobs(server: Server) -> None:
    """The four lists of log-probabilities are as long as each other, an entry a token."""
    body = server.complete(_PROMPT, logprobs=_TOP)
    found = pick(body, "choices.0.logprobs", dict)
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lengths = {name: len(pick(found, name, list)) for name in names}
    need(len(set(lengths.values())) == 1, f"lists of different lengths: {lengths}")
    count = check_usage(body)
    # The token that ends an answer is counted by some and never shown.
    need(lengths["tokens"] in (count, count - 1), f"{lengths['tokens']} entries for {count} tokens")
    for place in range(lengths["tokens"]):
        _check_place(found, place)
    offsets = found["text_offset"]
    need(offsets == sorted(offsets), f"text_offset goes back: {offsets}")


def gives_urls_back(server: Server) -> None:
    """With echo, a text full of URLs stands unchanged before what follows it."""
    body = server.complete(TEXT, echo=True, max_tokens=1)
    _check_echo(str(pick(body, "choices.0.text", str)))


def streams_urls_back(server: Server) -> None:
    """The same, streamed, so that no chunk's edge harms a URL."""
    chunks = server.complete_stream(TEXT, echo=True, max_tokens=1)
    for chunk in chunks:
        pick(chunk, "choices.0.finish_reason", str, NoneType)
    _check_echo("".join(pick(chunk, "choices.0.text", str) for chunk in chunks))


CHECKS = (
    Check("completions: a text is gone on with", completes),
    Check("completions: token ids are gone on with", completes_ids),
    Check("completions: log-probabilities of each token", gives_logprobs),
    Check("completions: URLs come back whole", gives_urls_back),
    Check("completions: URLs come back whole, streamed", streams_urls_back),
)


def _check_shape(body: Any) -> None:
    called = pick(body, "object", str)
    need(called == "text_completion", f'object is "{called}", not "text_completion"')
    need(len(pick(body, "choices", list)) == 1, f"{len(body['choices'])} choices, not 1")
    need(pick(body, "choices.0.index", int) == 0, "choices.0.index is not 0")
    pick(body, "choices.0.text", str)
    check_finish(body["choices"][0])


def _check_place(found: Any, place: int) -> None:
    pick(found, f"tokens.{place}", str)
    pick(found, f"text_offset.{place}", int)
    check_logprob(found, f"token_logprobs.{place}")
    top = pick(found, f"top_logprobs.{place}", dict)
    # The token that was drawn comes along where it is none of the likeliest.
    need(0 < len(top) <= _TOP + 1, f"{len(top)} top_logprobs for logprobs {_TOP}")
    for value in top.values():
        check_logprob({"top_logprobs": value}, "top_logprobs")


def _check_echo(said: str) -> None:
    if said.startswith(TEXT):
        return
    at = next((i for i, (a, b) in enumerate(zip(said, TEXT, strict=False)) if a != b), len(said))
    wanted, came = TEXT[at : at + 30], said[at : at + 30]
    need(False, f"after {TEXT[max(0, at - 20) : at]!r} comes {came!r}, not {wanted!r}")
