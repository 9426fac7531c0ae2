"""What can be wrong with a server: breakages of the fake one, each with the check it must fail."""

from collections.abc import Callable
from itertools import count
from typing import Any

from helpers.fake_api import LIMIT_BYTES, Asked, Break, Reply
from mlx_tune.workflows.check_server import MODELS, OPENAI_CHECKS, OUR_CHECKS

(SHAPE, STREAM, USAGE, CUT, STOP, SEED, CHAT_LOGPROBS, TWICE,
 TEXT, IDS, LOGPROBS, URLS, STREAMED_URLS,
 UNKNOWN, WRONG_LIST, WRONG_NUMBER, FIELD, EMPTY, NO_JSON) = OPENAI_CHECKS  # fmt: skip
HEALTH, LARGE, HOST, CORS = OUR_CHECKS

GONE = object()
FIRST = ("choices", 0)
Change = Callable[[Any], Any]
Which = Callable[[Asked], Any]


def put(value: Any, *path: str | int) -> Change:
    """Change what stands at a path: to a value, by a function of it, or to nothing for GONE."""

    def change(body: Any) -> None:
        *outer, last = path
        for step in outer:
            body = body[step]
        if value is GONE:
            del body[last]
        else:
            body[last] = value(body[last]) if callable(value) else value

    return change


def usage(prompt: int, completion: int, *path: str | int) -> Change:
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    return put({**tokens, "total_tokens": prompt + completion}, *path, "usage")


def models(change: Change) -> Break:
    return whole(lambda asked: asked.path == "/v1/models", change)


def whole(which: Which, change: Change) -> Break:
    """Break the answers to some requests, where they are answered at once."""

    def breaks(asked: Asked, reply: Reply) -> None:
        if reply.status == 200 and reply.chunks is None and which(asked):
            change(reply.json)

    return breaks


def stream(change: Change, which: Which | None = None) -> Break:
    """Break the chunks of some requests; of plain chats unless told."""

    def breaks(asked: Asked, reply: Reply) -> None:
        if reply.chunks is not None and (which or is_plain)(asked):
            change(reply.chunks)

    return breaks


def refusal(which: Which, change: Change) -> Break:
    """Break the whole reply to some requests."""

    def breaks(asked: Asked, reply: Reply) -> None:
        if which(asked):
            change(reply)

    return breaks


def both(*broken: Break) -> Break:
    def breaks(asked: Asked, reply: Reply) -> None:
        for one in broken:
            one(asked, reply)

    return breaks


def is_chat(asked: Asked) -> bool:
    return asked.path == "/v1/chat/completions"


def is_plain(asked: Asked) -> bool:
    """Whether this is the request that others are compared with, streamed or not."""
    special = ("n", "stop", "logprobs", "seed", "stream_options")
    return is_chat(asked) and asked.max_tokens == 24 and not any(map(asked.__getattr__, special))


def is_cut(asked: Asked) -> bool:
    return is_chat(asked) and asked.max_tokens == 3 and not asked.n


def is_text(asked: Asked) -> bool:
    return isinstance(asked.prompt, str) and not asked.echo and not asked.logprobs


def is_ids(asked: Asked) -> bool:
    return isinstance(asked.prompt, list)


def has(name: str) -> Which:
    return lambda asked: getattr(asked, name)


def plain(change: Change) -> Break:
    return whole(is_plain, change)


def entry(change: Change) -> Break:
    """Break the log-probabilities of a chat's second token."""
    return whole(has("top_logprobs"), lambda b: change(b["choices"][0]["logprobs"]["content"][1]))


def legacy(change: Change) -> Break:
    """Break the log-probabilities of a completion."""
    return whole(
        lambda asked: asked.logprobs and not is_chat(asked),
        lambda body: change(body["choices"][0]["logprobs"]),
    )


def unknown_field(change: Change) -> Break:
    return refusal(has("no_such_field"), change)


def error(value: Any, *path: str | int) -> Break:
    """Break the shape of an error."""
    return unknown_field(lambda reply: put(value, "error", *path)(reply.json))


