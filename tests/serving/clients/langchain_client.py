"""`langchain-openai` asks; prints what it was told, in the words of test_langchain.py."""

import asyncio
import json
import os

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

given = {"base_url": os.environ["SERVER"], "model": "head", "max_retries": 0}
chat = ChatOpenAI(**given, max_tokens=20)
question = "Where is C?"


class Flag(BaseModel):
    """Whether that is right."""

    right: bool


async def streamed():
    return "".join([chunk.content async for chunk in chat.astream(question)])


scored = chat.bind(logprobs=True, top_logprobs=2).invoke(question)
counted = [chunk.usage_metadata for chunk in chat.stream(question, stream_usage=True)]
told = {
    "answer": chat.invoke(question).content,
    "tokens": scored.usage_metadata["total_tokens"],
    "stream": "".join(chunk.content for chunk in chat.stream(question)),
    "stream tokens": [usage["total_tokens"] for usage in counted if usage],
    "asynchronous": asyncio.run(streamed()),
    "logprobs": [
        [step["token"], step["logprob"], len(step["top_logprobs"])]
        for step in scored.response_metadata["logprobs"]["content"]
    ],
    "batch": [reply.content for reply in chat.batch(["Where is B?", question])],
    "structured": ChatOpenAI(**given, max_tokens=300)
    .with_structured_output(Flag, method="json_schema")
    .invoke(question)
    .model_dump(),
    "completed": OpenAI(**given, max_tokens=4).invoke("Where is"),
}
print(json.dumps(told))
