"""Checks whether a server does what clients of OpenAI's API expect: a table of checks, and its run.

A check is a function that returns nothing if the server is right, and raises `CheckFailed` if not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import NoneType
from typing import Any

import httpx2
from openai import OpenAI

from mlx_tune.errors import NetworkError
from mlx_tune.workflows.api_client import (
    LIMIT_TOKENS,
    CheckFailed,
    Server,
    get_path,
    read_chunks,
    read_json,
    require,
    shown,
)

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
URL_PROMPT = (  # only a server that changes nothing gives it back as it is
    " ".join(f"Number {number} is {url}, said they." for number, url in enumerate(URLS))
    + f" In brackets ({URLS[3]}) and 在这里{URLS[2]}。{URLS[6]}です\n"
    + f"\tIndented: <{URLS[5]}>…  two  spaces.\n"
)
PROMPT = "The colours of the rainbow are"
TOKEN_IDS = (40, 41, 42, 43)  # every vocabulary has them
FEW_TOKENS = 3
CHAT_TOP, COMPLETION_TOP = 3, 2
TIE = 1e-3  # log-probabilities closer than this are a tie, which rounding may turn
FOREIGN = "evil.example"


def check_usage(body: Any) -> int:
    """Check that the tokens add up, and return how many were generated."""
    prompt, completion, total = (
        get_path(body, f"usage.{name}_tokens", int) for name in ("prompt", "completion", "total")
    )
    require(prompt > 0, f"usage.prompt_tokens is {prompt}")
    require(completion >= 0, f"usage.completion_tokens is {completion}")
    added = f"{prompt} + {completion} is {prompt + completion}"
    require(total == prompt + completion, f"usage.total_tokens is {total}, and {added}")
    return int(completion)


def check_refusal(reply: httpx2.Response, status: int) -> None:
    """Check that a reply is a refusal with this status, and an error with OpenAI's four fields."""
    body = read_json(reply, status=status)
    require(get_path(body, "error.message", str).strip(), "error.message is empty")
    get_path(body, "error.type", str)
    get_path(body, "error.param", str, NoneType)
    get_path(body, "error.code", str, NoneType)


