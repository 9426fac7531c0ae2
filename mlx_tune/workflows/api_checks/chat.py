"""Chats: whole, streamed, cut, stopped, seeded, several at once, with log-probabilities."""

from collections.abc import Sequence
from types import NoneType
from typing import Any

from mlx_tune.workflows.api_checks.server import LIMIT_TOKENS, Check, Server
from mlx_tune.workflows.api_checks.shapes import (
    Wrong,
    check_finish,
    check_logprob,
    check_usage,
    need,
    pick,
)

_FEW_TOKENS = 3
_TOP = 3
_NEAR = 1e-3  # log-probabilities closer than this are a tie, which rounding may turn


def answers(server: Server) -> None:
    """A chat gets one answer in OpenAI's shape, with a reason to end and usage that adds up."""
    body = server.answer
    called = pick(body, "object", str)
    need(called == "chat.completion", f'object is "{called}", not "chat.completion"')
    for name in ("id", "model"):
        need(pick(body, name, str), f"{name} is empty")
    pick(body, "created", int)
    need(len(pick(body, "choices", list)) == 1, f"{len(body['choices'])} choices, not 1")
    need(pick(body, "choices.0.index", int) == 0, "choices.0.index is not 0")
    role = pick(body, "choices.0.message.role", str)
    need(role == "assistant", f'the role is "{role}", not "assistant"')
    _text(body)
    check_finish(body["choices"][0])
    check_usage(body)


def streams(server: Server) -> None:
    """A streamed answer is the same text, in chunks of one answer, with one reason to end."""
    chunks = server.chat_stream()
    _check_chunks(chunks)
    said, whole = _joined(chunks), _text(server.answer)
    need(said == whole, f"streamed it says {_brief(said)}, at once {_brief(whole)}")
    ending, wanted = _finish(chunks), check_finish(server.answer["choices"][0])
    need(ending == wanted, f'streamed it ends by "{ending}", at once by "{wanted}"')


def tells_usage(server: Server) -> None:
    """With include_usage the last chunk, and no other, has the usage, and no choices."""
    *others, last = server.chat_stream(stream_options={"include_usage": True})
    need(pick(last, "choices", list) == [], "the last chunk has choices, so it is not the usage's")
    check_usage(last)
    early = [chunk for chunk in others if chunk.get("usage") is not None]
    need(not early, f"{len(early)} chunks before the last have a usage")
    _check_chunks(others)
    for name in ("prompt_tokens", "completion_tokens"):
        streamed, whole = last["usage"][name], pick(server.answer, f"usage.{name}", int)
        need(streamed == whole, f"streamed {name} is {streamed}, at once {whole}")


def honours_max_tokens(server: Server) -> None:
    """An answer has no more tokens than asked for, and says that it was cut."""
    full = pick(server.answer, "usage.completion_tokens", int)
    need(full <= LIMIT_TOKENS, f"{full} tokens for max_tokens {LIMIT_TOKENS}")
    body = server.chat(max_tokens=_FEW_TOKENS)
    count = check_usage(body)
    need(count <= _FEW_TOKENS, f"{count} tokens for max_tokens {_FEW_TOKENS}")
    if full > _FEW_TOKENS + 1:  # one may be the end itself, which some servers count
        ending = check_finish(pick(body, "choices.0", dict))
        need(ending == "length", f'a cut answer ends by "{ending}", not "length"')


def stops(server: Server) -> None:
    """A stop string from the answer's middle ends it there, unsaid, streamed or not."""
    whole = _text(server.answer)
    need(whole, "the answer is empty, so no stop string can be tried")
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    wanted = whole[: whole.index(stop)]
    body = server.chat(stop=[stop])
    chunks = server.chat_stream(stop=[stop])
    for how, said in {"at once": _text(body), "streamed": _joined(chunks)}.items():
        need(said == wanted, f"stopped at {_brief(stop)}, {how} it says {_brief(said)}")
    endings = {"at once": check_finish(body["choices"][0]), "streamed": _finish(chunks)}
    for how, ending in endings.items():
        need(ending == "stop", f'a stopped answer ends {how} by "{ending}", not "stop"')


def repeats(server: Server) -> None:
    """The same seed draws the same answer; at this temperature chance hardly ever does."""
    first, second = (_text(server.chat(seed=7, temperature=2)) for _ in range(2))
    need(first == second, f"seed 7 says {_brief(first)}, then {_brief(second)}")


