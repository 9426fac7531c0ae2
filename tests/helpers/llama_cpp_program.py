"""llama.cpp's own server object, asked with the template that it finds in a GGUF file.

Runs in an environment that has xllamacpp, and knows nothing of mlx-tune::

    python llama_cpp_program.py answers QUESTIONS.json MODEL.gguf [ADAPTER.gguf]
    python llama_cpp_program.py tokens TEXTS.json MODEL.gguf
    python llama_cpp_program.py nats TOKENS.json MODEL.gguf

prints, as JSON, the greedy answers; the token ids of each text; what each token after the first
costs.
"""

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp


class Server:
    """A model behind llama.cpp's HTTP interface, on loopback."""

    def __init__(self, model: str, adapters: list[str]) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx = 1024
        params.cpuparams.n_threads = 1
        params.n_parallel = 1
        for path in adapters:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = path, 1.0
            params.lora_adapters = [adapter]
        self.server = xllamacpp.Server(params)

    def post(self, path: str, **body: Any) -> Any:
        """Return what the server answers."""
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def answer(self, question: str) -> str:
        """Return the greedy answer to a question that is asked by itself."""
        messages = [{"role": "user", "content": question}]
        asked = {"messages": messages, "temperature": 0.0, "max_tokens": 80}
        return self.server.handle_chat_completions(asked)["choices"][0]["message"]["content"]

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens in it recognised."""
        found = self.post("/tokenize", content=text, add_special=False, parse_special=True)
        return found["tokens"]

    def nats(self, tokens: list[int]) -> list[float]:
        """Return minus the log probability of each token after the first."""
        costs = []
        for i in range(1, len(tokens)):
            reply = self.post(
                "/completion", prompt=tokens[:i], n_predict=1, n_probs=100_000, temperature=0.0
            )
            known = reply["completion_probabilities"][0]["top_logprobs"]
            costs += [-one["logprob"] for one in known if one["id"] == tokens[i]]
        return costs


def main() -> None:
    """Ask, split or measure everything in the file."""
    what, texts, model, *adapters = sys.argv[1:]
    server = Server(model, adapters)
    call = {"answers": server.answer, "tokens": server.tokens, "nats": server.nats}[what]
    print(json.dumps([call(one) for one in json.loads(Path(texts).read_text())]), flush=True)
    os._exit(0)  # its threads wait for requests that never come


if __name__ == "__main__":
    main()