def check_models(reply: httpx2.Response) -> list[Any]:
    """Return the models that a server lists, each with a name of its own."""
    body = read_json(reply)
    get_path(body, "object", "list")
    models = get_path(body, "data", list)
    require(models, "no model is listed")
    for number in range(len(models)):
        for name, wanted in (("id", str), ("created", int), ("owned_by", str), ("object", "model")):
            get_path(body, f"data.{number}.{name}", wanted)
    names = [model["id"] for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{', '.join(twice)} is listed twice")
    return list(models)


def _chat(server: Server) -> None:
    body = server.answer
    _one_choice(body, "chat.completion", "message.content")
    for name in ("id", "model"):
        require(get_path(body, name, str), f"{name} is empty")
    get_path(body, "created", int)
    get_path(body, "choices.0.message.role", "assistant")


def _stream(server: Server) -> None:
    chunks = read_chunks(server.chat(stream=True))
    _check_chunks(chunks)
    text, whole = _joined(chunks), _text(server.answer)
    require(text == whole, f"streamed it says {_brief(text)}, at once {_brief(whole)}")
    ending, wanted = _ending(chunks), _finish(server.answer["choices"][0])
    require(ending == wanted, f'streamed it ends by "{ending}", at once by "{wanted}"')


def _streamed_usage(server: Server) -> None:
    *others, last = read_chunks(server.chat(stream=True, stream_options={"include_usage": True}))
    choices = get_path(last, "choices", list)
    require(not choices, "the last chunk has choices, so it is not the usage's")
    check_usage(last)
    early = sum(chunk.get("usage") is not None for chunk in others)
    require(not early, f"{early} chunks before the last have a usage")
    _check_chunks(others)
    for name in ("prompt_tokens", "completion_tokens"):
        streamed, whole = last["usage"][name], get_path(server.answer, f"usage.{name}", int)
        require(streamed == whole, f"streamed {name} is {streamed}, at once {whole}")


def _max_tokens(server: Server) -> None:
    full = get_path(server.answer, "usage.completion_tokens", int)
    body = read_json(server.chat(max_tokens=FEW_TOKENS))
    for count, most in ((full, LIMIT_TOKENS), (check_usage(body), FEW_TOKENS)):
        require(count <= most, f"{count} tokens for max_tokens {most}")
    if full > FEW_TOKENS + 1:  # one may be the end itself, which some servers count
        ending = _finish(get_path(body, "choices.0", dict))
        require(ending == "length", f'a cut answer ends by "{ending}", not "length"')


def _stop(server: Server) -> None:
    whole = _text(server.answer)
    require(whole, "the answer is empty, so no stop string can be tried")
    stop = whole[len(whole) // 2 :][:3]
    body = read_json(server.chat(stop=[stop]))
    chunks = read_chunks(server.chat(stop=[stop], stream=True))
    at_once = _text(body), _finish(body["choices"][0])
    streamed = _joined(chunks), _ending(chunks)
    for how, (text, ending) in {"at once": at_once, "streamed": streamed}.items():
        right = text == whole[: whole.index(stop)]
        require(right, f"stopped at {_brief(stop)}, {how} it says {_brief(text)}")
        require(ending == "stop", f'a stopped answer ends {how} by "{ending}", not "stop"')


def _seed(server: Server) -> None:
    # At this temperature chance hardly ever repeats itself.
    first, second = (_text(read_json(server.chat(seed=7, temperature=2))) for _ in range(2))
    require(first == second, f"seed 7 says {_brief(first)}, then {_brief(second)}")


def _chat_logprobs(server: Server) -> None:
    body = read_json(server.chat(logprobs=True, top_logprobs=CHAT_TOP))
    entries = get_path(body, "choices.0.logprobs.content", list)
    _check_entries(len(entries), check_usage(body))
    for entry in entries:
        own, top = _logprob(entry, "logprob"), get_path(entry, "top_logprobs", list)
        require(len(top) == CHAT_TOP, f"{len(top)} top_logprobs for top_logprobs {CHAT_TOP}")
        likely = [_logprob(one, "logprob") for one in top if _spelling(one) is not None]
        require(likely == sorted(likely, reverse=True), "top_logprobs are not the likeliest first")
        unlikely = "at temperature 0 a token was said that is not the likeliest"
        require(likely[0] - own < TIE, unlikely)
    spelt, text = b"".join(map(_spelling, entries)).decode(errors="replace"), _text(body)
    require(spelt == text, f"the tokens spell {_brief(spelt)}, the answer is {_brief(text)}")


def _two_answers(server: Server) -> None:
    body = read_json(server.chat(n=2, temperature=1, max_tokens=FEW_TOKENS))
    choices = get_path(body, "choices", list)
    numbers = sorted(get_path(choice, "index", int) for choice in choices)
    require(numbers == [0, 1], f"n of 2 gets choices numbered {numbers}, not [0, 1]")
    for choice in choices:
        get_path(choice, "message.content", str)
        _finish(choice)
    check_usage(body)


def _completion(server: Server) -> None:
    count = _one_choice(read_json(server.complete(PROMPT)), "text_completion", "text")
    require(count <= LIMIT_TOKENS, f"{count} tokens for max_tokens {LIMIT_TOKENS}")


def _token_ids(server: Server) -> None:
    body = read_json(server.complete(TOKEN_IDS))
    _one_choice(body, "text_completion", "text")
    count = body["usage"]["prompt_tokens"]
    require(count == len(TOKEN_IDS), f"{len(TOKEN_IDS)} token ids are counted as {count}")


def _completion_logprobs(server: Server) -> None:
    body = read_json(server.complete(PROMPT, logprobs=COMPLETION_TOP))
    found = get_path(body, "choices.0.logprobs", dict)
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lengths = {name: len(get_path(found, name, list)) for name in names}
    require(len(set(lengths.values())) == 1, f"lists of different lengths: {lengths}")
    _check_entries(lengths["tokens"], check_usage(body))
    for place in range(lengths["tokens"]):
        get_path(found, f"tokens.{place}", str)
        get_path(found, f"text_offset.{place}", int)
        _logprob(found, f"token_logprobs.{place}")
        top = get_path(found, f"top_logprobs.{place}", dict)
        # The token that was drawn comes along where it is none of the likeliest.
        right = 0 < len(top) <= COMPLETION_TOP + 1
        require(right, f"{len(top)} top_logprobs for logprobs {COMPLETION_TOP}")
        for value in top.values():
            _logprob({"top_logprobs": value}, "top_logprobs")
    offsets = found["text_offset"]
    require(offsets == sorted(offsets), f"text_offset goes back: {offsets}")


def _urls(server: Server) -> None:
    body = read_json(server.complete(URL_PROMPT, echo=True, max_tokens=1))
    _check_echo(get_path(body, "choices.0.text", str))


def _streamed_urls(server: Server) -> None:
    chunks = read_chunks(server.complete(URL_PROMPT, echo=True, max_tokens=1, stream=True))
    for chunk in chunks:
        get_path(chunk, "choices.0.finish_reason", str, NoneType)
    _check_echo("".join(get_path(chunk, "choices.0.text", str) for chunk in chunks))


def _refuses(status: int, **fields: Any) -> Callable[[Server], None]:
    return lambda server: check_refusal(server.chat(**fields), status)


def _no_json(server: Server) -> None:
    check_refusal(server.post_chat(b'{"model": "x", "messages": ['), 400)


def _health(server: Server) -> None:
    reply = server.health()
    require(reply.status_code == 200, f"{reply.status_code}, not 200: {shown(reply)}")


def _foreign_host(server: Server) -> None:
    # A page that rebinds DNS sends such a request.
    check_refusal(server.list_models(Host=FOREIGN), 403)


def _foreign_page(server: Server) -> None:
    origin = f"http://{FOREIGN}"
    allowed = server.list_models(Origin=origin).headers.get("Access-Control-Allow-Origin")
    require(allowed is None, f"Access-Control-Allow-Origin is {allowed} for {origin}")


def _one_choice(body: Any, name: str, text: str) -> int:
    """Check that a body of this name is one answer, and return how many tokens it has."""
    get_path(body, "object", name)
    count = len(get_path(body, "choices", list))
    require(count == 1, f"{count} choices, not 1")
    get_path(body, "choices.0.index", 0)
    get_path(body, f"choices.0.{text}", str)
    _finish(body["choices"][0])
    return check_usage(body)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _text(body: Any) -> str:
    return str(get_path(body, "choices.0.message.content", str))


def _check_chunks(chunks: Sequence[Any]) -> None:
    """Check that chunks belong to one answer, begin with the role, and end it once, at the end."""
    for chunk in chunks:
        get_path(chunk, "object", "chat.completion.chunk")
        get_path(chunk, "choices.0.delta", dict)
    count = len({get_path(chunk, "id", str) for chunk in chunks})
    require(count == 1, f"the chunks have {count} ids, not one")
    get_path(chunks[0], "choices.0.delta.role", "assistant")
    _ending(chunks)


def _joined(chunks: Sequence[Any]) -> str:
    deltas = [get_path(chunk, "choices.0.delta", dict) for chunk in chunks]
    pieces = [get_path(delta, "content", str, NoneType) for delta in deltas if "content" in delta]
    return "".join(piece or "" for piece in pieces)


def _ending(chunks: Sequence[Any]) -> str:
    """Return why a streamed answer ended, which its last chunk says and no other."""
    reasons = [get_path(chunk, "choices.0.finish_reason", str, NoneType) for chunk in chunks]
    given = len(reasons) - reasons.count(None)
    require(given == 1, f"{given} chunks have a finish_reason, not one")
    require(reasons[-1] is not None, "text follows the finish_reason")
    return _finish(chunks[-1]["choices"][0])


def _finish(choice: Any) -> str:
    return str(get_path(choice, "finish_reason", "stop", "length"))


def _check_entries(entries: int, count: int) -> None:
    # The token that ends an answer is counted by some and never shown.
    require(entries in (count, count - 1), f"{entries} entries for {count} tokens")


def _logprob(entry: Any, path: str) -> float:
    found = float(get_path(entry, path, float, int))
    require(found <= 0, f"{path} is {found:g}; a log-probability is at most 0")
    return found


def _spelling(entry: Any) -> bytes:
    text, numbers = get_path(entry, "token", str), get_path(entry, "bytes", list, NoneType)
    try:
        return str(text).encode() if numbers is None else bytes(numbers)
    except (TypeError, ValueError) as error:
        message = f"the bytes of {_brief(text)} are no list of numbers below 256"
        raise CheckFailed(message) from error


def _check_echo(text: str) -> None:
    pairs = zip(text, URL_PROMPT, strict=False)
    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    before, wanted, found = URL_PROMPT[max(0, at - 20) : at], URL_PROMPT[at:][:30], text[at:][:30]
    require(at == len(URL_PROMPT), f"after {before!r} comes {found!r}, not {wanted!r}")


MODELS = "models: lists at least one, each with a name of its own"
OPENAI_CHECKS: dict[str, Callable[[Server], None]] = {
    "chat: an answer in shape, its usage adding up": _chat,
    "chat: streamed, it says the same": _stream,
    "chat: include_usage adds one last chunk": _streamed_usage,
    "chat: max_tokens is honoured": _max_tokens,
    "chat: a stop string ends the answer and is not said": _stop,
    "chat: a seed repeats itself": _seed,
    "chat: log-probabilities of each token": _chat_logprobs,
    "chat: two answers at once": _two_answers,
    "completions: a text is gone on with": _completion,
    "completions: token ids are gone on with": _token_ids,
    "completions: log-probabilities of each token": _completion_logprobs,
    "completions: URLs come back whole": _urls,
    "completions: URLs come back whole, streamed": _streamed_urls,
    "errors: an unknown model gets 404": _refuses(404, model="no-such-model-here"),
    "errors: text where a list belongs gets 400": _refuses(400, messages="Hello"),
    "errors: text where a number belongs gets 400": _refuses(400, max_tokens="many"),
    "errors: an unknown field gets 400": _refuses(400, no_such_field=1),
    "errors: a conversation without messages gets 400": _refuses(400, messages=[]),
    "errors: a body that is no JSON gets 400": _no_json,
}
OUR_CHECKS: dict[str, Callable[[Server], None]] = {
    "ours: /health answers": _health,
    "ours: a body over 1 MiB gets 413": _refuses(
        413, messages=[{"role": "user", "content": "x" * 1024**2}]
    ),
    "ours: a foreign Host gets 403": _foreign_host,
    "ours: a foreign page may read nothing": _foreign_page,
}
OUR_OWNER = "mlx-tune"  # of the models that `mlx-tune serve` lists


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one check came out: what the server should do, and what it did instead, or None."""

    name: str
    reason: str | None

    @property
    def passed(self) -> bool:
        """Whether the server does it."""
        return self.reason is None


def check_server(
    client: OpenAI, *, model: str | None, expect_ours: bool, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """Yield the outcome of each check, one after the other.

    Args:
        client: From `connect`.
        model: The model to ask; None for the first that is listed.
        expect_ours: Check what `mlx-tune serve` promises even if the models are not said to be its.
        say: Called with one line about the model that is asked, and about what is left out.

    Raises:
        NetworkError: There is no server at the address; nothing was yielded.
    """
    models: list[Any] = []
    try:
        models = check_models(Server(client, model or "").list_models())
        yield Outcome(name=MODELS, reason=None)
    except CheckFailed as failure:
        yield Outcome(name=MODELS, reason=str(failure))
    if model is None and not models:
        say("note: without a model nothing more can be asked; name one with --model")
        return
    server = Server(client, model if model is not None else models[0]["id"])
    say(f"asking the model {server.model}…")
    with_ours = expect_ours or any(entry["owned_by"] == OUR_OWNER for entry in models)
    for name, check in (OPENAI_CHECKS | (OUR_CHECKS if with_ours else {})).items():
        reason = None
        try:
            check(server)
        except (CheckFailed, NetworkError) as failure:
            reason = str(failure)
        yield Outcome(name=name, reason=reason)
    if not with_ours:
        say("note: what mlx-tune serve alone promises was left out; --ours checks it too")