def gives_logprobs(server: Server) -> None:
    """Each token has a log-probability, its bytes, and the likeliest at its place, best first."""
    body = server.chat(logprobs=True, top_logprobs=_TOP)
    entries = pick(body, "choices.0.logprobs.content", list)
    count = check_usage(body)
    # The token that ends an answer is counted by some and never shown.
    need(len(entries) in (count, count - 1), f"{len(entries)} entries for {count} tokens")
    spelt = b"".join(map(_check_entry, entries)).decode(errors="replace")
    said = _text(body)
    need(spelt == said, f"the tokens spell {_brief(spelt)}, the answer is {_brief(said)}")


def answers_twice(server: Server) -> None:
    """With n of 2 there are two answers, numbered, and both are counted."""
    body = server.chat(n=2, temperature=1, max_tokens=_FEW_TOKENS)
    choices = pick(body, "choices", list)
    numbers = sorted(pick(choice, "index", int) for choice in choices)
    need(numbers == [0, 1], f"n of 2 gets choices numbered {numbers}, not [0, 1]")
    for choice in choices:
        pick(choice, "message.content", str)
        check_finish(choice)
    check_usage(body)


CHECKS = (
    Check("chat: an answer in shape, its usage adding up", answers),
    Check("chat: streamed, it says the same", streams),
    Check("chat: include_usage adds one last chunk", tells_usage),
    Check("chat: max_tokens is honoured", honours_max_tokens),
    Check("chat: a stop string ends the answer and is not said", stops),
    Check("chat: a seed repeats itself", repeats),
    Check("chat: log-probabilities of each token", gives_logprobs),
    Check("chat: two answers at once", answers_twice),
)


def _text(body: Any) -> str:
    return str(pick(body, "choices.0.message.content", str))


def _check_chunks(chunks: Sequence[Any]) -> None:
    """Check that chunks belong to one answer, begin with the role, and end it once, at the end."""
    for chunk in chunks:
        called = pick(chunk, "object", str)
        wanted = "chat.completion.chunk"
        need(called == wanted, f'a chunk\'s object is "{called}", not "{wanted}"')
        pick(chunk, "choices.0.delta", dict)
    names = {pick(chunk, "id", str) for chunk in chunks}
    need(len(names) == 1, f"the chunks have {len(names)} ids, not one")
    role = pick(chunks[0], "choices.0.delta.role", str)
    need(role == "assistant", f'the role is "{role}", not "assistant"')
    _finish(chunks)


def _finish(chunks: Sequence[Any]) -> str:
    """Return why a streamed answer ended, which its last chunk says and no other."""
    reasons = [pick(chunk, "choices.0.finish_reason", str, NoneType) for chunk in chunks]
    given = [reason for reason in reasons if reason is not None]
    need(len(given) == 1, f"{len(given)} chunks have a finish_reason, not one")
    need(reasons[-1] is not None, "text follows the finish_reason")
    return check_finish(chunks[-1]["choices"][0])


def _joined(chunks: Sequence[Any]) -> str:
    return "".join(_said(chunk) for chunk in chunks)


def _said(chunk: Any) -> str:
    delta = pick(chunk, "choices.0.delta", dict)
    return str(pick(delta, "content", str, NoneType) or "") if "content" in delta else ""


def _check_entry(entry: Any) -> bytes:
    """Check one token's log-probabilities; return its bytes."""
    own = check_logprob(entry, "logprob")
    top = pick(entry, "top_logprobs", list)
    need(len(top) == _TOP, f"{len(top)} top_logprobs for top_logprobs {_TOP}")
    for one in top:
        _bytes(one)
    likely = [check_logprob(one, "logprob") for one in top]
    need(likely == sorted(likely, reverse=True), "top_logprobs are not the likeliest first")
    need(likely[0] - own < _NEAR, "at temperature 0 a token was said that is not the likeliest")
    return _bytes(entry)


def _bytes(entry: Any) -> bytes:
    text, numbers = pick(entry, "token", str), pick(entry, "bytes", list, NoneType)
    if numbers is None:
        return str(text).encode()
    try:
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        raise Wrong(f"the bytes of {_brief(text)} are no list of numbers below 256") from error


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
