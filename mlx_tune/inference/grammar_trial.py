"""Compiles a grammar in a process of its own, which may be killed; run as a script.

A JSON schema comes with a request, and a few lines of it can keep the compiler busy for minutes,
which no limit of its own prevents. So each is tried here first. This file imports nothing of the
package.
Standard input: one JSON object; standard output: one JSON object.
"""

import json
import random
import resource
import signal
import sys

import llguidance

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 1.0
STEPS = 100
"""How much of an answer is tried too: some grammars compile at once and then take long steps."""


class Bytes:
    """The smallest vocabulary: every byte a token, and one that ends the text."""

    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode() if isinstance(text, str) else text)


def walk(matcher: llguidance.LLMatcher) -> None:
    """Write the beginning of some answer that the grammar allows."""
    chosen = random.Random(0)
    for _ in range(STEPS):
        if matcher.is_error() or matcher.is_stopped():
            return
        allowed = int.from_bytes(matcher.compute_bitmask(), "little")
        visible = [byte for byte in range(256) if byte > ord(" ") and allowed >> byte & 1]
        if not visible:
            return
        matcher.consume_token(chosen.choice(visible))


def main() -> None:
    """Answer the one job on standard input: what is wrong with its grammar, or nothing."""
    job = json.load(sys.stdin)
    if sys.platform.startswith("linux"):  # macOS does not enforce an address-space limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # counts our own work alone; kills at its end
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    matcher = llguidance.LLMatcher(
        tokenizer, job["grammar"], log_level=0, limits=llguidance.LLParserLimits(**job["limits"])
    )
    walk(matcher)
    json.dump({"error": matcher.get_error() if matcher.is_error() else None}, sys.stdout)


if __name__ == "__main__":
    main()
