"""`litellm` asks; prints what it was told, in the words of test_litellm.py."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches prices when imported

import litellm

given = {"api_base": os.environ["SERVER"], "api_key": os.environ["OPENAI_API_KEY"]}
asked = {
    "model": "openai/head",
    "messages": [{"role": "user", "content": "Where is C?"}],
    "max_retries": 0,
    **given,
}


def refusal(**changes):
    # Its classes are not looked at: which it raises depends on words in OpenAI's own messages.
    try:
        litellm.completion(**{**asked, **changes})
    except Exception as error:
        return getattr(error, "status_code", str(error))
    return None


whole = litellm.completion(**asked)
stream = litellm.completion(**asked, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
scored = litellm.completion(**asked, logprobs=True, top_logprobs=1, temperature=0.5, seed=3, n=2)
again = [*asked["messages"], whole.choices[0].message, *asked["messages"]]
second = litellm.completion(**{**asked, "messages": again}, max_tokens=4)
said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
counted = [usage for chunk in chunks if (usage := getattr(chunk, "usage", None))]
texts = {"model": "text-completion-openai/head", "prompt": "Where is", "max_tokens": 4}
told = {
    "answer": [
        whole.choices[0].message.content,
        whole.choices[0].finish_reason,
        whole.usage.total_tokens,
    ],
    "stream": ["".join(said), counted[-1].total_tokens],
    "second": second.choices[0].finish_reason,
    "scored": [len(choice.logprobs.content) for choice in scored.choices],
    "completed": litellm.text_completion(**texts, **given).choices[0].text,
    "refused": {
        "unknown model": refusal(model="openai/gpt-4"),
        "bad value": refusal(temperature=9),
        "no token": refusal(api_key="another"),
        "unknown field": refusal(extra_body={"reasoning_effort": "low"}),
    },
}
print(json.dumps(told))