def accept(reply: Reply) -> None:
    reply.status, reply.json = 200, {"fine": True}


def status(number: int) -> Change:
    return lambda reply: setattr(reply, "status", number)


def header(name: str, value: str) -> Change:
    return lambda reply: reply.headers.update({name: value})


def insert(place: int, chunk: Any) -> Change:
    """Put in a chunk: a text as it is, a mapping on top of the first."""
    return lambda chunks: chunks.insert(
        place, chunk if isinstance(chunk, str) else {**chunks[0], **chunk}
    )


NUMBERS = count()


def numbered(text: str) -> str:
    """Return a text that is another each time."""
    return f"{text}{next(NUMBERS)}"


def is_unknown(asked: Asked) -> bool:
    return asked.model == "no-such-model-here"


def is_foreign_page(asked: Asked) -> bool:
    return "origin" in asked.headers


def unspelt(entries: list[Any]) -> list[Any]:
    """Return tokens with two more that say nothing."""
    return [*entries, *[{**entries[0], "token": "", "bytes": []}] * 2]


def say_nothing(chunks: list[Any]) -> None:
    for chunk in chunks[:-1]:
        chunk["choices"][0]["delta"].pop("content", None)


SAID = (*FIRST, "message", "content")
END = (*FIRST, "finish_reason")
LATE = [{"index": 0, "delta": {}, "finish_reason": None}]
ALLOW = "Access-Control-Allow-Origin"

