"""llama.cpp's own server object, asked with the template that it finds in a GGUF file.

Runs in an environment that has xllamacpp, and knows nothing of mlx-tune::

    python llama_cpp_program.py QUESTIONS.json MODEL.gguf [ADAPTER.gguf]

prints the greedy answers as a JSON list.
"""

import json
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    """Ask every question of the file by itself."""
    questions, model, *adapters = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 1024
    params.cpuparams.n_threads = 1
    params.n_parallel = 1
    for path in adapters:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        params.lora_adapters = [adapter]
    server = xllamacpp.Server(params)
    answers = []
    for question in json.loads(Path(questions).read_text()):
        asked = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": 80,
        }
        reply = server.handle_chat_completions(asked)
        answers.append(reply["choices"][0]["message"]["content"])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
