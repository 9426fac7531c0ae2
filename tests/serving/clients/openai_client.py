"""PyPI's `openai` asks for everything; prints what it was told, in the words of test_openai.py."""

import json
import os

import openai
from pydantic import BaseModel

url, busy_url = os.environ["SERVER"], os.environ["BUSY_SERVER"]
client = openai.OpenAI(base_url=url, max_retries=0)
chat, complete = client.chat.completions, client.completions
asked = {"model": "head", "messages": [{"role": "user", "content": "Where is C?"}]}
told = {}


class Flag(BaseModel):
    right: bool


def usage(reply):
    return [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens]


def refusal(ask):
    try:
        ask()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.param]
    return None


told["models"] = [model.id for model in client.models.list()]
told["root"] = client.models.retrieve("head").root

whole = chat.create(**asked, max_tokens=20)
told["answer"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, *usage(whole)]
chunks = list(chat.create(**asked, stream=True, stream_options={"include_usage": True}))
told["stream"] = [
    "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    *[c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
    *usage(chunks[-1]),
]
with chat.stream(**asked) as helped:
    for _ in helped:
        pass
    told["helped"] = helped.get_final_completion().choices[0].message.content

scored = chat.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs.content
told["logprobs"] = [[s.token, s.logprob, [t.token for t in s.top_logprobs]] for s in scored]
drawn = {**asked, "temperature": 2, "n": 3, "seed": 7, "max_tokens": 20}
told["drawn"] = [[c.message.content for c in chat.create(**drawn).choices] for _ in range(2)]
told["stopped"] = chat.create(**asked, stop=[" 3"]).choices[0].message.content
turns = [*asked["messages"], whole.choices[0].message, {"role": "user", "content": "Where is A?"}]
told["talked"] = chat.create(model="head", messages=turns, max_tokens=5).choices[0].finish_reason
held = chat.parse(**asked, response_format=Flag, max_tokens=300)
told["parsed"] = held.choices[0].message.parsed.model_dump()
like_json = chat.create(**asked, response_format={"type": "json_object"}, max_tokens=5)
told["json"] = like_json.choices[0].message.content[0]

text = {"model": "head", "prompt": "Where is", "max_tokens": 4}
echoed = complete.create(**text, echo=True, logprobs=1)
told["echoed"] = [
    echoed.choices[0].text,
    echoed.choices[0].logprobs.tokens,
    echoed.choices[0].logprobs.token_logprobs,
    *usage(echoed),
]
told["completed"] = complete.create(**text).choices[0].text
pieces = complete.create(**text, stream=True)
told["streamed"] = "".join(piece.choices[0].text for piece in pieces)
two = complete.create(**{**text, "prompt": ["Where is", "Where"]}).choices
told["two"] = [choice.text for choice in two]
ids = complete.create(**{**text, "prompt": [58, 75, 72, 85, 72, 223, 76, 86]})
told["counted"] = ids.usage.prompt_tokens

stranger = openai.OpenAI(base_url=url, api_key="another", max_retries=0)
told["refused"] = {
    "unknown model": refusal(lambda: chat.create(**{**asked, "model": "gpt-4"})),
    "unknown card": refusal(lambda: client.models.retrieve("gpt-4")),
    "bad value": refusal(lambda: chat.create(**asked, temperature=9)),
    "unknown field": refusal(lambda: chat.create(**asked, reasoning_effort="low")),
    "embeddings": refusal(lambda: client.embeddings.create(model="head", input="x")),
    "too long": refusal(lambda: complete.create(model="head", prompt="x" * 3000)),
    "no token": refusal(lambda: stranger.models.list()),
}

endless = {"logit_bias": {"0": -100, "2": -100}, "max_tokens": 1900}
hasty, patient = (
    openai.OpenAI(base_url=busy_url, max_retries=retries).chat.completions for retries in (0, 99)
)
with hasty.create(**asked, **endless, stream=True) as first:
    next(iter(first))
    told["refused"]["busy"] = refusal(lambda: hasty.create(**asked))
    told["patient"] = patient.create(**asked).choices[0].message.content
print(json.dumps(told))