BREAKAGES: dict[str, tuple[str, Break]] = {
    "models: a page, not a list": (MODELS, models(put("page", "object"))),
    "models: none": (MODELS, models(put([], "data"))),
    "models: a number for a name": (MODELS, models(put(5, "data", 1, "id"))),
    "models: no time": (MODELS, models(put(GONE, "data", 0, "created"))),
    "models: a fraction of a time": (MODELS, models(put(1.5, "data", 0, "created"))),
    "models: no owner": (MODELS, models(put(None, "data", 1, "owned_by"))),
    "models: something else": (MODELS, models(put("adapter", "data", 1, "object"))),
    "models: one listed twice": (MODELS, models(put("head", "data", 1, "id"))),
    "models: a fault": (MODELS, refusal(lambda a: a.path == "/v1/models" and "evil" not in
                                        a.headers["host"], status(500))),
    "chat: of another kind": (SHAPE, plain(put("text_completion", "object"))),
    "chat: without a name": (SHAPE, plain(put("", "id"))),
    "chat: without a model": (SHAPE, plain(put(GONE, "model"))),
    "chat: without a time": (SHAPE, plain(put("now", "created"))),
    "chat: two choices for one": (SHAPE, plain(put(lambda c: c * 2, "choices"))),
    "chat: a choice numbered from 1": (SHAPE, plain(put(1, *FIRST, "index"))),
    "chat: an answer of the user's": (SHAPE, plain(put("user", *FIRST, "message", "role"))),
    "chat: wrong sum": (SHAPE, plain(put(55, "usage", "total_tokens"))),
    "stream: other text": (STREAM, stream(put("x", 2, *FIRST, "delta", "content"))),
    "stream: a piece lost": (STREAM, stream(lambda chunks: chunks.pop(3))),
    "stream: no role": (STREAM, stream(put(GONE, 0, *FIRST, "delta", "role"))),
    "stream: another's role": (STREAM, stream(put("user", 0, *FIRST, "delta", "role"))),
    "stream: of another kind": (STREAM, stream(put("chat.completion", 2, "object"))),
    "stream: of two answers": (STREAM, stream(put("answer-2", 2, "id"))),
    "stream: two reasons to end": (STREAM, stream(put("length", 2, *END))),
    "stream: none": (STREAM, stream(put(None, -2, *END))),
    "stream: another one": (STREAM, stream(put("stop", -2, *END))),
    "stream: text after the end": (STREAM, stream(insert(-1, {"choices": LATE}))),
    "stream: no [DONE]": (STREAM, stream(lambda chunks: chunks.pop())),
    "stream: more after [DONE]": (STREAM, stream(lambda chunks: chunks.append(chunks[0]))),
    "stream: no JSON": (STREAM, stream(insert(1, "{no"))),
    "stream: an error": (STREAM, stream(insert(1, {"error": {"message": "out of memory"}}))),
    "stream: a usage unasked": (STREAM, stream(insert(-1, {"choices": []}))),
    "usage: none": (USAGE, stream(lambda chunks: chunks.pop(-2), has("stream_options"))),
    "usage: early": (USAGE, stream(usage(30, 0, 0), has("stream_options"))),
    "usage: another prompt": (USAGE, stream(usage(31, 24, -2), has("stream_options"))),
    "usage: of chunks": (USAGE, stream(usage(30, 12, -2), has("stream_options"))),
    "usage: wrong sum": (USAGE, stream(put(55, -2, "usage", "total_tokens"),
                                       has("stream_options"))),
    "usage: with choices": (USAGE, stream(put(LATE, -2, "choices"), has("stream_options"))),
    "cut: it says stop": (CUT, whole(is_cut, put("stop", *END))),
    "cut: a token too many": (CUT, whole(is_cut, usage(30, 4))),
    "cut: all of them too long": (CUT, both(plain(usage(30, 25)), stream(usage(30, 25, -2),
                                                                       has("stream_options")))),
    "stop: nothing to stop": (STOP, both(plain(put("", *SAID)), stream(say_nothing))),
    "stop: said": (STOP, whole(has("stop"), put(lambda t: t + "gre", *SAID))),
    "stop: its first letter said": (STOP, stream(put("g", -2, *FIRST, "delta", "content"),
                                                 has("stop"))),
    "stop: more lost than that": (STOP, whole(has("stop"), put(lambda t: t[:-1], *SAID))),
    "stop: it says length": (STOP, whole(has("stop"), put("length", *END))),
    "stop: it says length, streamed": (STOP, stream(put("length", -2, *END), has("stop"))),
    "seed: ignored": (SEED, whole(has("seed"), put(numbered, *SAID))),
    "logprobs: none": (CHAT_LOGPROBS, whole(has("top_logprobs"), put(None, *FIRST, "logprobs"))),
    "logprobs: two tokens without": (CHAT_LOGPROBS, whole(has("top_logprobs"), put(
        lambda entries: entries[:-2], *FIRST, "logprobs", "content"))),
    "logprobs: of two tokens more": (CHAT_LOGPROBS, whole(has("top_logprobs"), put(
        unspelt, *FIRST, "logprobs", "content"))),
    "logprobs: a probability": (CHAT_LOGPROBS, entry(put(0.9, "logprob"))),
    "logprobs: no number": (CHAT_LOGPROBS, entry(put(float("nan"), "logprob"))),
    "logprobs: too few": (CHAT_LOGPROBS, entry(lambda e: e["top_logprobs"].pop())),
    "logprobs: likeliest last": (CHAT_LOGPROBS, entry(lambda e: e["top_logprobs"].reverse())),
    "logprobs: not the likeliest": (CHAT_LOGPROBS, entry(put(-2.0, "logprob"))),
    "logprobs: another token's bytes": (CHAT_LOGPROBS, entry(put([65], "bytes"))),
    "logprobs: bytes that are none": (CHAT_LOGPROBS, entry(put([256], "bytes"))),
    "n: one of two": (TWICE, whole(has("n"), lambda body: body["choices"].pop())),
    "n: two of one number": (TWICE, whole(has("n"), put(0, "choices", 1, "index"))),
    "n: no reason to end": (TWICE, whole(has("n"), put(None, "choices", 1, "finish_reason"))),
    "text: like a chat": (TEXT, whole(is_text, put("chat.completion", "object"))),
    "text: too long": (TEXT, whole(is_text, usage(30, 25))),
    "text: numbered from 1": (TEXT, whole(is_text, put(1, *FIRST, "index"))),
    "text: two for one": (TEXT, whole(is_text, put(lambda c: c * 2, "choices"))),
    "text: a reason of its own": (TEXT, whole(is_text, put("eos", *END))),
    "ids: a token before them": (IDS, whole(is_ids, usage(5, 24))),
    "ids: wrong sum": (IDS, whole(is_ids, put(55, "usage", "total_tokens"))),
    "ids: no text": (IDS, whole(is_ids, put(None, *FIRST, "text"))),
    "lists: of different lengths": (LOGPROBS, legacy(lambda found: found["text_offset"].pop())),
    "lists: one longer": (LOGPROBS, legacy(lambda found: found["token_logprobs"].append(-1.0))),
    "lists: a number for a token": (LOGPROBS, legacy(put(5, "tokens", 0))),
    "lists: a fraction of an offset": (LOGPROBS, legacy(put(0.0, "text_offset", 0))),
    "lists: all too short": (LOGPROBS, legacy(lambda found: [v.__delitem__(slice(2)) for v in
                                                             found.values()])),
    "lists: an offset goes back": (LOGPROBS, legacy(put(0, "text_offset", 5))),
    "lists: a probability": (LOGPROBS, legacy(put(0.5, "token_logprobs", 3))),
    "lists: no tokens by name": (LOGPROBS, legacy(put([], "top_logprobs", 0))),
    "lists: none of the likeliest": (LOGPROBS, legacy(put({}, "top_logprobs", 0))),
    "lists: too many": (LOGPROBS, legacy(put(dict.fromkeys("abcd", -1.0), "top_logprobs", 0))),
    "urls: decoded": (URLS, whole(has("echo"), put(lambda t: t.replace("%C3", "Ã"), *FIRST,
                                                   "text"))),
    "urls: a blank lost": (URLS, whole(has("echo"), put(lambda t: t.replace("  ", " "), *FIRST,
                                                        "text"))),
    "urls: no echo": (URLS, whole(has("echo"), put("so", *FIRST, "text"))),
    "urls: broken between chunks": (STREAMED_URLS, stream(put(lambda t: t + "\n", 20, *FIRST,
                                                              "text"), has("echo"))),
    "refusals: an unknown model served": (UNKNOWN, refusal(is_unknown, accept)),
    "refusals: an unknown model's fault": (UNKNOWN, refusal(is_unknown, status(500))),
    "refusals: text for messages": (WRONG_LIST, refusal(lambda a: a.messages == "Hello", accept)),
    "refusals: text for a number": (WRONG_NUMBER, refusal(lambda a: a.max_tokens == "many",
                                                          accept)),
    "refusals: unprocessable": (WRONG_NUMBER, refusal(lambda a: a.max_tokens == "many",
                                                      status(422))),
    "refusals: a field ignored": (FIELD, unknown_field(accept)),
    "refusals: details of its own": (FIELD, error({"detail": "no"})),
    "refusals: a text": (FIELD, error("no")),
    "refusals: no param": (FIELD, error(GONE, "param")),
    "refusals: a number for a code": (FIELD, error(400, "code")),
    "refusals: nothing said": (FIELD, error(" ", "message")),
    "refusals: plain text": (FIELD, unknown_field(header("Content-Type", "text/plain"))),
    "refusals: no messages answered": (EMPTY, refusal(lambda a: a.messages == [], accept)),
    "refusals: no JSON answered": (NO_JSON, refusal(lambda a: is_chat(a) and a.body is None,
                                                    accept)),
    "ours: an engine that stalls": (HEALTH, refusal(lambda a: a.path == "/health", status(503))),
    "ours: a large body read": (LARGE, refusal(lambda a: len(str(a.messages)) > LIMIT_BYTES,
                                               accept)),
    "ours: any host": (HOST, refusal(lambda a: a.headers["host"] == "evil.example", accept)),
    "ours: open to every page": (CORS, refusal(is_foreign_page, header(ALLOW, "*"))),
    "ours: open to who asks": (CORS, refusal(is_foreign_page, header(ALLOW, "http://evil.example"))),
}  # fmt: skip
